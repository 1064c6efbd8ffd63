//! The digest of one layer: BLAKE3 over what it holds, in which holes, written zeros and unwritten extents differ.
//!
//! A sum over the bytes alone, such as the engine's own checksum, cannot tell a copy that turned written zeros into
//! holes from a good one. This one can; it depends on nothing but the file's size and what each 4096-byte sector is
//! (not on how a file system cuts its extents), costs nothing for holes, and can be taken by several threads, or in
//! several sittings. Its definition stands in docs/JSON.md, and never changes:
//!
//! - The digest of a window of 64 MiB: for each run of sectors of one kind in it that is as long as it can be, a byte
//!   for the kind (1: data, 2: unwritten), the offset in the file and the length, both of 8 bytes, lowest first;
//!   then, for data, the bytes. Those past the end of the file count as zeros.
//! - The digest of the layer: the file's size in 8 bytes, lowest first; then, for each window that has such a run, its
//!   index in 8 bytes, lowest first, and its digest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use blake3::{Hash, Hasher};

use crate::engine::buffer::Buffer;
use crate::engine::windows::{Window, for_each_window};
use crate::error::Result;
use crate::event::{Event, Run};
use crate::model::extent::{Extent, ExtentKind};
use crate::view::LayerImage;

const KIND_DATA: u8 = 1;
const KIND_UNWRITTEN: u8 = 2;

/// What a layer, or a part of one, holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Runs of sectors of one kind. Where a window begins, another run does.
    pub extents: u64,
    /// Bytes in written sectors.
    pub data_bytes: u64,
    /// Bytes in unwritten sectors.
    pub unwritten_bytes: u64,
}

impl Content {
    /// What a window holds.
    pub fn of(window: &Window) -> Self {
        window.extents.iter().fold(Content::default(), |mut content, extent| {
            content.extents += 1;
            match extent.kind {
                ExtentKind::Data => content.data_bytes += extent.range.len_bytes(),
                ExtentKind::Unwritten => content.unwritten_bytes += extent.range.len_bytes(),
            }
            content
        })
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Content {
            extents: self.extents + other.extents,
            data_bytes: self.data_bytes + other.data_bytes,
            unwritten_bytes: self.unwritten_bytes + other.unwritten_bytes,
        }
    }
}

/// The digest of a layer, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDigest {
    /// The length of the file in bytes.
    pub size_bytes: u64,
    /// What it holds.
    pub content: Content,
    /// The digest.
    pub digest: Hash,
}

/// The digest of a window in the making; runs are given in ascending order.
#[derive(Default)]
pub struct WindowHasher(Hasher);

impl WindowHasher {
    /// Takes a run in; the bytes of a run of data follow by [`update`](Self::update).
    pub fn begin(&mut self, extent: &Extent) {
        let kind = match extent.kind {
            ExtentKind::Data => KIND_DATA,
            ExtentKind::Unwritten => KIND_UNWRITTEN,
        };
        self.0.update(&[kind]);
        self.0.update(&extent.range.start_bytes.to_le_bytes());
        self.0.update(&extent.range.len_bytes().to_le_bytes());
    }

    /// Takes the next bytes of a run of data in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest.
    pub fn finish(&self) -> Hash {
        self.0.finalize()
    }
}

/// The digest of one window, its bytes read by `read` in pieces of at most the buffer's length.
///
/// # Errors
/// What `read` failed with; interrupted when the run is cancelled.
pub fn window_digest(
    window: &Window,
    buffer: &mut Buffer,
    run: &Run<'_>,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<Hash> {
    let mut hasher = WindowHasher::default();
    for extent in &window.extents {
        hasher.begin(extent);
        if extent.kind == ExtentKind::Unwritten {
            continue;
        }
        let mut at = extent.range.start_bytes;
        while at < extent.range.end_bytes {
            run.check()?;
            let left = extent.range.end_bytes - at;
            let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            read(&mut buffer[..len], at)?;
            hasher.update(&buffer[..len]);
            run.event(Event::Advanced { bytes: len as u64 });
            at += len as u64;
        }
    }
    Ok(hasher.finish())
}

/// The digests of a layer's windows, by index, put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowDigests(BTreeMap<u64, (Hash, Content)>);

impl WindowDigests {
    /// Takes a window in.
    pub fn insert(&mut self, window: &Window, digest: Hash) {
        self.0.insert(window.index, (digest, Content::of(window)));
    }

    /// The digest of the window `index`, if it was taken in.
    pub fn get(&self, index: u64) -> Option<Hash> {
        self.0.get(&index).map(|(digest, _)| *digest)
    }

    /// The lowest window that only one of the two has, or that is not the same in both.
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        let differs = |index: &&u64| self.0.get(index) != other.0.get(index);
        let (here, there) = (self.0.keys().find(differs), other.0.keys().find(differs));
        here.into_iter().chain(there).min().copied()
    }

    /// The digest of the layer whose windows these are, all of them.
    pub fn finish(&self, size_bytes: u64) -> LayerDigest {
        let mut hasher = Hasher::new();
        hasher.update(&size_bytes.to_le_bytes());
        let mut content = Content::default();
        for (index, (digest, held)) in &self.0 {
            hasher.update(&index.to_le_bytes());
            hasher.update(digest.as_bytes());
            content = content.and(*held);
        }
        LayerDigest { size_bytes, content, digest: hasher.finalize() }
    }
}

/// The digests of `layers`, in their order. Reports, as progress, each byte of data it has read.
///
/// # Errors
/// `Source`, with layer and offset, when a layer cannot be read; interrupted when the run is cancelled.
pub fn layer_digests(layers: &[&dyn LayerImage], workers: usize, run: &Run<'_>) -> Result<Vec<LayerDigest>> {
    let found: Vec<_> = layers.iter().map(|_| Mutex::new(WindowDigests::default())).collect();
    for_each_window(layers, workers, run, |place, window, buffer| {
        let layer = layers[place];
        let digest = window_digest(window, buffer, run, |buf, at| layer.read_exact_at(buf, at))?;
        found[place].lock().unwrap_or_else(PoisonError::into_inner).insert(window, digest);
        Ok(())
    })?;
    let found = found.into_iter().map(|digests| digests.into_inner().unwrap_or_else(PoisonError::into_inner));
    Ok(layers.iter().zip(found).map(|(layer, digests)| digests.finish(layer.size_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Cancel, Silent};
    use crate::model::extent::ExtentKind::{Data, Unwritten};
    use crate::model::extent::{ExtentList, ExtentSource};
    use crate::model::units::{ByteRange, SECTOR_BYTES};

    /// A layer in memory, at the end of a file of holes so that it has several windows.
    #[derive(Clone, Debug)]
    struct Memory {
        size_bytes: u64,
        extents: Vec<Extent>,
        /// One byte stands for all of a sector.
        bytes: Vec<u8>,
    }

    impl LayerImage for Memory {
        fn name(&self) -> &str {
            "memory"
        }

        fn size_bytes(&self) -> u64 {
            self.size_bytes
        }

        fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
            Ok(Box::new(ExtentList::new(self.extents.clone())))
        }

        fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
            for (at, byte) in (offset_bytes..).zip(buf) {
                let sector = usize::try_from(at.saturating_sub(START) / SECTOR_BYTES).unwrap();
                *byte = if at < self.size_bytes { self.bytes[sector] } else { 0 };
            }
            Ok(())
        }
    }

    /// The layers begin so that they lie in two windows.
    const START: u64 = crate::engine::windows::WINDOW_BYTES - 5 * SECTOR_BYTES;

    type Sector = Option<(ExtentKind, u8)>;

    /// A layer of these sectors, whose extents are cut wherever `cut` says.
    fn layer(sectors: &[Sector], cut: impl Fn(usize) -> bool, size_bytes: u64) -> Memory {
        let mut extents = Vec::<Extent>::new();
        for (i, sector) in sectors.iter().enumerate() {
            let Some((kind, _)) = *sector else { continue };
            let start = START + i as u64 * SECTOR_BYTES;
            match extents.last_mut() {
                Some(last) if last.range.end_bytes == start && last.kind == kind && !cut(i) => {
                    last.range.end_bytes += SECTOR_BYTES;
                }
                _ => extents.push(Extent { range: ByteRange::new(start, start + SECTOR_BYTES), kind }),
            }
        }
        let bytes = sectors.iter().map(|sector| sector.map_or(0, |(_, byte)| byte)).collect();
        Memory { size_bytes, extents, bytes }
    }

    fn digest(layer: &Memory, workers: usize) -> LayerDigest {
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        layer_digests(&[layer], workers, &run).unwrap().remove(0)
    }

    fn full_size(sectors: &[Sector]) -> u64 {
        START + sectors.len() as u64 * SECTOR_BYTES
    }

    #[test]
    fn it_is_what_its_definition_says() {
        let sectors = [Some((Data, 7)), Some((Data, 0)), None, Some((Unwritten, 0)), None, Some((Data, 9))];
        let size = full_size(&sectors) - 96;
        let run = |kind: u8, start: u64, sectors: u64| {
            [&[kind][..], &start.to_le_bytes(), &(sectors * SECTOR_BYTES).to_le_bytes()].concat()
        };
        let first =
            [run(1, START, 2), vec![7; 4096], vec![0; 4096], run(2, START + 3 * SECTOR_BYTES, 1)].concat();
        let second = [run(1, START + 5 * SECTOR_BYTES, 1), vec![9; 4000], vec![0; 96]].concat();
        let whole = [
            &size.to_le_bytes()[..],
            &0u64.to_le_bytes(),
            blake3::hash(&first).as_bytes(),
            &1u64.to_le_bytes(),
            blake3::hash(&second).as_bytes(),
        ]
        .concat();
        let found = digest(&layer(&sectors, |_| false, size), 2);
        assert_eq!(found.digest, blake3::hash(&whole));
        assert_eq!(found.content, Content { extents: 3, data_bytes: 12288, unwritten_bytes: 4096 });
    }

    #[test]
    fn holes_cost_nothing_and_an_empty_layer_has_a_digest() {
        let empty = Memory { size_bytes: 16 << 40, extents: vec![], bytes: vec![] };
        assert_eq!(digest(&empty, 1).digest, blake3::hash(&(16u64 << 40).to_le_bytes()));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        struct Broken(Memory);
        impl LayerImage for Broken {
            fn name(&self) -> &str {
                "broken"
            }
            fn size_bytes(&self) -> u64 {
                self.0.size_bytes
            }
            fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
                self.0.extents()
            }
            fn read_exact_at(&self, _: &mut [u8], at: u64) -> Result<()> {
                Err(crate::error::Error::source("cannot read").at_offset(at))
            }
        }
        let sectors = [Some((Data, 1))];
        let broken = Broken(layer(&sectors, |_| false, full_size(&sectors)));
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let error = layer_digests(&[&broken], 2, &run).unwrap_err();
        assert_eq!(error.offset_bytes(), Some(START));
    }

    fn sectors() -> impl Strategy<Value = Vec<Sector>> {
        let sector = prop_oneof![
            Just(None),
            Just(Some((Unwritten, 0))),
            (0u8..3).prop_map(|byte| Some((Data, byte))),
        ];
        proptest::collection::vec(sector, 1..12)
    }

    proptest! {
        #[test]
        fn only_the_sectors_count(sectors in sectors(), cuts in any::<u16>(), workers in 1usize..4) {
            let size = full_size(&sectors);
            let whole = layer(&sectors, |_| false, size);
            let cut = layer(&sectors, |i| cuts >> i & 1 == 1, size);
            prop_assert_eq!(digest(&whole, 1), digest(&cut, workers));
        }

        #[test]
        fn any_change_changes_it(a in sectors(), b in sectors(), less in 0u64..2) {
            let (size_a, size_b) = (full_size(&a), full_size(&b) - less);
            let same = a == b && less == 0;
            let digests = (digest(&layer(&a, |_| false, size_a), 1), digest(&layer(&b, |_| false, size_b), 1));
            prop_assert_eq!(digests.0.digest == digests.1.digest, same);
        }

        #[test]
        fn one_other_sector_changes_it(sectors in sectors(), place in any::<prop::sample::Index>(), to in 0usize..5) {
            let place = place.index(sectors.len());
            let mut other = sectors.clone();
            other[place] = [None, Some((Unwritten, 0)), Some((Data, 0)), Some((Data, 1)), Some((Data, 2))][to];
            prop_assume!(other != sectors);
            let size = full_size(&sectors);
            let digests = (digest(&layer(&sectors, |_| false, size), 1), digest(&layer(&other, |_| false, size), 1));
            prop_assert_ne!(digests.0.digest, digests.1.digest);
        }
    }
}
