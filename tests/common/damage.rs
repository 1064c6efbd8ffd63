//! The damage builder: breaks a good replica in every named way. One place, used by the tests of all commands.
//!
//! It expects a directory with a head and at least two snapshots below it, such as `03-explicit-zeros`.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::{Value, json};

/// A replica directory that is about to be broken.
pub struct Victim {
    pub dir: PathBuf,
    /// The chain, head first, by file name.
    pub chain: Vec<String>,
}

impl Victim {
    /// Takes a replica by its directory and what the manifest says of it.
    pub fn new(dir: PathBuf, truth: &Value) -> Self {
        let chain = truth["chain_head_first"].as_array().expect("chain");
        let chain: Vec<_> = chain.iter().map(|name| name.as_str().expect("name").to_owned()).collect();
        assert!(chain.len() >= 3, "the damage builder needs a head and two snapshots");
        Victim { dir, chain }
    }

    pub fn head(&self) -> &str {
        &self.chain[0]
    }

    /// The layer below the head.
    pub fn middle(&self) -> &str {
        &self.chain[1]
    }

    pub fn lowest(&self) -> &str {
        self.chain.last().expect("chain")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn meta_path(&self, disk: &str) -> PathBuf {
        self.dir.join(format!("{disk}.meta"))
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("write");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("remove");
    }

    /// Changes members of a metadata file, and keeps the rest.
    pub fn edit(&self, path: &Path, changes: Value) {
        let mut json: Value = serde_json::from_slice(&fs::read(path).expect("read")).expect("json");
        for (key, value) in changes.as_object().expect("object") {
            json[key] = value.clone();
        }
        fs::write(path, format!("{json}\n")).expect("write");
    }

    pub fn edit_volume(&self, changes: Value) {
        self.edit(&self.path("volume.meta"), changes);
    }

    pub fn edit_layer(&self, disk: &str, changes: Value) {
        self.edit(&self.meta_path(disk), changes);
    }

    /// A snapshot that is not on the chain.
    pub fn add_branch(&self, name: &str, meta: &str) {
        self.write(&format!("volume-snap-{name}.img"), "");
        self.write(&format!("volume-snap-{name}.img.meta"), meta);
    }

    fn open(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.path(name)).expect("open")
    }

    /// Writes zeros into every hole of a layer, as a copy that does not know holes does.
    pub fn fill_holes(&self, name: &str) {
        let bytes = fs::read(self.path(name)).expect("read");
        self.remove(name);
        self.write(name, bytes);
    }

    /// Preallocates a range of a layer without writing to it.
    pub fn preallocate(&self, name: &str, offset: i64, len: i64) {
        fallocate(self.open(name), FallocateFlags::empty(), offset, len).expect("fallocate");
    }
}

/// How a break shows when the head is opened without any flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// It opens.
    Yes,
    /// The source is unusable: exit 3.
    No,
    /// A guard refuses: exit 5.
    Refused,
}

/// One way to break a replica: its name, what does it, the finding that must come of it, and whether it opens.
pub struct Damage {
    pub name: &'static str,
    pub inflict: fn(&Victim),
    pub code: &'static str,
    pub opens: Opens,
}

const fn damage(name: &'static str, code: &'static str, opens: Opens, inflict: fn(&Victim)) -> Damage {
    Damage { name, inflict, code, opens }
}

/// Every way, in no particular order.
pub const ALL: &[Damage] = &[
    damage("volume.meta missing", "volume-meta-missing", Opens::No, |v| v.remove("volume.meta")),
    damage("volume.meta empty", "volume-meta-empty", Opens::No, |v| v.write("volume.meta", "")),
    damage("volume.meta white space", "volume-meta-empty", Opens::No, |v| v.write("volume.meta", " \n\t")),
    damage("volume.meta truncated", "volume-meta-truncated", Opens::No, |v| {
        v.write("volume.meta", r#"{"Size":16777216,"Head":"volume-he"#)
    }),
    damage("volume.meta NUL", "volume-meta-nul", Opens::No, |v| v.write("volume.meta", [0; 200])),
    damage("volume.meta foreign", "volume-meta-foreign", Opens::No, |v| v.write("volume.meta", "kind: Pod")),
    damage("volume.meta another JSON", "volume-meta-foreign", Opens::No, |v| {
        v.write("volume.meta", "{\"a\":1}")
    }),
    damage("volume.meta of 100 MB", "volume-meta-foreign", Opens::No, |v| {
        v.open("volume.meta").set_len(100_000_000).expect("truncate")
    }),
    damage("volume.meta a link", "volume-meta-foreign", Opens::No, |v| {
        fs::rename(v.path("volume.meta"), v.dir.with_extension("moved")).expect("move");
        symlink(v.dir.with_extension("moved"), v.path("volume.meta")).expect("link")
    }),
    damage("volume.meta with garbage after it", "trailing-garbage", Opens::Yes, |v| {
        let text = fs::read_to_string(v.path("volume.meta")).expect("read");
        v.write("volume.meta", format!("{text}}}garbage"))
    }),
    damage("volume.meta keys in another case", "keys-other-case", Opens::Yes, |v| {
        let text = fs::read_to_string(v.path("volume.meta")).expect("read");
        v.write("volume.meta", text.replace("\"Size\"", "\"size\"").replace("\"Head\"", "\"HEAD\""))
    }),
    damage("volume.meta key twice", "keys-repeated", Opens::Yes, |v| {
        let text = fs::read_to_string(v.path("volume.meta")).expect("read");
        v.write("volume.meta", text.replacen('{', "{\"Size\":4096,", 1))
    }),
    damage("volume.meta of an old engine", "old-field-names", Opens::Yes, |v| {
        v.edit_volume(json!({"BackingFileName": ""}))
    }),
    damage("a head that is not there", "head-missing", Opens::No, |v| {
        v.edit_volume(json!({"Head": "volume-head-009.img"}))
    }),
    damage("a head outside", "unsafe-name", Opens::No, |v| {
        v.edit_volume(json!({"Head": "../volume-head-002.img"}))
    }),
    damage("an absolute head", "unsafe-name", Opens::No, |v| v.edit_volume(json!({"Head": "/etc/passwd"}))),
    damage("a head with NUL", "unsafe-name", Opens::No, |v| v.edit_volume(json!({"Head": "volume\u{0}"}))),
    damage("a parent outside", "unsafe-name", Opens::No, |v| {
        v.edit_layer(v.middle(), json!({"Parent": "../../etc/passwd"}))
    }),
    damage("size 0", "size-invalid", Opens::No, |v| v.edit_volume(json!({"Size": 0}))),
    damage("size negative", "size-invalid", Opens::No, |v| v.edit_volume(json!({"Size": -4096}))),
    damage("size 2^63-1", "size-invalid", Opens::No, |v| v.edit_volume(json!({"Size": i64::MAX}))),
    damage("size odd", "size-invalid", Opens::No, |v| v.edit_volume(json!({"Size": 16_777_217}))),
    damage("size not in sectors", "size-unaligned", Opens::Yes, |v| {
        v.edit_volume(json!({"Size": 16_776_704}))
    }),
    damage("size smaller than the layers", "layer-past-end", Opens::Yes, |v| {
        v.edit_volume(json!({"Size": 8_388_608}))
    }),
    damage("head shorter than the volume", "head-size-differs", Opens::Yes, |v| {
        v.edit_volume(json!({"Size": 33_554_432}))
    }),
    damage("head data missing", "head-data-missing", Opens::No, |v| v.remove(v.head())),
    damage("layer data missing", "layer-data-missing", Opens::No, |v| v.remove(v.middle())),
    damage("layer data missing above a removed parent of two", "layer-data-missing", Opens::No, |v| {
        // A purge folds nothing into a parent with two children, so the data is not in it.
        v.edit_layer(v.lowest(), json!({"Removed": true}));
        v.add_branch("b", &json!({"Parent": v.lowest()}).to_string());
        v.remove(v.middle())
    }),
    damage(
        "layer data missing above a removed parent that nothing was folded into",
        "layer-data-missing",
        Opens::No,
        |v| {
            v.edit_layer(v.lowest(), json!({"Removed": true}));
            v.edit_layer(v.middle(), json!({"Created": "2099-01-01T00:00:00Z"}));
            v.remove(v.middle())
        },
    ),
    damage("volume.meta cut off, and it was being rebuilt", "volume-meta-truncated", Opens::No, |v| {
        let size = fs::metadata(v.path(v.head())).expect("head").len();
        v.write("volume.meta", format!(r#"{{"Size":{size},"Rebuilding":true,"Head":"{}","Dir"#, v.head()))
    }),
    damage("layer data missing in a copy without its times", "layer-data-missing", Opens::No, |v| {
        // What other snapshots say changed later, too, so nothing says that a purge changed the parent.
        v.edit_layer(v.lowest(), json!({"Removed": true}));
        v.remove(v.middle());
        let (old, older) = ("2001-01-02T00:00:00Z", "2001-01-01T00:00:00Z");
        v.add_branch("y", &json!({"Name": "n", "Parent": "volume-snap-x.img", "Created": old}).to_string());
        v.add_branch("x", &json!({"Name": "n", "Parent": "", "Created": older}).to_string());
        v.write("volume-snap-x.img", "copied just now")
    }),
    damage(
        "layer data missing in a copy without its times, with nothing that shows it",
        "layer-data-missing",
        Opens::No,
        |v| {
            // As copied, one after the other.
            let before = SystemTime::now() - Duration::from_secs(1);
            v.open(v.lowest()).set_modified(before).expect("time");
            v.edit_layer(v.lowest(), json!({"Removed": true}));
            v.remove(v.middle())
        },
    ),
    damage("head made anew by an engine", "head-data-empty", Opens::Yes, |v| v.write(v.head(), "")),
    damage("layer made anew by an engine", "layer-data-empty", Opens::Yes, |v| v.write(v.middle(), "")),
    damage("lowest layer made anew by an engine", "layer-data-empty", Opens::Yes, |v| {
        v.write(v.lowest(), "")
    }),
    damage("layer cut short", "layer-cut-short", Opens::Yes, |v| {
        v.open(v.middle()).set_len(4096).expect("truncate")
    }),
    damage("half rebuilt, and the flag is lost", "chain-ends-early", Opens::Yes, |v| {
        v.edit_layer(v.middle(), json!({"Parent": ""}))
    }),
    damage("branch data missing", "branch-data-missing", Opens::Yes, |v| {
        v.add_branch("b", &json!({"Name": "volume-head-001.img", "Parent": v.lowest()}).to_string());
        v.remove("volume-snap-b.img")
    }),
    damage("head metadata missing", "layer-meta-missing", Opens::No, |v| {
        v.remove(&format!("{}.meta", v.head()))
    }),
    damage("layer metadata missing", "layer-meta-missing", Opens::No, |v| {
        v.remove(&format!("{}.meta", v.middle()))
    }),
    damage("layer missing", "parent-missing", Opens::No, |v| {
        v.remove(v.middle());
        v.remove(&format!("{}.meta", v.middle()))
    }),
    damage("layer metadata empty", "layer-meta-damaged", Opens::No, |v| {
        v.write(&format!("{}.meta", v.middle()), "")
    }),
    damage("layer metadata NUL", "layer-meta-damaged", Opens::No, |v| {
        v.write(&format!("{}.meta", v.head()), [0; 150])
    }),
    damage("layer metadata huge", "layer-meta-damaged", Opens::No, |v| {
        v.write(&format!("{}.meta", v.lowest()), vec![b' '; 1 << 20])
    }),
    damage("stray metadata empty", "stray-meta-damaged", Opens::Yes, |v| {
        v.write("volume-snap-x.img.meta", "")
    }),
    damage("metadata without parent", "meta-without-parent", Opens::Yes, |v| {
        v.write(&format!("{}.meta", v.lowest()), r#"{"Name":"volume-head-000.img"}"#)
    }),
    damage("image without metadata", "image-without-meta", Opens::Yes, |v| {
        v.write("volume-snap-x.img", "data")
    }),
    damage("cycle", "chain-cycle", Opens::No, |v| v.edit_layer(v.lowest(), json!({"Parent": v.middle()}))),
    damage("own parent", "self-parent", Opens::No, |v| {
        v.edit_layer(v.lowest(), json!({"Parent": v.lowest()}))
    }),
    damage("broken branch", "branch-broken", Opens::Yes, |v| {
        v.add_branch("x", r#"{"Parent":"volume-snap-gone.img"}"#);
        v.add_branch("y", r#"{"Parent":"volume-snap-x.img"}"#)
    }),
    damage("branch in a cycle", "branch-broken", Opens::Yes, |v| {
        v.add_branch("x", r#"{"Parent":"volume-snap-y.img"}"#);
        v.add_branch("y", r#"{"Parent":"volume-snap-x.img"}"#)
    }),
    damage("chain too long", "chain-too-long", Opens::No, |v| {
        for i in 0..300 {
            let parent = if i == 0 { String::new() } else { format!("volume-snap-l{}.img", i - 1) };
            v.add_branch(&format!("l{i}"), &json!({"Parent": parent}).to_string());
        }
        v.edit_layer(v.lowest(), json!({"Parent": "volume-snap-l299.img"}))
    }),
    damage("a layer that is a link", "layer-data-missing", Opens::No, |v| {
        fs::rename(v.path(v.middle()), v.dir.with_extension("moved")).expect("move");
        symlink(v.dir.with_extension("moved"), v.path(v.middle())).expect("link")
    }),
    damage("a layer that is a FIFO", "layer-data-missing", Opens::No, |v| {
        v.remove(v.middle());
        nix::unistd::mkfifo(&v.path(v.middle()), nix::sys::stat::Mode::S_IRUSR).expect("mkfifo")
    }),
    damage("revision counter empty", "revision-counter-unreadable", Opens::Yes, |v| {
        v.write("revision.counter", "")
    }),
    damage("revision counter NUL", "revision-counter-unreadable", Opens::Yes, |v| {
        v.write("revision.counter", [0; 4096])
    }),
    damage("rebuilding", "rebuilding", Opens::Refused, |v| v.edit_volume(json!({"Rebuilding": true}))),
    damage("dirty", "dirty", Opens::Yes, |v| v.edit_volume(json!({"Dirty": true}))),
    damage("given up", "engine-error", Opens::Yes, |v| v.edit_volume(json!({"Error": "failed to get size"}))),
    damage("encrypted by flag", "encrypted", Opens::Yes, |v| v.edit_volume(json!({"Encrypted": true}))),
    damage("encrypted by header", "encrypted", Opens::Yes, |v| {
        v.open(v.head()).write_all_at(b"LUKS\xba\xbe\0\x02", 0).expect("write")
    }),
    damage("backing image gone", "backing-missing", Opens::No, |v| {
        v.edit_volume(
            json!({"BackingFilePath": "/host/var/lib/longhorn/backing-images/none-12345678/backing"}),
        )
    }),
    damage("backing image of another volume", "backing-larger", Opens::Yes, |v| {
        let images = v.dir.join("../backing-images/other-12345678");
        fs::create_dir_all(&images).expect("directory");
        File::create(images.join("backing")).and_then(|f| f.set_len(1 << 30)).expect("backing image");
        v.edit_volume(
            json!({"BackingFilePath": "/host/var/lib/longhorn/backing-images/other-12345678/backing"}),
        );
    }),
    damage("backing image without data", "backing-blank", Opens::Yes, |v| {
        let images = v.dir.join("../backing-images/blank-12345678");
        fs::create_dir_all(&images).expect("directory");
        File::create(images.join("backing")).and_then(|f| f.set_len(1 << 20)).expect("backing image");
        v.edit_volume(
            json!({"BackingFilePath": "/host/var/lib/longhorn/backing-images/blank-12345678/backing"}),
        );
    }),
    damage("backing image of no bytes", "unreadable", Opens::No, |v| {
        let images = v.dir.join("../backing-images/gone-12345678");
        fs::create_dir_all(&images).expect("directory");
        File::create(images.join("backing")).expect("backing image");
        v.edit_volume(
            json!({"BackingFilePath": "/host/var/lib/longhorn/backing-images/gone-12345678/backing"}),
        );
    }),
    damage("backing image elsewhere", "backing-missing", Opens::No, |v| {
        v.edit_volume(json!({"BackingFilePath": "/x/backing-images/../../etc/passwd"}))
    }),
    damage("removed layer", "removed-layer", Opens::Yes, |v| {
        v.edit_layer(v.lowest(), json!({"Removed": true}))
    }),
    damage("removed behind head", "removed-behind-head", Opens::Yes, |v| {
        v.edit_layer(v.middle(), json!({"Removed": true}))
    }),
    damage("removed leaf", "removed-leaf", Opens::Yes, |v| {
        v.add_branch("x", &json!({"Parent": v.lowest(), "Removed": true, "Name": "n"}).to_string())
    }),
    damage("temporary file", "tmp-leftover", Opens::Yes, |v| v.write("volume-snap-a.img.checksum..tmp", "{")),
    damage("restore scratch", "restore-scratch", Opens::Yes, |v| v.write("volume-delta-a.img", "")),
    damage("a copy that was not finished", "copy-unfinished", Opens::Yes, |v| {
        v.write("lhrecover-preserve.journal", "{}")
    }),
    damage("foreign file", "foreign-files", Opens::Yes, |v| v.write("notes.txt", "moved by hand")),
    damage("two layers linked", "unexplained-link", Opens::Yes, |v| {
        v.remove(v.middle());
        fs::hard_link(v.path(v.lowest()), v.path(v.middle())).expect("link")
    }),
    damage("a newer head with data", "stale-volume-meta", Opens::Yes, |v| {
        let snapshot = "volume-snap-new.img";
        fs::hard_link(v.path(v.head()), v.path(snapshot)).expect("link");
        fs::copy(v.meta_path(v.head()), v.meta_path(snapshot)).expect("copy");
        v.write("volume-head-009.img", "written");
        v.write(
            "volume-head-009.img.meta",
            json!({"Name": "volume-head-009.img", "Parent": snapshot}).to_string(),
        )
    }),
    damage("an empty volume and half a backup", "restore-cut-short", Opens::Yes, |v| {
        v.write("volume-snap-backup.img", "half");
        let size = fs::metadata(v.path(v.head())).expect("head").len();
        v.write(v.head(), "");
        v.open(v.head()).set_len(size).expect("truncate");
        v.edit_layer(v.head(), json!({"Parent": ""}))
    }),
    damage("holes filled by a copy", "copy-fully-allocated", Opens::Yes, |v| {
        v.chain.iter().for_each(|layer| v.fill_holes(layer))
    }),
    damage("preallocated above data", "unwritten-hides-data", Opens::Yes, |v| {
        v.preallocate(v.head(), 0, 16_777_216)
    }),
];

/// Makes a blank head that stands on `parent` and began last.
fn add_new_head(v: &Victim, parent: &str) {
    let size = fs::metadata(v.path(v.head())).expect("head").len();
    File::create(v.path(NEW_HEAD)).and_then(|file| file.set_len(size)).expect("new head");
    let meta = json!({"Name": NEW_HEAD, "Parent": parent, "Created": "2099-01-01T00:00:00Z"});
    v.write(&format!("{NEW_HEAD}.meta"), meta.to_string());
}

const NEW_HEAD: &str = "volume-head-009.img";

/// States that a dying engine leaves and no fixture has, some of them copied since by a tool that breaks links. They need
/// nobody: the content is right.
pub const CRASHES: &[Damage] = &[
    damage("a purge of two removed snapshots, linked", "purge-cut-short", Opens::Yes, |v| {
        v.edit_layer(v.lowest(), json!({"Removed": true}));
        v.edit_layer(v.middle(), json!({"Removed": true}));
        v.remove(v.middle());
        fs::hard_link(v.path(v.lowest()), v.path(v.middle())).expect("link")
    }),
    damage("a purge of two removed snapshots, rewritten", "purge-cut-short", Opens::Yes, |v| {
        v.edit_layer(v.lowest(), json!({"Removed": true}));
        v.edit_layer(v.middle(), json!({"Removed": true, "Parent": ""}));
        v.remove(v.middle());
        fs::hard_link(v.path(v.lowest()), v.path(v.middle())).expect("link")
    }),
    damage("a folded snapshot, made anew by an engine", "purge-cut-short", Opens::Yes, |v| {
        v.edit_layer(v.lowest(), json!({"Removed": true}));
        // It was marked before it was folded into.
        v.open(v.lowest()).set_modified(SystemTime::now()).expect("time");
        v.write(v.middle(), "")
    }),
    damage("a snapshot, its link lost", "snapshot-cut-short", Opens::Yes, |v| {
        fs::copy(v.path(v.head()), v.path("volume-snap-new.img")).expect("copy");
        fs::copy(v.meta_path(v.head()), v.meta_path("volume-snap-new.img")).expect("copy");
        add_new_head(v, "volume-snap-new.img");
        v.edit_volume(json!({"Head": NEW_HEAD}))
    }),
    damage("a snapshot before volume.meta, its link lost", "snapshot-cut-short", Opens::Yes, |v| {
        fs::copy(v.path(v.head()), v.path("volume-snap-new.img")).expect("copy");
        fs::copy(v.meta_path(v.head()), v.meta_path("volume-snap-new.img")).expect("copy");
        add_new_head(v, "volume-snap-new.img")
    }),
    damage("a snapshot without metadata, its link lost", "snapshot-cut-short", Opens::Yes, |v| {
        fs::copy(v.path(v.head()), v.path("volume-snap-new.img")).expect("copy");
        add_new_head(v, "volume-snap-new.img")
    }),
    damage("a restore, reverted to", "revert-cut-short", Opens::Yes, |v| {
        let size = fs::metadata(v.path(v.head())).expect("head").len();
        for layer in [v.middle(), v.lowest()] {
            v.remove(layer);
            v.remove(&format!("{layer}.meta"));
        }
        v.write(v.head(), "");
        v.open(v.head()).set_len(size).expect("truncate");
        v.edit_layer(v.head(), json!({"Parent": ""}));
        v.write("volume-snap-backup.img", "restored");
        v.open("volume-snap-backup.img").set_len(size).expect("truncate");
        v.write("volume-snap-backup.img.meta", r#"{"Parent":""}"#);
        add_new_head(v, "volume-snap-backup.img");
        v.edit_volume(json!({"Head": NEW_HEAD}))
    }),
];
