//! The sweep over layers on disk: what reading the extent maps costs on top of the plan.
//!
//! The same 200,000 extents in 1, 40 and 250 layers, and in a volume of 15 TiB: depth and emptiness should cost
//! next to nothing. The maps are in memory, as after a first look at the replica.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macro has no docs; a bench may panic")]

use std::cell::LazyCell;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lhrecover::engine::sweep::survey;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::model::overlay::Unwritten;

mod synth;

use synth::Replica;
use synth::recipe::Recipe;

const WRITES: u64 = 200_000;

fn sweep(c: &mut Criterion) {
    let mut group = c.benchmark_group("sweep");
    group.sample_size(10).throughput(Throughput::Elements(WRITES));
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    for (name, layers, volume_bytes) in [
        ("200k extents, 1 layer, 16 GiB", 1, 16 << 30),
        ("200k extents, 40 layers, 16 GiB", 40, 16 << 30),
        ("200k extents, 250 layers, 16 GiB", 250, 16 << 30),
        ("200k extents, 40 layers, 15 TiB", 40, 15 << 40),
    ] {
        let recipe = Recipe {
            volume_bytes,
            layers,
            writes: WRITES,
            write_bytes: 4096,
            zero_percent: 3,
            overlap_percent: 0,
            seed: 1,
        };
        let replica = LazyCell::new(|| Replica::make(recipe));
        group.bench_function(name, |b| {
            LazyCell::force(&replica);
            b.iter(|| {
                let found = survey(&replica.source.layers, volume_bytes, Unwritten::Zero, &run)
                    .expect("a synthetic replica can be swept");
                assert_eq!(found.segments, WRITES);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, sweep);
criterion_main!(benches);
