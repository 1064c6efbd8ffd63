//! The table of stores that are recognised, and how their versions are read.
//!
//! A directory is a store when all marks of a rule are among its entries; the first rule that fits counts, so special
//! ones come first. A file is one when a magic says so.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::guest::databases::StoreFacts;
use crate::guest::databases::postgres::Cluster;
use crate::guest::databases::sqlite::Header;
use crate::guest::files::{Entry, FileKind, Files, beginning};

/// How much is read of a file that says a version, in bytes.
const TEXT_BYTES: usize = 4096;
/// How long a version may be that is taken over, in characters.
const VERSION_CHARS: usize = 60;

/// A version and whatever else is known.
pub type Described = (Option<String>, StoreFacts);

/// Something that must be in a directory.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// A file of that name.
    File(&'static str),
    /// A directory of that name.
    Dir(&'static str),
    /// A file whose name begins so.
    Prefix(&'static str),
    /// A file whose name ends so.
    Suffix(&'static str),
    /// A file whose name begins so and goes on with a hexadecimal number, and whose first bytes are these; a crash may have
    /// left less of it, or nothing.
    Numbered(&'static str, &'static [u8]),
    /// A file at that path below. It is looked for only when all else is there.
    Below(&'static str),
}

impl Mark {
    fn fits(self, entry: &Entry) -> bool {
        let name = entry.name.as_bytes();
        let (kind, fits) = match self {
            Mark::File(wanted) => (FileKind::File, name == wanted.as_bytes()),
            Mark::Dir(wanted) => (FileKind::Directory, name == wanted.as_bytes()),
            Mark::Prefix(wanted) => (FileKind::File, name.starts_with(wanted.as_bytes())),
            Mark::Suffix(wanted) => (FileKind::File, name.ends_with(wanted.as_bytes())),
            Mark::Numbered(wanted, _) => {
                let number = name.strip_prefix(wanted.as_bytes()).unwrap_or_default();
                (FileKind::File, !number.is_empty() && number.iter().all(u8::is_ascii_hexdigit))
            }
            Mark::Below(_) => return false,
        };
        fits && entry.kind == kind
    }

    /// Whether what is in the file bears out its name; whether it is there, of one below.
    fn is_borne_out(self, files: &dyn Files, dir: &Path, name: Option<&OsString>) -> bool {
        match (self, name) {
            (Mark::Below(path), _) => files.read(&dir.join(path), 0, &mut [0]).is_ok(),
            (Mark::Numbered(_, magic), Some(name)) => {
                beginning(files, &dir.join(name), magic.len()).is_ok_and(|bytes| magic.starts_with(&bytes))
            }
            _ => name.is_some(),
        }
    }
}

/// What of the directories in a store belongs to it, and is told with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owned {
    /// Nothing that has a name of its own: others may keep theirs there.
    Nothing,
    /// Stores of this name, which it is made of.
    Only(&'static str),
    /// All of it.
    All,
}

impl Owned {
    /// Whether a store of that name belongs to it. An SQLite database is nobody's: whoever keeps one there will miss it.
    pub fn has(self, name: &str) -> bool {
        match self {
            Owned::Nothing => false,
            Owned::Only(owned) => name == owned,
            Owned::All => name != SQLITE,
        }
    }

    /// The same in a store within.
    pub fn and(self, inner: Owned) -> Owned {
        match (self, inner) {
            (Owned::All, _) | (_, Owned::All) => Owned::All,
            (outer, Owned::Nothing) => outer,
            (_, inner) => inner,
        }
    }
}

/// A store that is a directory.
pub struct DirRule {
    /// Its name.
    pub name: &'static str,
    marks: &'static [Mark],
    /// What is not told by itself.
    pub owns: Owned,
    /// What is known of the directory, whose entries that fit the marks are named in their order.
    pub describe: fn(&dyn Files, &Path, &[Option<OsString>]) -> Described,
}

/// Which marks of a rule were seen so far.
pub struct Matches<'a> {
    /// The rule.
    pub rule: &'a DirRule,
    /// For each mark the name that fits it; the last one by name, where several do.
    pub names: Vec<Option<OsString>>,
}

impl<'a> Matches<'a> {
    /// None yet.
    pub fn of(rule: &'a DirRule) -> Self {
        Matches { rule, names: vec![None; rule.marks.len()] }
    }

    /// Looks at one more entry.
    pub fn take(&mut self, entry: &Entry) {
        for (mark, name) in self.rule.marks.iter().zip(&mut self.names) {
            if mark.fits(entry) && name.as_ref().is_none_or(|name| *name < entry.name) {
                *name = Some(entry.name.clone());
            }
        }
    }

    /// Whether all are there.
    pub fn is_full(&self, files: &dyn Files, dir: &Path) -> bool {
        let marks = || self.rule.marks.iter().zip(&self.names);
        // Nothing is read before all names are there.
        marks().all(|(mark, name)| name.is_some() || matches!(mark, Mark::Below(_)))
            && marks().all(|(mark, name)| mark.is_borne_out(files, dir, name.as_ref()))
    }
}

use Mark::{Below, Dir, File, Numbered, Prefix, Suffix};

/// A store whose directory is its own.
const fn rule(
    name: &'static str,
    marks: &'static [Mark],
    describe: fn(&dyn Files, &Path, &[Option<OsString>]) -> Described,
) -> DirRule {
    DirRule { name, marks, owns: Owned::All, describe }
}

/// One that is known by names which other directories may have as well.
const fn hint(
    name: &'static str,
    marks: &'static [Mark],
    describe: fn(&dyn Files, &Path, &[Option<OsString>]) -> Described,
) -> DirRule {
    DirRule { name, marks, owns: Owned::Nothing, describe }
}

/// One of those that is made of other stores.
const fn made_of(parts: &'static str, name: &'static str, marks: &'static [Mark]) -> DirRule {
    DirRule { name, marks, owns: Owned::Only(parts), describe: nothing }
}

const SQLITE: &str = "SQLite";
const LUCENE: &str = "Lucene index";

/// What is known by the entries of its directory.
pub const DIRECTORIES: &[DirRule] = &[
    rule("PostgreSQL", &[File("PG_VERSION"), Dir("global"), Dir("base")], postgres),
    rule("MariaDB", &[File("ibdata1"), File("aria_log_control")], mariadb),
    rule("MySQL", &[File("ibdata1"), File("mysql.ibd")], mysql),
    rule("MySQL or MariaDB", &[File("ibdata1"), Dir("mysql")], mariadb),
    rule("MongoDB", &[File("WiredTiger"), File("storage.bson")], wired_tiger),
    rule("MongoDB", &[File("WiredTiger"), File("_mdb_catalog.wt")], wired_tiger),
    hint("Redis append-only file", &[Suffix(".aof.manifest")], nothing),
    rule("etcd", &[Dir("snap"), Dir("wal"), Below("snap/db")], nothing),
    hint("RabbitMQ", &[File("cluster_nodes.config")], nothing),
    hint("Kafka", &[File("meta.properties")], kafka),
    hint("ZooKeeper", &[Numbered("snapshot.", b"ZKSN"), Numbered("log.", b"ZKLG")], nothing),
    made_of(LUCENE, "Elasticsearch or OpenSearch", &[Dir("_state"), Dir("indices")]),
    rule(LUCENE, &[Prefix("segments_")], lucene),
    hint("Prometheus", &[Dir("chunks_head"), Dir("wal")], nothing),
    hint("InfluxDB 2", &[File("influxd.bolt"), Dir("engine")], nothing),
    hint("InfluxDB", &[Dir("meta"), Dir("data"), Dir("wal"), Below("meta/meta.db")], nothing),
    hint("ClickHouse", &[Dir("store"), Dir("metadata"), File("uuid")], click_house),
    hint("Cassandra or Scylla", &[Dir("commitlog"), Dir("hints"), Dir("data")], nothing),
    rule("CouchDB", &[File("_dbs.couch"), Dir("shards")], nothing),
    made_of(LUCENE, "Neo4j", &[Dir("databases"), Dir("transactions"), Below("databases/store_lock")]),
    hint("MinIO", &[Dir(".minio.sys"), Below(".minio.sys/format.json")], nothing),
    hint("Microsoft SQL Server", &[File("master.mdf")], nothing),
    rule("RocksDB", &[File("CURRENT"), Prefix("MANIFEST-"), Prefix("OPTIONS-")], rocks_db),
    rule("LevelDB", &[File("CURRENT"), Prefix("MANIFEST-")], nothing),
    rule("WiredTiger", &[File("WiredTiger"), File("WiredTiger.wt")], wired_tiger),
];

/// A store that is a file.
pub struct FileRule {
    /// Its name.
    pub name: &'static str,
    /// What is known of a file that begins so; `None` when it is another one.
    pub recognise: fn(&[u8]) -> Option<Described>,
}

/// What is known by its magic.
pub const FILES: &[FileRule] = &[
    FileRule { name: SQLITE, recognise: sqlite },
    FileRule { name: "Redis dump", recognise: redis },
    FileRule { name: "bbolt", recognise: bbolt },
    FileRule { name: "LMDB", recognise: lmdb },
    FileRule { name: "DuckDB", recognise: duck_db },
    FileRule { name: "H2", recognise: h2 },
];

/// Endings of names that files are looked into for, whatever their length.
const ENDINGS: &[&str] = &[".db", ".db3", ".sqlite", ".sqlite3", ".rdb", ".mdb", ".duckdb", ".bolt"];

/// What is put behind a database's name for SQLite's logs.
const LOGS: [&[u8]; 2] = [b"-wal", b"-journal"];

/// The shortest database there is, in bytes: one page.
const SHORTEST_BYTES: u64 = 512;

/// Whether a file may be a store by itself, seen from outside. Databases are made of pages, so most others can be told by
/// their length; looking into every one takes hours on a slow disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// It is called as stores are.
    Named,
    /// It is as long as stores are.
    Likely,
    /// Neither; one that was cut off looks so.
    Unlikely,
    /// It is too short.
    Impossible,
}

/// What a file looks like.
pub fn looks_like(entry: &Entry) -> Looks {
    let name = entry.name.as_bytes();
    match entry.size_bytes {
        0 => Looks::Impossible,
        _ if ENDINGS.iter().any(|ending| name.ends_with(ending.as_bytes())) => Looks::Named,
        size_bytes if size_bytes.is_multiple_of(SHORTEST_BYTES) => Looks::Likely,
        size_bytes if size_bytes > SHORTEST_BYTES => Looks::Unlikely,
        _ => Looks::Impossible,
    }
}

/// What the database is called whose log has this name.
pub fn base_of_log(name: &OsStr) -> Option<OsString> {
    LOGS.iter()
        .find_map(|ending| name.as_bytes().strip_suffix(*ending))
        .map(|base| OsStr::from_bytes(base).into())
}

fn nothing(_: &dyn Files, _: &Path, _: &[Option<OsString>]) -> Described {
    (None, StoreFacts::None)
}

fn sqlite(head: &[u8]) -> Option<Described> {
    let header = Header::parse(head)?;
    Some((header.version(), StoreFacts::Sqlite(header)))
}

/// `REDIS` and four digits; then fields, of which the version is the first (`rdbSaveInfoAuxFields` in Redis's `rdb.c`).
fn redis(head: &[u8]) -> Option<Described> {
    let rest = head.strip_prefix(b"REDIS").or_else(|| head.strip_prefix(b"VALKEY"))?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(3..=4).contains(&digits) {
        return None;
    }
    let (format, rest) = rest.split_at(digits);
    let field = rest.strip_prefix(b"\xfa\x09redis-ver").or_else(|| rest.strip_prefix(b"\xfa\x0avalkey-ver"));
    let version = field.and_then(|field| {
        let (&length, text) = field.split_first()?;
        plain(text.get(..usize::from(length))?)
    });
    let version = version.or_else(|| plain(format).map(|format| format!("RDB format {format}")));
    Some((version, StoreFacts::None))
}

/// A meta page: its header of 16 bytes, then magic and version (`meta` in bbolt's `internal/common/meta.go`).
fn bbolt(head: &[u8]) -> Option<Described> {
    format_number(head.get(16..)?.strip_prefix(b"\xed\xda\x0c\xed")?)
}

/// A meta page: its header of 16 bytes, then magic and version (`MDB_meta` in LMDB's `mdb.c`), on 64 bits.
fn lmdb(head: &[u8]) -> Option<Described> {
    format_number(head.get(16..)?.strip_prefix(b"\xde\xc0\xef\xbe")?)
}

fn format_number(rest: &[u8]) -> Option<Described> {
    let number = u32::from_le_bytes(*rest.first_chunk()?);
    Some((Some(format!("format {number}")), StoreFacts::None))
}

/// A sum of 8 bytes, the magic, and the storage version (`MainHeader` in DuckDB's `storage_info.hpp`).
fn duck_db(head: &[u8]) -> Option<Described> {
    let number = u64::from_le_bytes(*head.get(8..)?.strip_prefix(b"DUCK")?.first_chunk()?);
    Some((Some(format!("storage format {number}")), StoreFacts::None))
}

fn h2(head: &[u8]) -> Option<Described> {
    head.starts_with(b"H:2,").then_some((None, StoreFacts::None))
}

fn postgres(files: &dyn Files, dir: &Path, _: &[Option<OsString>]) -> Described {
    let cluster = Cluster::read(files, dir);
    (cluster.version.clone(), StoreFacts::Postgres(Box::new(cluster)))
}

/// The upgrade program leaves the version behind; which name it uses depends on that.
fn mariadb(files: &dyn Files, dir: &Path, _: &[Option<OsString>]) -> Described {
    let version = ["mariadb_upgrade_info", "mysql_upgrade_info"].iter().find_map(|name| {
        let bytes = beginning(files, &dir.join(name), TEXT_BYTES).ok()?;
        plain(bytes.split(|&b| b == b'\n').next()?)
    });
    (version, StoreFacts::None)
}

/// The first page of a tablespace has the server's version (`FIL_PAGE_SRV_VERSION` in MySQL 8's `fil0types.h`).
fn mysql(files: &dyn Files, dir: &Path, marks: &[Option<OsString>]) -> Described {
    let page = beginning(files, &dir.join("mysql.ibd"), 64).unwrap_or_default();
    let number = page.get(8..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    match number.filter(|number| (50_000..1_000_000).contains(number)) {
        Some(number) => {
            (Some(format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)), StoreFacts::None)
        }
        None => mariadb(files, dir, marks),
    }
}

/// The second line of the file `WiredTiger` says the version: `WiredTiger 11.2.0: (November 1, 2022)`.
fn wired_tiger(files: &dyn Files, dir: &Path, _: &[Option<OsString>]) -> Described {
    let bytes = beginning(files, &dir.join("WiredTiger"), TEXT_BYTES).unwrap_or_default();
    let line = bytes.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"WiredTiger "));
    let version = line.and_then(|line| plain(line.split(|&b| b == b':').next()?));
    (version.map(|version| format!("storage engine WiredTiger {version}")), StoreFacts::None)
}

fn kafka(files: &dyn Files, dir: &Path, _: &[Option<OsString>]) -> Described {
    let version = value_of(files, &dir.join("meta.properties"), b"version=");
    (version.map(|version| format!("metadata version {version}")), StoreFacts::None)
}

fn click_house(files: &dyn Files, dir: &Path, _: &[Option<OsString>]) -> Described {
    let version = value_of(files, &dir.join("status"), b"Revision: ");
    (version.map(|revision| format!("revision {revision}")), StoreFacts::None)
}

fn rocks_db(files: &dyn Files, dir: &Path, marks: &[Option<OsString>]) -> Described {
    let options = marks.iter().flatten().next_back();
    let version = options.and_then(|name| value_of(files, &dir.join(name), b"  rocksdb_version="));
    (version, StoreFacts::None)
}

/// The header that all of Lucene's files have (`CodecUtil.writeIndexHeader`), and behind it the version, each of whose
/// parts is below 128 and takes one byte (`SegmentInfos.write`).
fn lucene(files: &dyn Files, dir: &Path, marks: &[Option<OsString>]) -> Described {
    let version = marks.iter().flatten().next().and_then(|name| {
        let bytes = beginning(files, &dir.join(name), 128).ok()?;
        // Magic, the name of what it is, the format's version; an id of 16 bytes; a suffix.
        let rest = bytes.strip_prefix(b"\x3f\xd7\x6c\x17\x08segments")?.get(4 + 16..)?;
        let (&suffix, rest) = rest.split_first()?;
        match rest.get(usize::from(suffix)..)? {
            [major, minor, bugfix, ..] if [major, minor, bugfix].iter().all(|&&part| part < 128) => {
                Some(format!("{major}.{minor}.{bugfix}"))
            }
            _ => None,
        }
    });
    (version, StoreFacts::None)
}

/// What follows `key` at the beginning of a line.
fn value_of(files: &dyn Files, path: &Path, key: &[u8]) -> Option<String> {
    let bytes = beginning(files, path, TEXT_BYTES).ok()?;
    plain(bytes.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(key))?)
}

/// A version as it stands in a file, if it looks like one.
fn plain(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    (!text.is_empty() && text.len() <= VERSION_CHARS && is_plain).then(|| text.to_owned())
}
