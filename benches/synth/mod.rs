//! Synthetic replicas for the criterion benches: the generator's modules, and a replica made and opened.

#![allow(dead_code, reason = "each bench uses a part")]

pub mod disk;
pub mod recipe;

use lhrecover::replica::ReplicaDir;
use lhrecover::replica::source::{Source, SourceOptions};
use recipe::{Layout, Recipe};
use tempfile::TempDir;

/// A replica directory under `target/tmp`, opened; removed when dropped.
pub struct Replica {
    /// What it holds.
    pub layout: Layout,
    /// Its layers and its size.
    pub source: Source,
    /// Where outputs can go, beside the replica.
    pub dir: TempDir,
}

impl Replica {
    /// Makes the replica that `recipe` describes. Its data is in the page cache afterwards.
    pub fn make(recipe: Recipe) -> Self {
        let layout = Layout::new(recipe).expect("the recipe of a bench is possible");
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("target/tmp can be written");
        let path = dir.path().join("replica");
        disk::write_replica(&layout, &path).expect("target/tmp has room for a replica");
        let source = ReplicaDir::open(&path)
            .and_then(|replica| replica.open_source(&SourceOptions::default()))
            .expect("a synthetic replica is a good one");
        Replica { layout, source, dir }
    }
}
