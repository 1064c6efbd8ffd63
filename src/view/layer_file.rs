//! A layer as a plain sparse file: `volume-head-NNN.img`, `volume-snap-<name>.img`, or a raw backing image.
//!
//! Read with `pread`, never mapped: a failing disk or a file that shrinks must be an error, not a SIGBUS.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::model::extent::{Extent, ExtentSource};
use crate::model::units::ByteRange;
use crate::sys::sparse::{self, Fiemap};
use crate::view::LayerImage;

/// How a file's extents are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentMethod {
    /// FIEMAP: unwritten extents are told from holes, as the engine sees them.
    Fiemap,
    /// SEEK_DATA and SEEK_HOLE: unwritten extents look like holes.
    Seek,
}

/// An open layer file.
#[derive(Debug)]
pub struct LayerFile {
    name: String,
    file: File,
    size_bytes: u64,
    method: ExtentMethod,
}

impl LayerFile {
    /// Takes an open regular file, and finds out how its extents can be told.
    ///
    /// # Errors
    /// When the file cannot be looked at, or its file system can tell extents in no way.
    pub fn new(name: String, file: File) -> Result<Self> {
        let fail = |what: &str, e| Error::source(what).in_layer(&name).caused_by(e);
        let size_bytes = file.metadata().map_err(|e| fail("cannot look at the layer file", e))?.len();
        let by_fiemap =
            Fiemap::probe(&file).map_err(|e| fail("cannot read the layer's extent map", e))?.is_some();
        let method = if by_fiemap { ExtentMethod::Fiemap } else { ExtentMethod::Seek };
        if method == ExtentMethod::Seek {
            sparse::next_data(&file, 0).map_err(|e| {
                fail("the file system tells neither by FIEMAP nor by SEEK_DATA what is a hole", e)
                    .with_hint("copy the replica's disk as a whole, block by block, and work on that copy")
            })?;
        }
        sparse::read_exactly(&file);
        Ok(LayerFile { name, file, size_bytes, method })
    }

    /// How this file's extents are told.
    pub fn method(&self) -> ExtentMethod {
        self.method
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl LayerImage for LayerFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        let map = match self.method {
            ExtentMethod::Seek => Map::Seek(&self.file),
            ExtentMethod::Fiemap => match Fiemap::probe(&self.file) {
                Ok(Some(walk)) => Map::Fiemap(walk),
                Ok(None) => return Err(self.map_error(0, io::ErrorKind::Unsupported.into())),
                Err(e) => return Err(self.map_error(0, e)),
            },
        };
        Ok(Box::new(LayerExtents { layer: self, map }))
    }

    fn extents_within(&self, range: ByteRange) -> Result<Box<dyn ExtentSource + '_>> {
        // What was cut off since would look like a hole.
        let now = self.file.metadata().map_err(|e| self.map_error(range.start_bytes, e))?.len();
        if now < self.size_bytes {
            return Err(self.became_shorter(now.max(range.start_bytes)));
        }
        let map = match self.method {
            ExtentMethod::Seek => Map::Seek(&self.file),
            ExtentMethod::Fiemap => Map::Fiemap(Fiemap::until(&self.file, range.end_bytes)),
        };
        Ok(Box::new(LayerExtents { layer: self, map }))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset_bytes.saturating_add(done as u64);
            if at >= self.size_bytes {
                buf[done..].fill(0);
                break;
            }
            let present = usize::try_from(self.size_bytes - at).unwrap_or(usize::MAX);
            let want = present.min(buf.len() - done);
            match self.file.read_at(&mut buf[done..done + want], at) {
                Ok(0) => return Err(self.became_shorter(at)),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Error::source("cannot read the layer")
                        .in_layer(&self.name)
                        .at_offset(at)
                        .caused_by(e)
                        .with_hint("the disk may be failing: look at the kernel log, copy the disk with ddrescue, or try another replica"));
                }
            }
        }
        Ok(())
    }

    fn plain_file(&self) -> Option<&File> {
        Some(&self.file)
    }

    fn tells_unwritten(&self) -> bool {
        self.method == ExtentMethod::Fiemap
    }

    fn prefetch(&self, range: ByteRange) {
        sparse::read_ahead(&self.file, range);
    }
}

impl LayerFile {
    fn became_shorter(&self, offset_bytes: u64) -> Error {
        Error::source("the layer became shorter while it was read")
            .in_layer(&self.name)
            .at_offset(offset_bytes)
            .with_hint("something still writes to this replica: stop it, and start again")
    }

    fn map_error(&self, offset_bytes: u64, cause: io::Error) -> Error {
        Error::source("cannot read the layer's extent map")
            .in_layer(&self.name)
            .at_offset(offset_bytes)
            .caused_by(cause)
    }
}

enum Map<'a> {
    Fiemap(Fiemap<'a>),
    Seek(&'a File),
}

struct LayerExtents<'a> {
    layer: &'a LayerFile,
    map: Map<'a>,
}

impl ExtentSource for LayerExtents<'_> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        match &mut self.map {
            Map::Fiemap(walk) => walk.next_extents(from_bytes, out),
            Map::Seek(file) => sparse::seek_extents(file, from_bytes, out),
        }
        .map_err(|e| self.layer.map_error(from_bytes, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(content: impl FnOnce(&File)) -> LayerFile {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        content(&file);
        LayerFile::new("volume-snap-a.img".into(), file).unwrap()
    }

    #[test]
    fn past_the_end_it_reads_as_zeros() {
        let layer = layer(|f| f.write_all_at(&[7; 6000], 0).unwrap());
        let mut buf = [1; 8192];
        layer.read_exact_at(&mut buf, 4096).unwrap();
        assert!(buf[..1904].iter().all(|&b| b == 7) && buf[1904..].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_layer_that_shrinks_is_an_error_and_not_zeros() {
        let layer = layer(|f| f.write_all_at(&[7; 8192], 0).unwrap());
        layer.file.set_len(4096).unwrap();
        let e = layer.read_exact_at(&mut [0; 8192], 0).unwrap_err();
        assert_eq!(
            e.to_string(),
            "the layer became shorter while it was read: layer volume-snap-a.img, offset 4096"
        );
        assert!(layer.extents_within(ByteRange::new(0, 4096)).is_err());
    }

    #[test]
    fn a_walk_in_batches_tells_every_extent() {
        const EXTENTS: u64 = 1000; // several batches of either method
        let layer = layer(|f| (0..EXTENTS).for_each(|i| f.write_all_at(&[1; 4096], i * 8192).unwrap()));
        for method in [layer.method(), ExtentMethod::Seek] {
            let layer =
                LayerFile { name: String::new(), file: layer.file.try_clone().unwrap(), method, ..layer };
            let mut walk = layer.extents().unwrap();
            let (mut all, mut from) = (Vec::new(), Some(0));
            while let Some(at) = from {
                from = walk.next_extents(at, &mut all).unwrap();
            }
            let told: Vec<_> = all.iter().map(|e| (e.range.start_bytes, e.range.len_bytes())).collect();
            let written: Vec<_> = (0..EXTENTS).map(|i| (i * 8192, 4096)).collect();
            assert_eq!(told, written, "{method:?}");
        }
    }
}
