//! A block device that holds an image: all of it is data.

use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::model::extent::{Extent, ExtentKind, ExtentList, ExtentSource};
use crate::model::units::ByteRange;
use crate::sys::device::BlockDevice;
use crate::view::LayerImage;

/// An open device, and its path as the name in messages.
pub struct DeviceImage {
    name: String,
    device: BlockDevice,
}

impl DeviceImage {
    /// The image on `device`.
    pub fn new(device: BlockDevice) -> Self {
        DeviceImage { name: device.path().display().to_string(), device }
    }
}

impl LayerImage for DeviceImage {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        let range = ByteRange::new(0, self.size_bytes());
        Ok(Box::new(ExtentList::new(vec![Extent { range, kind: ExtentKind::Data }])))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let there = self.size_bytes().saturating_sub(offset_bytes);
        let (on_it, past) = buf.split_at_mut(usize::try_from(there).map_or(buf.len(), |n| n.min(buf.len())));
        past.fill(0);
        self.device.file().read_exact_at(on_it, offset_bytes).map_err(|e| {
            Error::source("cannot read the device")
                .with_path(self.device.path())
                .at_offset(offset_bytes)
                .caused_by(e)
                .with_hint("the disk may be failing: look at the kernel log, or copy it with ddrescue first")
        })
    }
}
