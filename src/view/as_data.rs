//! A layer whose preallocated room counts as written zeros, for targets that cannot keep it apart from them.
//!
//! That is how the engine reads it, so the copy reads the same; only what a later look at the extents could tell is lost.

use std::fs::File;

use crate::error::Result;
use crate::model::extent::{Extent, ExtentKind, ExtentSource, SectorExtents};
use crate::model::units::{ByteRange, sector_ceil, sector_floor};
use crate::view::LayerImage;

/// The layer behind it, with one kind of extent.
pub struct UnwrittenAsData<'a>(pub &'a dyn LayerImage);

impl LayerImage for UnwrittenAsData<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        Ok(Box::new(AsData(self.0.extents()?)))
    }

    /// What is preallocated is not read: the kernel would keep pages of zeros for it, and tell them as data from then on
    /// to whoever asks by SEEK_DATA.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let end = offset_bytes.saturating_add(buf.len() as u64);
        let whole = ByteRange::new(sector_floor(offset_bytes), sector_ceil(end));
        let mut extents = SectorExtents::new(self.0.extents()?, whole);
        buf.fill(0);
        while let Some(extent) = extents.next_extent()? {
            let range = extent.range.clip(ByteRange::new(offset_bytes, end));
            let place = |at: u64| usize::try_from(at - offset_bytes).unwrap_or(usize::MAX).min(buf.len());
            let (from, to) = (place(range.start_bytes), place(range.end_bytes));
            if extent.kind == ExtentKind::Data {
                self.0.read_exact_at(&mut buf[from..to], range.start_bytes)?;
            }
        }
        Ok(())
    }

    fn plain_file(&self) -> Option<&File> {
        self.0.plain_file()
    }

    fn tells_unwritten(&self) -> bool {
        self.0.tells_unwritten()
    }

    fn prefetch(&self, range: ByteRange) {
        self.0.prefetch(range);
    }
}

struct AsData<S>(S);

impl<S: ExtentSource> ExtentSource for AsData<S> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        let before = out.len();
        let more = self.0.next_extents(from_bytes, out)?;
        out[before..].iter_mut().for_each(|extent| extent.kind = ExtentKind::Data);
        Ok(more)
    }
}
