//! A qcow2 file as a backing image.
//!
//! It is the lowest layer: what is not allocated and what is marked as zeros both read as zeros, and both are
//! holes. Everything else, compressed or not, is data.
//!
//! **The end of the file.** QEMU reads a qcow2 file as if zeros followed its end, so an image cut short by a
//! broken download reads as zeros there without a word. Here a byte of the image that the file does not have is
//! an error. The writers of the format do not depend on that kindness: they write the last cluster whole, or,
//! with subclusters, mark what was not written. Only a compressed cluster may be told longer than the file,
//! since its length counts sectors; its decoder notices when something is missing.

mod inflate;
mod map;

use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::qcow2::{HEADER_PREFIX_BYTES, Header, Mapping};
use crate::model::extent::{Extent, ExtentKind, ExtentSource};
use crate::model::units::ByteRange;
use crate::view::LayerImage;
use crate::view::read_at::ReadAt;
use crate::view::recent::Recent;

use inflate::inflate;
use map::{Map, OTHER_COPY_HINT, Run};

/// How much memory unpacked clusters may take.
const UNPACKED_BYTES: u64 = 4 << 20;
/// How many runs of the map are looked at in one go.
const RUNS_PER_BATCH: usize = 4096;
/// How many extents are told in one go.
const EXTENTS_PER_BATCH: usize = 256;
/// How many runs of the map a read-ahead follows.
const RUNS_AHEAD: usize = 16;

/// An open qcow2 image; the default is one in a file.
pub struct Qcow2Image<F = File> {
    map: Map<F>,
    /// Clusters of which only a part was asked for; the rest is likely to be asked for next.
    unpacked: Recent,
}

impl<F: ReadAt> Qcow2Image<F> {
    /// Opens the image in `file`; `name` is for messages.
    ///
    /// # Errors
    /// When the file cannot be read, is no qcow2 image or a damaged one, or cannot be read rightly by itself:
    /// see [`Header::check_readable`].
    pub fn open(name: String, file: F) -> Result<Self> {
        let failed = |e| Error::source("cannot read the backing image").in_layer(&name).caused_by(e);
        let file_bytes = file.len_bytes().map_err(failed)?;
        let prefix_bytes =
            usize::try_from(file_bytes).map_or(HEADER_PREFIX_BYTES, |n| n.min(HEADER_PREFIX_BYTES));
        let mut prefix = vec![0; prefix_bytes];
        file.read_exact_at(&mut prefix, 0).map_err(failed)?;
        let header = Header::parse(&prefix)
            .and_then(|header| header.check_readable().map(|()| header))
            .map_err(|e| e.in_layer(&name))?;
        let clusters_kept =
            usize::try_from(UNPACKED_BYTES / header.geometry.cluster_bytes()).unwrap_or(2).clamp(2, 64);
        let map = Map::open(name, file, file_bytes, header)?;
        Ok(Qcow2Image { map, unpacked: Recent::new(clusters_kept) })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.map.header
    }

    /// Fills `buf` from a compressed cluster; `offset_bytes` and all of `buf` lie within it.
    fn read_compressed(&self, buf: &mut [u8], offset_bytes: u64, packed: ByteRange) -> Result<()> {
        let cluster_bytes = usize::try_from(self.map.header.geometry.cluster_bytes()).unwrap_or_default();
        if buf.len() == cluster_bytes {
            return self.unpack(buf, offset_bytes, packed);
        }
        let cluster = self.unpacked.get_or_read(packed.start_bytes, || {
            let mut cluster = vec![0; cluster_bytes];
            self.unpack(&mut cluster, offset_bytes, packed)?;
            Ok(Arc::from(cluster))
        })?;
        // Below the cluster's size, so it fits.
        let inside =
            usize::try_from(offset_bytes % self.map.header.geometry.cluster_bytes()).unwrap_or_default();
        buf.copy_from_slice(&cluster[inside..inside + buf.len()]);
        Ok(())
    }

    fn unpack(&self, cluster: &mut [u8], offset_bytes: u64, packed: ByteRange) -> Result<()> {
        let packed = self.map.read_packed(packed.start_bytes, packed.len_bytes(), offset_bytes)?;
        inflate(self.map.header.compression, &packed, cluster).map_err(|e| {
            self.map
                .error("damaged qcow2 image: a compressed cluster cannot be unpacked", offset_bytes)
                .caused_by(e)
                .with_hint(OTHER_COPY_HINT)
        })
    }
}

impl<F: ReadAt> LayerImage for Qcow2Image<F> {
    fn name(&self) -> &str {
        self.map.name()
    }

    fn size_bytes(&self) -> u64 {
        self.map.header.size_bytes
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        Ok(Box::new(Qcow2Extents { map: &self.map }))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset_bytes.saturating_add(done as u64);
            if at >= self.size_bytes() {
                buf[done..].fill(0);
                break;
            }
            let run = self.map.run_at(at)?;
            let len = usize::try_from(run.len_bytes).map_or(buf.len() - done, |n| n.min(buf.len() - done));
            let piece = &mut buf[done..done + len];
            match run.mapping {
                Mapping::Zeros => piece.fill(0),
                Mapping::Plain { host_offset_bytes } => self.map.read(piece, host_offset_bytes, at)?,
                Mapping::Compressed { host_offset_bytes, len_bytes } => {
                    let packed = ByteRange::new(host_offset_bytes, host_offset_bytes + len_bytes);
                    self.read_compressed(piece, at, packed)?;
                }
            }
            done += len;
        }
        Ok(())
    }

    fn prefetch(&self, range: ByteRange) {
        let mut at = range.start_bytes;
        let end = range.end_bytes.min(self.size_bytes());
        for _ in 0..RUNS_AHEAD {
            if at >= end {
                break;
            }
            // Whoever reads it will meet the same error and report it.
            let Ok(Run { len_bytes, mapping }) = self.map.run_at(at) else { break };
            let len_bytes = len_bytes.min(end - at);
            let (start, len) = match mapping {
                Mapping::Zeros => (0, 0),
                Mapping::Plain { host_offset_bytes } => (host_offset_bytes, len_bytes),
                Mapping::Compressed { host_offset_bytes, len_bytes } => (host_offset_bytes, len_bytes),
            };
            if len > 0 {
                self.map.file.prefetch(ByteRange::new(start, start.saturating_add(len)));
            }
            at += len_bytes;
        }
    }
}

/// A walk over an image's map.
struct Qcow2Extents<'a, F> {
    map: &'a Map<F>,
}

impl<F: ReadAt> ExtentSource for Qcow2Extents<'_, F> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        let already = out.len();
        let mut at = from_bytes;
        for _ in 0..RUNS_PER_BATCH {
            if at >= self.map.header.size_bytes {
                return Ok(None);
            }
            let run = self.map.run_at(at)?;
            let end = at + run.len_bytes;
            if run.mapping != Mapping::Zeros {
                let full = out.len() - already == EXTENTS_PER_BATCH;
                match out[already..].last_mut() {
                    Some(last) if last.range.end_bytes == at => last.range.end_bytes = end,
                    _ if full => break,
                    _ => out.push(Extent { range: ByteRange::new(at, end), kind: ExtentKind::Data }),
                }
            }
            at = end;
        }
        Ok((at < self.map.header.size_bytes).then_some(at))
    }
}

#[cfg(test)]
mod tests;
