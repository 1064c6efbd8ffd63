//! The volume in equal cells, and how much of each every layer serves: what a picture of it is drawn from.
//!
//! The number of cells is fixed, so memory grows neither with the volume nor with the number of extents. Segments come in
//! ascending order; one cell is filled at a time.

use crate::engine::plan::Plan;
use crate::error::Result;
use crate::event::Run;
use crate::model::overlay::{LayerIndex, MAX_LAYERS, Segment, Served};
use crate::model::units::{ByteRange, SECTOR_BYTES};

/// How many segments are taken between two looks at whether the work was cancelled.
const CHECK_EVERY: u64 = 4096;

/// A volume in cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeatMap {
    /// How many bytes a cell has: whole sectors. The last one may have fewer.
    pub cell_bytes: u64,
    /// The cells, in ascending order.
    pub cells: Vec<Cell>,
}

/// A range of the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Where, in bytes of the volume.
    pub range: ByteRange,
    /// The layers that serve some of it, lowest first; what none serves is a hole.
    pub shares: Vec<Share>,
}

/// What a layer serves of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The layer.
    pub layer: LayerIndex,
    /// Bytes of written data.
    pub data_bytes: u64,
    /// Bytes of preallocated room, which reads as zeros.
    pub unwritten_bytes: u64,
}

/// Cuts the volume into `most_cells` cells or fewer, and counts.
///
/// # Errors
/// When a layer's extents cannot be told, or the run is cancelled.
pub fn map(plan: &Plan<'_>, most_cells: u32, run: &Run<'_>) -> Result<HeatMap> {
    let sectors = plan.volume_bytes.div_ceil(SECTOR_BYTES);
    let cell_bytes = sectors.div_ceil(u64::from(most_cells.max(1))).max(1) * SECTOR_BYTES;
    let mut filling = Filling::new(plan.volume(), cell_bytes);
    for (count, segment) in (0u64..).zip(plan.segments()?) {
        filling.add(segment?);
        if count.is_multiple_of(CHECK_EVERY) {
            run.check()?;
        }
    }
    Ok(HeatMap { cell_bytes, cells: filling.finish() })
}

/// The cell that segments fall into now, and those before it.
struct Filling {
    volume: ByteRange,
    cell_bytes: u64,
    cells: Vec<Cell>,
    /// Bytes of data and of preallocated room in the cell after the last, by layer.
    counts: Box<[(u64, u64); MAX_LAYERS]>,
}

impl Filling {
    fn new(volume: ByteRange, cell_bytes: u64) -> Self {
        Filling { volume, cell_bytes, cells: Vec::new(), counts: Box::new([(0, 0); MAX_LAYERS]) }
    }

    /// The cell that is being filled; empty when all are.
    fn current(&self) -> ByteRange {
        let start = self.cells.last().map_or(0, |cell| cell.range.end_bytes);
        ByteRange::new(start, start.saturating_add(self.cell_bytes)).clip(self.volume)
    }

    fn add(&mut self, segment: Segment) {
        loop {
            let cell = self.current();
            let here = segment.range.clip(cell).len_bytes();
            match segment.served {
                Served::Data(layer) => self.counts[usize::from(layer)].0 += here,
                Served::Unwritten { layer, .. } => self.counts[usize::from(layer)].1 += here,
            }
            if cell.is_empty() || segment.range.end_bytes <= cell.end_bytes {
                return;
            }
            self.close(cell);
        }
    }

    fn close(&mut self, range: ByteRange) {
        let counts = (0..=LayerIndex::MAX).zip(self.counts.iter_mut());
        let counts = counts.filter(|(_, count)| **count != (0, 0));
        let shares = counts.map(|(layer, count)| {
            let (data_bytes, unwritten_bytes) = std::mem::take(count);
            Share { layer, data_bytes, unwritten_bytes }
        });
        let shares = shares.collect();
        self.cells.push(Cell { range, shares });
    }

    fn finish(mut self) -> Vec<Cell> {
        loop {
            let cell = self.current();
            if cell.is_empty() {
                return self.cells;
            }
            self.close(cell);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cancel, Silent};
    use crate::model::overlay::Unwritten;
    use crate::view::LayerImage;
    use crate::view::layer_file::LayerFile;
    use std::os::unix::fs::FileExt;

    fn layer(size_bytes: u64, writes: &[(u64, usize)]) -> Box<dyn LayerImage> {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(size_bytes).unwrap();
        for &(at, len) in writes {
            file.write_all_at(&vec![1; len], at).unwrap();
        }
        Box::new(LayerFile::new("volume-snap-a.img".into(), file).unwrap())
    }

    fn map_of(layers: &[Box<dyn LayerImage>], volume_bytes: u64, cells: u32) -> HeatMap {
        let plan = Plan::new(layers, volume_bytes, Unwritten::Zero);
        map(&plan, cells, &Run { observer: &Silent, cancel: &Cancel::default() }).unwrap()
    }

    #[test]
    fn cells_cover_the_volume_and_count_what_each_layer_serves() {
        let size = 10 * 4096 + 100;
        let layers = [layer(size, &[(0, 5 * 4096)]), layer(size, &[(4096, 4096), (10 * 4096, 100)])];
        let map = map_of(&layers, size, 4);
        assert_eq!(map.cell_bytes, 3 * 4096);
        let told: Vec<_> = map
            .cells
            .iter()
            .map(|c| (c.range.len_bytes(), c.shares.iter().map(|s| (s.layer, s.data_bytes)).collect()))
            .collect();
        let expected: [(u64, Vec<(u8, u64)>); 4] = [
            (12288, vec![(0, 8192), (1, 4096)]),
            (12288, vec![(0, 8192)]),
            (12288, vec![]),
            (4196, vec![(1, 100)]),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_volume_smaller_than_the_cells_has_one_per_sector_and_an_empty_one_none() {
        assert_eq!(map_of(&[layer(8192, &[])], 8192, 1024).cells.len(), 2);
        assert_eq!(map_of(&[], 0, 1024).cells, []);
    }
}
