//! Ground truth: every state of every replica directory that the real engine wrote reads as the engine reads it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::{Fixture, cases, fixture_in, scratch};
use lhrecover::engine::digest::{Algorithm, Hasher};
use lhrecover::error::ErrorKind;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::replica::{ReplicaDir, SourceOptions};
use lhrecover::workflow::merge::{MergeOptions, Output, Sparse, merge};
use serde_json::Value;

/// Hashes what is written to it.
struct Sha256(Hasher);

impl std::io::Write for Sha256 {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn options(source: SourceOptions) -> MergeOptions {
    MergeOptions {
        source,
        accept_copy_damage: false,
        unwritten: Default::default(),
        force: false,
        workers: None,
        clone: true,
        sparse: Sparse::Auto,
        sync: false,
        verify: false,
        digest: None,
        also_written: Vec::new(),
    }
}

fn sha256(replica: &Path, source: SourceOptions) -> lhrecover::error::Result<String> {
    let mut out = Sha256(Hasher::new(Algorithm::Sha256));
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    merge(&ReplicaDir::open(replica)?, &options(source), Output::Stream(&mut out), &run)?;
    Ok(out.0.finish())
}

/// What must be told by hand to read the replica at all, as a person would who has read the finding.
fn told(fixture: &Fixture, replica: &Value) -> SourceOptions {
    let damaged = fixture.case["kind"] == "meta";
    SourceOptions {
        head: damaged.then(|| replica["head"].as_str().unwrap().to_owned()),
        size_bytes: damaged.then(|| replica["size"].as_u64().unwrap()),
        allow_rebuilding: true,
        ..SourceOptions::default()
    }
}

fn check(id: &str) -> usize {
    let fixture = fixture_in(id, scratch());
    let mut views = 0;
    for (dir, truth) in fixture.replicas() {
        let Some(sha) = truth["sha256"].as_str().filter(|_| truth["chain_head_first"][0].is_string()) else {
            continue;
        };
        let source = told(&fixture, &truth);
        assert_eq!(sha256(&dir, source.clone()).unwrap(), sha, "{id}: head of {}", dir.display());
        views += 1;
        for snapshot in truth["snapshots"].as_array().into_iter().flatten() {
            let name = snapshot["name"].as_str().unwrap();
            let at = SourceOptions { at: Some(name.to_owned()), head: None, ..source.clone() };
            assert_eq!(
                sha256(&dir, at).unwrap(),
                snapshot["sha256"].as_str().unwrap(),
                "{id}: {name} of {}",
                dir.display()
            );
            views += 1;
        }
    }
    views
}

#[test]
fn every_view_is_what_the_engine_reads() {
    // Threads of our own: a merge waits for rayon's pool, and would wait for ever if all of the pool were merges.
    let (cases, next) = (cases(), AtomicUsize::new(0));
    let some = || {
        let taken = std::iter::repeat_with(|| cases.get(next.fetch_add(1, Ordering::Relaxed)));
        taken.map_while(|case| case).map(|case| check(case["id"].as_str().unwrap())).sum::<usize>()
    };
    let views: usize = thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(some));
        threads.map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert_eq!(views, 532 + 92);
}

#[test]
fn where_the_engine_refuses_so_do_we_and_say_what_to_do() {
    for id in [
        "15a-volume-meta-empty",
        "15b-volume-meta-missing",
        "15c-volume-meta-truncated",
        "15d-volume-meta-nul",
    ] {
        let fixture = fixture_in(id, scratch());
        let (dir, truth) = fixture.replica();
        let e = sha256(&dir, SourceOptions::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Source, "{id}");
        let advice = format!("--head {} --size {}", truth["head"].as_str().unwrap(), truth["size"]);
        assert!(e.hint().is_some_and(|hint| hint.contains(&advice)), "{id}: {e} {:?}", e.hint());
    }
    let rebuilding = fixture_in("13a-rebuilding-broken-chain", scratch());
    let (dir, _) = rebuilding.replicas().swap_remove(1);
    let e = sha256(&dir, SourceOptions { allow_rebuilding: true, ..SourceOptions::default() }).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Source);
    assert!(e.to_string().contains("volume-snap-snap-4058a1e4.img"), "{e}");
}
