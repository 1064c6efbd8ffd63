//! A page-aligned buffer: direct I/O needs one, and ordinary I/O is no slower for it.

use std::ops::{Deref, DerefMut};

/// The alignment of the buffer's first byte; direct I/O on 4K-sector disks asks for no more.
const ALIGN: usize = 4096;

/// A buffer whose first byte is page-aligned.
pub struct Buffer {
    bytes: Vec<u8>,
    skip: usize,
    len: usize,
}

impl Buffer {
    /// A zeroed buffer of `len` bytes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGN];
        let skip = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Buffer { bytes, skip, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.skip..self.skip + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.skip..self.skip + self.len]
    }
}
