//! What a synthetic volume holds: worked out from a seed, never stored.
//!
//! A benchmark needs the same data again on another day, in another number of layers, on another file system,
//! and it needs to know the right answer without asking the program it measures. So the volume is cut into as
//! many slots as there are writes, each slot decides by its own dice where its write lies and which layer has
//! it, and the bytes follow from the offset alone:
//!
//! ```text
//!   slot 0          slot 1          slot 2
//!   ....AAAA........AAAA..............AAAA.     latest writes, dealt over the layers
//!   ......aaaa........................aaaa.     with `overlap`: what a lower layer had there before
//! ```
//!
//! A slot ends in at least one sector that nobody writes, so every write is an extent of its own and a segment
//! of its own. Neither place nor bytes of the latest writes depend on the number of layers: 1 layer and 250
//! layers of one recipe merge into the same image with the same number of segments.

use lhrecover::model::units::{ByteRange, MAX_CHAIN_DISKS, SECTOR_BYTES};

/// How long a run of written zeros is: what formatting and zeroed files leave is rarely shorter.
pub const ZERO_RUN_BYTES: u64 = 64 << 10;

/// A synthetic volume in numbers.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The volume's size in bytes, a multiple of 4096.
    pub volume_bytes: u64,
    /// How many layers the writes are dealt over, the head included.
    pub layers: u64,
    /// How many writes the merged volume shows.
    pub writes: u64,
    /// The size of each, in bytes, a multiple of 4096.
    pub write_bytes: u64,
    /// How much in a hundred of what is written is zeros, as a used volume has some; they come in aligned runs
    /// of [`ZERO_RUN_BYTES`], for scattered single sectors would slow down peers that look for zeros.
    pub zero_percent: u64,
    /// How many writes in a hundred lie over an older one in a lower layer, half of them shifted.
    pub overlap_percent: u64,
    /// Another seed, other places and bytes.
    pub seed: u64,
}

/// Whether a write is what the volume shows, or older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Nothing lies over it.
    Latest,
    /// A [`Age::Latest`] write of the same slot, in a higher layer, hides all or the first half of it.
    Older,
}

/// A range of one age: a write into a layer, or the part of one that the merged volume shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where, in bytes of the volume; whole sectors.
    pub range: ByteRange,
    /// Which bytes.
    pub age: Age,
}

/// A [`Recipe`] that was found possible, with the sizes that follow from it.
#[derive(Clone, Debug)]
pub struct Layout {
    recipe: Recipe,
    slot_bytes: u64,
    /// How far a shifted older write begins after the one that hides it; 0 without overlap or for one sector.
    shift_bytes: u64,
    /// In how many places of its slot a write can begin.
    places: u64,
}

struct Slot {
    latest: Piece,
    layer: u64,
    older: Option<(Piece, u64)>,
}

impl Layout {
    /// Lays the writes of `recipe` out.
    ///
    /// # Errors
    /// In words, when the numbers do not fit together.
    pub fn new(recipe: Recipe) -> Result<Self, String> {
        let Recipe { volume_bytes, layers, writes, write_bytes, .. } = recipe;
        if volume_bytes % SECTOR_BYTES != 0 || write_bytes % SECTOR_BYTES != 0 || write_bytes == 0 {
            return Err(format!("volume and writes are whole sectors of {SECTOR_BYTES} bytes"));
        }
        if layers == 0 || usize::try_from(layers).map_or(true, |l| l > MAX_CHAIN_DISKS) {
            return Err(format!("a chain has 1 to {MAX_CHAIN_DISKS} layers"));
        }
        if recipe.zero_percent > 100 || recipe.overlap_percent > 100 {
            return Err("a percentage is at most 100".into());
        }
        let shift_bytes =
            if recipe.overlap_percent == 0 { 0 } else { write_bytes / 2 / SECTOR_BYTES * SECTOR_BYTES };
        let reach_bytes = write_bytes + shift_bytes + SECTOR_BYTES;
        let slot_bytes = volume_bytes.checked_div(writes).unwrap_or(0) / SECTOR_BYTES * SECTOR_BYTES;
        if slot_bytes < reach_bytes {
            return Err(format!(
                "{writes} writes do not fit with gaps: {reach_bytes} bytes each, {slot_bytes} bytes of room"
            ));
        }
        let places = (slot_bytes - reach_bytes) / SECTOR_BYTES + 1;
        Ok(Layout { recipe, slot_bytes, shift_bytes, places })
    }

    /// The recipe this came from.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The writes of one layer (0 is the lowest), in ascending order, with gaps between them.
    pub fn layer(&self, layer: u64) -> impl Iterator<Item = Piece> {
        self.slots().filter_map(move |slot| {
            let older = slot.older.filter(|&(_, l)| l == layer).map(|(piece, _)| piece);
            if slot.layer == layer { Some(slot.latest) } else { older }
        })
    }

    /// What the merged volume shows, in ascending order, disjoint; the rest is zeros.
    pub fn merged(&self) -> impl Iterator<Item = Piece> {
        self.slots().flat_map(|slot| {
            let shown = slot.older.map(|(piece, _)| {
                let from = slot.latest.range.end_bytes;
                Piece { range: ByteRange::new(from, piece.range.end_bytes), ..piece }
            });
            [Some(slot.latest), shown.filter(|piece| !piece.range.is_empty())].into_iter().flatten()
        })
    }

    /// Fills `buf` (whole sectors) with what a write of that age has at `offset_bytes`.
    pub fn fill(&self, age: Age, offset_bytes: u64, buf: &mut [u8]) {
        let stream = match age {
            Age::Latest => self.recipe.seed,
            Age::Older => !self.recipe.seed,
        };
        for (sector, bytes) in (offset_bytes / SECTOR_BYTES..).zip(buf.chunks_exact_mut(4096)) {
            let run = sector / (ZERO_RUN_BYTES / SECTOR_BYTES);
            if Dice::new(stream.rotate_left(16), run).below(100) < self.recipe.zero_percent {
                bytes.fill(0);
                continue;
            }
            let mut dice = Dice::new(stream, sector);
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&dice.roll().to_le_bytes());
            }
        }
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.recipe.writes).map(|index| self.slot(index))
    }

    fn slot(&self, index: u64) -> Slot {
        let mut dice = Dice::new(self.recipe.seed.rotate_left(32), index);
        let start = index * self.slot_bytes + dice.below(self.places) * SECTOR_BYTES;
        let layer = dice.below(self.recipe.layers);
        let piece =
            |start: u64, age| Piece { range: ByteRange::new(start, start + self.recipe.write_bytes), age };
        let older = (layer > 0 && dice.below(100) < self.recipe.overlap_percent).then(|| {
            let below = dice.below(layer);
            (piece(start + dice.below(2) * self.shift_bytes, Age::Older), below)
        });
        Slot { latest: piece(start, Age::Latest), layer, older }
    }
}

/// SplitMix64: short, and fast enough (over 2 GB/s) that making the data does not take longer than writing it.
pub struct Dice(u64);

impl Dice {
    /// The dice of one thing (a sector, a slot) within a stream.
    pub fn new(stream: u64, index: u64) -> Self {
        Dice(mix(stream ^ mix(index)))
    }

    /// Sixty-four bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`, which is not 0. The bias is of no matter here.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
