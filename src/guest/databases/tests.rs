use std::collections::BTreeMap;

use super::*;
use crate::error::Error;
use crate::event::{Cancel, Silent};

/// Files in memory, by path.
#[derive(Default)]
struct Made(BTreeMap<PathBuf, Vec<u8>>);

impl Made {
    fn with(files: &[(&str, &[u8])]) -> Self {
        Made(files.iter().map(|(path, bytes)| (Path::new("/").join(path), bytes.to_vec())).collect())
    }

    fn stores(&self) -> (Vec<(&'static str, String)>, Walked) {
        let mut stores = Vec::new();
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let walked = find(self, Path::new("/"), &run, &mut |store| {
            stores.push((store.name, store.path.display().to_string()));
            Ok(())
        });
        stores.sort();
        (stores, walked.unwrap())
    }
}

impl Files for Made {
    fn list(&self, dir: &Path, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let mut names = BTreeMap::new();
        for (path, bytes) in &self.0 {
            let Ok(rest) = path.strip_prefix(dir) else { continue };
            let mut parts = rest.components();
            let name = parts.next().unwrap().as_os_str().to_owned();
            let is_file = parts.next().is_none();
            names.insert(name, is_file.then_some(bytes.len() as u64));
        }
        for (number, (name, size_bytes)) in names.into_iter().enumerate() {
            let kind = if size_bytes.is_some() { FileKind::File } else { FileKind::Directory };
            let id = (dir.as_os_str().len() as u64, number as u64);
            each(Entry { name, kind, size_bytes: size_bytes.unwrap_or_default(), id })?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let bytes = self.0.get(path).ok_or_else(|| Error::usage("no such file"))?;
        if bytes.starts_with(b"locked") {
            let cause = std::io::Error::from_raw_os_error(nix::libc::ENOKEY);
            return Err(Error::source("encrypted").caused_by(cause));
        }
        let rest = bytes.get(usize::try_from(offset_bytes).unwrap()..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// The beginning of an SQLite database, so many bytes of it.
fn sqlite(bytes: usize) -> Vec<u8> {
    let mut file = sqlite::MAGIC.to_vec();
    file.resize(bytes, 0);
    file
}

/// Files, by path.
type Tree = [(&'static str, &'static [u8])];

#[test]
fn an_sqlite_database_is_found_wherever_it_is() {
    let db = sqlite(4096);
    let zoo: &Tree = &[("d/log.1f", b"ZKLG"), ("d/snapshot.0", b"ZKSN")];
    let cases: &[(&Tree, &[&str])] = &[
        (&[("d/log.1", b"x"), ("d/snapshot.json", b"y")], &[]),
        (&[("d/log.1", b"x"), ("d/snapshot.1", b"y")], &[]),
        (zoo, &["ZooKeeper"]),
        (&[("d/log.1f", b"ZKLG"), ("d/snapshot.20", b"")], &["ZooKeeper"]),
        (&[("d/master.mdf", b"x")], &["Microsoft SQL Server"]),
        (&[("d/meta.properties", b"version=1\n")], &["Kafka"]),
        (&[("d/_state/x", b""), ("d/indices/x", b"")], &["Elasticsearch or OpenSearch"]),
        (&[("d/commitlog/x", b""), ("d/hints/x", b""), ("d/data/x", b"")], &["Cassandra or Scylla"]),
        (&[("d/chunks_head/x", b""), ("d/wal/x", b"")], &["Prometheus"]),
        (&[("d/.minio.sys/format.json", b"{}")], &["MinIO"]),
        (&[("d/PG_VERSION", b"15\n"), ("d/global/x", b""), ("d/base/x", b"")], &["PostgreSQL"]),
        (&[("d/CURRENT", b""), ("d/MANIFEST-1", b"")], &["LevelDB"]),
    ];
    for (files, names) in cases {
        let beside: &[(&str, &[u8])] = &[("d/app.sqlite", &db), ("d/sub/app.db", &db)];
        let (stores, _) = Made::with(&[files, beside].concat()).stores();
        let mut expected: Vec<_> = names.iter().copied().chain(["SQLite", "SQLite"]).collect();
        expected.sort_unstable();
        let found: Vec<_> = stores.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, expected, "{files:?}: {stores:?}");
    }
}

#[test]
fn what_a_store_is_made_of_is_not_told_by_itself() {
    let segments: &[u8] = b"\x3f\xd7\x6c\x17\x08segments";
    let lucene = [("es/indices/a/0/index/segments_3", segments)];
    let (stores, _) = Made::with(&lucene).stores();
    assert_eq!(stores, [("Lucene index", "/es/indices/a/0/index".to_owned())]);
    let (stores, _) = Made::with(&[&lucene[..], &[("es/_state/x", b"")]].concat()).stores();
    assert_eq!(stores, [("Elasticsearch or OpenSearch", "/es".to_owned())]);
    // Pages of a cluster may begin like anything.
    let cluster: &[(&str, &[u8])] = &[("PG_VERSION", b"15"), ("global/1", b""), ("base/1/2", &sqlite(8192))];
    assert_eq!(Made::with(cluster).stores().0, [("PostgreSQL", "/".to_owned())]);
}

#[test]
fn a_database_that_was_cut_off_is_found_by_its_log_or_its_beginning() {
    let cut = sqlite(5001);
    let with_log = Made::with(&[("a", &cut), ("a-wal", b"x"), ("b", &sqlite(300))]);
    let (stores, walked) = with_log.stores();
    assert_eq!((stores, walked.passed_over), (vec![("SQLite", "/a".to_owned())], 0));
    // Of very many files that do not look like databases, not all are looked into.
    let text = vec![b'x'; 700];
    let mut many = with_log;
    for number in 0..MAX_UNLIKELY + 5 {
        many.0.insert(PathBuf::from(format!("/text/{number:07}")), text.clone());
    }
    many.0.insert(PathBuf::from("/text/z"), cut.clone());
    many.0.insert(PathBuf::from("/text/z-journal"), b"x".to_vec());
    let (stores, walked) = many.stores();
    assert_eq!((stores.len(), walked.passed_over, walked.cut_short), (2, 5, false), "{stores:?}");
}

#[test]
fn what_lacks_a_key_is_told_apart_from_what_is_unreadable() {
    let locked = b"locked".repeat(512);
    let (stores, walked) = Made::with(&[("a.db", &locked), ("b", &sqlite(512))]).stores();
    assert_eq!((stores.len(), walked.unreadable.count, walked.encrypted.count), (1, 0, 1));
    assert_eq!(walked.encrypted.first[0].0, Path::new("/a.db"));
}
