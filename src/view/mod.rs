//! Things one can read at an offset.
//!
//! [`LayerImage`] is what the engines see of a layer or a backing image: its extents and its bytes.

pub mod as_data;
pub mod backing;
pub mod blank;
pub mod device_image;
pub mod disk;
pub mod layer_file;
pub mod layers;
pub mod merged;
pub mod qcow2;
pub mod read_at;
mod recent;

use std::fs::File;

use crate::error::Result;
use crate::model::extent::ExtentSource;
use crate::model::units::ByteRange;

/// One image at the bottom of the overlay: a layer file, or a backing image of any format.
pub trait LayerImage: Send + Sync {
    /// The image's file name, for messages.
    fn name(&self) -> &str;

    /// How many bytes the image has, as it was when it was opened. Past them it reads as zeros.
    fn size_bytes(&self) -> u64;

    /// A fresh walk over the image's extents. May be asked for several times, from any thread.
    ///
    /// # Errors
    /// When the map cannot be had at all.
    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>>;

    /// A walk over the extents that reach into `range`, quicker than over all of them: what it tells of the rest is left
    /// open, and what was written after the image was opened may be missing.
    ///
    /// # Errors
    /// As [`extents`](Self::extents).
    fn extents_within(&self, _range: ByteRange) -> Result<Box<dyn ExtentSource + '_>> {
        self.extents()
    }

    /// Fills `buf` with the bytes at `offset_bytes`; what lies past [`size_bytes`](Self::size_bytes) is zeros.
    ///
    /// # Errors
    /// An unreadable byte, or an image that became shorter than it was when it was opened, is an error that
    /// names the layer and the offset: never zeros.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()>;

    /// The open file whose byte at an offset *is* the volume's byte there, if the kernel may share or copy
    /// ranges of it directly.
    fn plain_file(&self) -> Option<&File> {
        None
    }

    /// Whether the extents tell unwritten ones from holes. Formats that have no such thing say yes.
    fn tells_unwritten(&self) -> bool {
        true
    }

    /// Tells the kernel that this range will be read soon. A hint; failure does not matter.
    fn prefetch(&self, _range: ByteRange) {}
}
