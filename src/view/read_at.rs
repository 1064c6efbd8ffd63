//! Bytes that can be read at an offset: a file, or a piece of memory that a test or a fuzzer made up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::model::units::ByteRange;
use crate::sys::sparse;

/// Something with a length and bytes. Reading moves nothing, so threads may share it.
pub trait ReadAt: Send + Sync {
    /// How many bytes there are now.
    ///
    /// # Errors
    /// What the operating system says.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Fills `buf` with the bytes at `offset_bytes`.
    ///
    /// # Errors
    /// What the operating system says, or [`io::ErrorKind::UnexpectedEof`] where there are not so many bytes.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()>;

    /// Tells the kernel that this range will be read soon. A hint.
    fn prefetch(&self, _range: ByteRange) {}
}

impl ReadAt for File {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset_bytes)
    }

    fn prefetch(&self, range: ByteRange) {
        sparse::read_ahead(self, range);
    }
}

impl ReadAt for Vec<u8> {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let from = usize::try_from(offset_bytes).ok().and_then(|start| self.get(start..));
        let bytes = from.and_then(|rest| rest.get(..buf.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}
