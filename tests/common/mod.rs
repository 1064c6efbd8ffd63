//! What the integration tests share: the bundled fixtures, and the truth about them.

#![allow(dead_code)] // Each test file uses its own part of this.
#![allow(clippy::expect_used, clippy::unwrap_used)] // A test helper that fails, fails its test.

pub mod browser;
pub mod chain;
pub mod chains;
pub mod cli;
pub mod damage;
pub mod disks;
pub mod ext;
pub mod filesystems;
pub mod fingerprint;
pub mod golden;
pub mod loopdev;
pub mod mounts;
pub mod nbd;
pub mod same_tree;
pub mod sshd;
pub mod strace;
pub mod unpack;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

/// A temporary directory on the disk that holds `target/`: `/tmp` may be a tmpfs, which has no FIEMAP.
pub fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("lhrecover-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("scratch directory")
}

/// Whether FIEMAP works there, without which unwritten extents cannot be told from holes.
pub fn scratch_has_fiemap() -> bool {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("scratch file");
    lhrecover::sys::sparse::Fiemap::probe(&file).expect("FIEMAP").is_some()
}

/// One unpacked fixture case; removed on drop.
pub struct Fixture {
    pub dir: TempDir,
    pub case: Value,
}

impl Fixture {
    /// The replica directories of the case and what the manifest says of each.
    pub fn replicas(&self) -> Vec<(PathBuf, Value)> {
        let replicas = self.case["replicas"].as_array().expect("replicas");
        replicas.iter().map(|r| (self.dir.path().join(r["dir"].as_str().expect("dir")), r.clone())).collect()
    }

    /// The case's only, or first, replica directory.
    pub fn replica(&self) -> (PathBuf, Value) {
        self.replicas().swap_remove(0)
    }

    /// The backing image as the manifest names it, if the case has one.
    pub fn backing(&self) -> Option<PathBuf> {
        Some(self.dir.path().join(self.replica().1["backing_file"].as_str()?))
    }
}

/// The manifest's cases.
pub fn cases() -> Vec<Value> {
    let text = std::fs::read(unpack::fixtures_dir().join("manifest.json")).expect("manifest.json");
    let manifest: Value = serde_json::from_slice(&text).expect("manifest.json parses");
    manifest["cases"].as_array().expect("cases").clone()
}

/// Does `work` for each of `items`, several at a time: what takes long is waiting for the disk.
pub fn several_at_a_time<T: Send>(items: Vec<T>, work: impl Fn(T) + Sync + Send) {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(6).build().expect("threads");
    threads.install(|| items.into_par_iter().for_each(work));
}

/// Unpacks a case by its id, such as `03-explicit-zeros`.
pub fn fixture(id: &str) -> Fixture {
    let dir = scratch();
    fixture_in(id, dir)
}

/// Unpacks a case into a directory of the caller's choosing.
pub fn fixture_in(id: &str, dir: TempDir) -> Fixture {
    let case = cases().into_iter().find(|c| c["id"] == id).unwrap_or_else(|| panic!("no case {id}"));
    unpack::unpack(id, dir.path()).expect("unpack");
    Fixture { dir, case }
}

/// A path as text, for arguments.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8 path")
}
