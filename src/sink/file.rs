//! A sparse file.
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::units::ByteRange;
use crate::sink::Sink;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// x
pub struct SparseFile {
    /// x
    pub file: File,
}
impl Sink for SparseFile {
    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()> {
        self.file
            .write_all_at(buf, offset_bytes)
            .map_err(|e| Error::output("cannot write").at_offset(offset_bytes).caused_by(e))
    }
    fn needs_zeros(&self) -> bool {
        false
    }
    fn zero_range(&self, _: ByteRange, _: &Run<'_>) -> Result<()> {
        Ok(())
    }
    fn plain_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
