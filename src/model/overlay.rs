//! The overlay: which layer serves which range of the volume.
//!
//! ```text
//!   layer 2 (head)      ..DDDD........DD..          D written   U unwritten   . hole
//!   layer 1             DDDD....UUUU......
//!   layer 0 (lowest)    ....DDDDDDDDDD....
//!                       ------------------
//!   segments            11222200UUUU0022..
//! ```
//!
//! For each sector the topmost layer with an extent serves it, whole. [`Overlay`] sweeps all layers at once in
//! ascending order and tells one [`Segment`] after another. It holds a batch of extents per layer and nothing
//! else, so memory grows neither with the volume nor with the number of extents; time is
//! `O(extents x log layers)`, and ranges that no layer touches cost nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::Result;
use crate::model::extent::{Extent, ExtentKind, ExtentSource, SectorExtents};
use crate::model::units::{ByteRange, sector_ceil};

/// The place of a layer in an overlay: 0 is the lowest (the backing image, where there is one).
pub type LayerIndex = u8;

/// The most layers an overlay takes: the engine's chain limit, a backing image, and room to the byte's end.
pub const MAX_LAYERS: usize = 256;

/// What an unwritten extent means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unwritten {
    /// Zeros that hide what is below, as the engine reads it (FIEMAP flags are ignored in sparse-tools).
    #[default]
    Zero,
    /// A hole: the older data below shows through.
    Hole,
}

/// Who serves a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Served {
    /// Written data of this layer.
    Data(LayerIndex),
    /// An unwritten extent of this layer: zeros.
    Unwritten {
        /// The layer with the unwritten extent.
        layer: LayerIndex,
        /// Whether a layer below holds written data here, so that the two readings of it differ.
        hides_data: bool,
    },
}

/// A range of the volume and the layer that serves it. Ranges between segments are served by no layer: zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Where, in bytes of the volume.
    pub range: ByteRange,
    /// By whom.
    pub served: Served,
}

/// A set of layers as bits; the topmost is found in constant time.
#[derive(Clone, Copy, Default)]
struct LayerSet([u64; MAX_LAYERS / 64]);

impl LayerSet {
    fn insert(&mut self, layer: LayerIndex) {
        self.0[usize::from(layer) / 64] |= 1 << (layer % 64);
    }

    fn remove(&mut self, layer: LayerIndex) {
        self.0[usize::from(layer) / 64] &= !(1 << (layer % 64));
    }

    fn top(&self) -> Option<LayerIndex> {
        let word = self.0.iter().rposition(|&bits| bits != 0)?;
        u8::try_from(word * 64 + self.0[word].ilog2() as usize).ok()
    }
}

/// What a sweep has met in one layer so far, in whole sectors within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Extents, of both kinds.
    pub extents: u64,
    /// Bytes in written extents.
    pub data_bytes: u64,
    /// Bytes in unwritten extents.
    pub unwritten_bytes: u64,
}

impl Tally {
    fn count(&mut self, extent: Extent) {
        self.extents += 1;
        match extent.kind {
            ExtentKind::Data => self.data_bytes += extent.range.len_bytes(),
            ExtentKind::Unwritten => self.unwritten_bytes += extent.range.len_bytes(),
        }
    }
}

/// A layer's cursor: its extents, and the one that the sweep is in or heading for.
struct Cursor<S> {
    extents: SectorExtents<S>,
    current: Option<Extent>,
    tally: Tally,
}

/// When one cursor runs dry, every other that holds fewer extents than this is refilled along with it, so that
/// whoever provides the [`Refill`] can ask for all of them at once.
const LOW_WATER: usize = 64;

/// How cursors that run low are refilled: one after the other ([`in_turn`]), or at the same time by a caller
/// that has threads.
pub type Refill<S> = fn(&mut [&mut SectorExtents<S>]) -> Result<()>;

/// Refills one cursor after the other.
///
/// # Errors
/// When a layer's extents cannot be told.
pub fn in_turn<S: ExtentSource>(low: &mut [&mut SectorExtents<S>]) -> Result<()> {
    low.iter_mut().try_for_each(|extents| extents.refill())
}

/// The sweep over all layers of a chain.
pub struct Overlay<S> {
    cursors: Vec<Cursor<S>>,
    unwritten: Unwritten,
    refill: Refill<S>,
    end_bytes: u64,
    /// Starts of the extents ahead, nearest first.
    ahead: BinaryHeap<Reverse<(u64, LayerIndex)>>,
    /// Ends of the extents the sweep is in, nearest first.
    inside: BinaryHeap<Reverse<(u64, LayerIndex)>>,
    data: LayerSet,
    blank: LayerSet,
    at_bytes: u64,
    /// The last segment worked out; the next one may extend it.
    pending: Option<Segment>,
}

impl<S: ExtentSource> Overlay<S> {
    /// An overlay of `layers`, lowest first, over the part `window` of the volume. A window end that is not a
    /// whole sector (the end of an odd-sized volume) cuts the last segment.
    ///
    /// # Panics
    /// With more than [`MAX_LAYERS`] layers; a chain that long is refused when it is resolved.
    pub fn new(layers: Vec<S>, window: ByteRange, unwritten: Unwritten) -> Self {
        assert!(layers.len() <= MAX_LAYERS, "an overlay takes at most {MAX_LAYERS} layers");
        let sectors = ByteRange::new(window.start_bytes, sector_ceil(window.end_bytes));
        let cursors = layers
            .into_iter()
            .map(|source| Cursor {
                extents: SectorExtents::new(source, sectors),
                current: None,
                tally: Tally::default(),
            })
            .collect::<Vec<_>>();
        let mut ahead = BinaryHeap::with_capacity(cursors.len());
        // Not known yet where they begin: at the window's start every cursor is asked for the first time.
        ahead.extend((0..=u8::MAX).zip(&cursors).map(|(layer, _)| Reverse((window.start_bytes, layer))));
        Overlay {
            cursors,
            unwritten,
            refill: in_turn,
            end_bytes: window.end_bytes,
            ahead,
            inside: BinaryHeap::new(),
            data: LayerSet::default(),
            blank: LayerSet::default(),
            at_bytes: window.start_bytes,
            pending: None,
        }
    }

    /// The same overlay, with cursors refilled as `refill` does it.
    pub fn refilled_by(mut self, refill: Refill<S>) -> Self {
        self.refill = refill;
        self
    }

    /// The next segment in ascending order, or `None` after the last. Neighbours served alike are one segment.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    pub fn next_segment(&mut self) -> Result<Option<Segment>> {
        loop {
            self.settle()?;
            let stop = self.next_change();
            if let Some(served) = self.served() {
                let range = ByteRange::new(self.at_bytes, stop.min(self.end_bytes));
                self.at_bytes = stop;
                match &mut self.pending {
                    Some(p) if p.range.end_bytes == range.start_bytes && p.served == served => {
                        p.range.end_bytes = range.end_bytes;
                    }
                    pending => {
                        let done = pending.replace(Segment { range, served });
                        if done.is_some() {
                            return Ok(done);
                        }
                    }
                }
            } else if stop == u64::MAX {
                return Ok(self.pending.take());
            } else {
                self.at_bytes = stop;
            }
        }
    }

    /// What the sweep has met in each layer, lowest first; complete once [`next_segment`](Self::next_segment)
    /// has told the last segment.
    pub fn tallies(&self) -> Vec<Tally> {
        self.cursors.iter().map(|c| c.tally).collect()
    }

    /// Takes every extent that begins at the sweep's position in, and every one that ends there out.
    fn settle(&mut self) -> Result<()> {
        while let Some(&Reverse((end, layer))) = self.inside.peek() {
            if end > self.at_bytes {
                break;
            }
            self.inside.pop();
            self.data.remove(layer);
            self.blank.remove(layer);
            self.advance(layer)?;
        }
        while let Some(&Reverse((start, layer))) = self.ahead.peek() {
            if start > self.at_bytes {
                break;
            }
            self.ahead.pop();
            match self.cursors[usize::from(layer)].current {
                Some(extent) => self.enter(layer, extent),
                None => self.advance(layer)?,
            }
        }
        Ok(())
    }

    /// Moves a layer's cursor to its next extent.
    fn advance(&mut self, layer: LayerIndex) -> Result<()> {
        let cursor = &self.cursors[usize::from(layer)];
        if cursor.extents.buffered() == 0 && !cursor.extents.is_exhausted() {
            self.refill(layer)?;
        }
        let unwritten = self.unwritten;
        let cursor = &mut self.cursors[usize::from(layer)];
        cursor.current = loop {
            let next = cursor.extents.next_extent()?;
            if let Some(extent) = next {
                cursor.tally.count(extent);
            }
            match next {
                Some(e) if e.kind == ExtentKind::Unwritten && unwritten == Unwritten::Hole => {}
                other => break other,
            }
        };
        if let Some(extent) = cursor.current {
            if extent.range.start_bytes <= self.at_bytes {
                self.enter(layer, extent);
            } else {
                self.ahead.push(Reverse((extent.range.start_bytes, layer)));
            }
        }
        Ok(())
    }

    fn enter(&mut self, layer: LayerIndex, extent: Extent) {
        match extent.kind {
            ExtentKind::Data => self.data.insert(layer),
            ExtentKind::Unwritten => self.blank.insert(layer),
        }
        self.inside.push(Reverse((extent.range.end_bytes, layer)));
    }

    /// Refills a cursor that ran dry, and every other that runs low.
    fn refill(&mut self, dry: LayerIndex) -> Result<()> {
        let mut low: Vec<_> = (0..=u8::MAX)
            .zip(&mut self.cursors)
            .filter(|(layer, c)| *layer == dry || c.extents.buffered() < LOW_WATER)
            .map(|(_, c)| &mut c.extents)
            .filter(|extents| !extents.is_exhausted())
            .collect();
        (self.refill)(&mut low)
    }

    /// Who serves the sweep's position.
    fn served(&self) -> Option<Served> {
        match (self.data.top(), self.blank.top()) {
            (data, Some(blank)) if data.is_none_or(|d| d < blank) => {
                Some(Served::Unwritten { layer: blank, hides_data: data.is_some() })
            }
            (Some(data), _) => Some(Served::Data(data)),
            _ => None,
        }
    }

    /// Where the set of extents the sweep is in changes next; `u64::MAX` when it never does.
    fn next_change(&self) -> u64 {
        let end = self.inside.peek().map_or(u64::MAX, |&Reverse((end, _))| end);
        let start = self.ahead.peek().map_or(u64::MAX, |&Reverse((start, _))| start);
        end.min(start)
    }
}

impl<S: ExtentSource> Iterator for Overlay<S> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_segment().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::ExtentList;

    fn layer(raw: &[(u64, u64, ExtentKind)]) -> ExtentList {
        ExtentList::new(
            raw.iter()
                .map(|&(s, e, kind)| Extent { range: ByteRange::new(s << 12, e << 12), kind })
                .collect(),
        )
    }

    fn segments(layers: Vec<ExtentList>, end: u64, unwritten: Unwritten) -> Vec<(u64, u64, Served)> {
        Overlay::new(layers, ByteRange::new(0, end), unwritten)
            .map(|s| s.unwrap())
            .map(|s| (s.range.start_bytes >> 12, s.range.end_bytes.div_ceil(4096), s.served))
            .collect()
    }

    use ExtentKind::{Data, Unwritten as Blank};

    #[test]
    fn the_picture_in_the_module_docs() {
        let layers = || {
            vec![
                layer(&[(4, 14, Data)]),
                layer(&[(0, 4, Data), (8, 12, Blank)]),
                layer(&[(2, 6, Data), (14, 16, Data)]),
            ]
        };
        let hidden = Served::Unwritten { layer: 1, hides_data: true };
        assert_eq!(
            segments(layers(), 18 << 12, Unwritten::Zero),
            [
                (0, 2, Served::Data(1)),
                (2, 6, Served::Data(2)),
                (6, 8, Served::Data(0)),
                (8, 12, hidden),
                (12, 14, Served::Data(0)),
                (14, 16, Served::Data(2)),
            ]
        );
        assert_eq!(
            segments(layers(), 18 << 12, Unwritten::Hole)[2..],
            [(6, 14, Served::Data(0)), (14, 16, Served::Data(2))]
        );
    }

    #[test]
    fn hidden_extents_do_not_split_what_covers_them() {
        let below = (0..500).map(|i| (2 * i, 2 * i + 1, Data)).collect::<Vec<_>>();
        assert_eq!(
            segments(vec![layer(&below), layer(&[(0, 1000, Data)])], 1000 << 12, Unwritten::Zero),
            [(0, 1000, Served::Data(1))]
        );
    }

    #[test]
    fn an_odd_volume_end_cuts_the_last_segment() {
        let mut overlay =
            Overlay::new(vec![layer(&[(0, 9, Data)])], ByteRange::new(0, 4096 + 512), Unwritten::Zero);
        let only = overlay.next_segment().unwrap().unwrap();
        assert_eq!(only.range, ByteRange::new(0, 4096 + 512));
        assert!(overlay.next_segment().unwrap().is_none());
    }

    #[test]
    fn no_layers_no_segments() {
        assert_eq!(segments(vec![], 1 << 20, Unwritten::Zero), []);
    }
}
