//! The plan alone: a million extents in memory, swept into segments, with no disk in the way.
//!
//! One layer against 40 and 250 of the same recipe shows what depth costs; the overlapping chain is the one
//! where the heaps of the sweep have something to decide.

#![allow(missing_docs, clippy::expect_used, reason = "criterion's macro has no docs; a bench may panic")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lhrecover::error::Result;
use lhrecover::model::extent::{Extent, ExtentKind, ExtentSource};
use lhrecover::model::overlay::{Overlay, Unwritten};
use lhrecover::model::units::ByteRange;

mod synth;

use synth::recipe::{Layout, Recipe};

const WRITES: u64 = 1_000_000;

/// Borrowed extents, told a batch at a time as a file system tells them.
struct Told<'a>(&'a [Extent]);

impl ExtentSource for Told<'_> {
    fn next_extents(&mut self, _: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        const BATCH: usize = 512;
        let (batch, rest) = self.0.split_at(self.0.len().min(BATCH));
        out.extend_from_slice(batch);
        self.0 = rest;
        Ok(batch.last().filter(|_| !rest.is_empty()).map(|last| last.range.end_bytes))
    }
}

fn chain(layers: u64, overlap_percent: u64) -> (Layout, Vec<Vec<Extent>>) {
    let recipe = Recipe {
        volume_bytes: 64 << 30,
        layers,
        writes: WRITES,
        write_bytes: 16 << 10,
        zero_percent: 0,
        overlap_percent,
        seed: 1,
    };
    let layout = Layout::new(recipe).expect("a million slots of 64 KiB have room for 16 KiB");
    let extents = |layer| {
        layout.layer(layer).map(|piece| Extent { range: piece.range, kind: ExtentKind::Data }).collect()
    };
    let chain = (0..layers).map(extents).collect();
    (layout, chain)
}

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    group.sample_size(10);
    for (name, layers, overlap) in [
        ("1M extents, 1 layer", 1, 0),
        ("1M extents, 40 layers", 40, 0),
        ("1M extents, 250 layers", 250, 0),
        ("1M extents and 30 % older, 40 layers", 40, 30),
    ] {
        let (layout, chain) = chain(layers, overlap);
        let window = ByteRange::new(0, layout.recipe().volume_bytes);
        let segments = layout.merged().count();
        group.throughput(Throughput::Elements(WRITES));
        group.bench_function(name, |b| {
            b.iter_batched(
                || chain.iter().map(|extents| Told(extents)).collect::<Vec<_>>(),
                |layers| {
                    let told = Overlay::new(layers, window, Unwritten::Zero).filter(|s| s.is_ok()).count();
                    assert_eq!(told, segments);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, plan);
criterion_main!(benches);
