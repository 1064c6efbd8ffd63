//! The copy of layers on disk into a sparse file: page cache warm, not synced, nothing but our own work.
//!
//! Large and small writes, and each number of workers that a machine may be given. How this compares with what
//! else copies files is for `scripts/bench-peers`.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macro has no docs; a bench may panic")]

use std::cell::LazyCell;
use std::fs;
use std::path::PathBuf;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use lhrecover::engine::copy::{CopyOptions, copy};
use lhrecover::engine::pipeline::default_workers;
use lhrecover::engine::plan::Plan;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::model::overlay::Unwritten;
use lhrecover::sink::file::{FileOptions, OutputFile};
use lhrecover::sink::guard::SourceIdentity;

mod synth;

use synth::recipe::Recipe;
use synth::{Replica, disk};

/// Copies once, and returns the output's path.
fn merge(replica: &Replica, workers: usize) -> PathBuf {
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    let volume_bytes = replica.source.volume_bytes;
    let output = replica.dir.path().join("out.img");
    let options = FileOptions { force: true, sync: false, fill: false };
    let sink = OutputFile::create(&output, volume_bytes, options, &SourceIdentity::new())
        .expect("the output can be created");
    sink.make_room(0).expect("the file system takes a file of this size");
    let options = CopyOptions { workers, clone: &[], sums: false };
    let plan = Plan::new(&replica.source.layers, volume_bytes, Unwritten::Zero);
    copy(&plan, &sink, options, &run).expect("the copy succeeds");
    sink.finish(&run).expect("the output gets its name")
}

/// Speed means nothing for wrong bytes, so the first copy of a replica is compared with what it must be.
fn made_and_checked(recipe: Recipe) -> Replica {
    let replica = Replica::make(recipe);
    let wrong = disk::check(&replica.layout, &merge(&replica, default_workers()));
    assert_eq!(wrong.expect("the output can be read"), None);
    replica
}

fn copies(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, writes, write_bytes) in
        [("256 MiB in 64 KiB writes", 4096, 64 << 10), ("200 MiB in 4 KiB writes", 51_200, 4096)]
    {
        let recipe = Recipe {
            volume_bytes: 16 << 30,
            layers: 40,
            writes,
            write_bytes,
            zero_percent: 3,
            overlap_percent: 10,
            seed: 1,
        };
        let replica = LazyCell::new(|| made_and_checked(recipe));
        group.throughput(Throughput::Bytes(writes * write_bytes));
        for workers in [1, 2, 4, 8] {
            group.bench_function(format!("{name}, {workers} workers"), |b| {
                let replica = LazyCell::force(&replica);
                b.iter_batched(
                    || fs::remove_file(replica.dir.path().join("out.img")),
                    |_| merge(replica, workers),
                    criterion::BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, copies);
criterion_main!(benches);
