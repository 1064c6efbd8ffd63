//! From an offset of the image to a place in the file, by way of the L1 and L2 tables.
//!
//! Tables can be large (an L2 table up to 2 MiB, the L1 table up to 32 MiB), and one made to do harm larger
//! still in sum; so they are never held whole. They are read in pages of 4 KiB, of which the last few are kept.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::qcow2::{Damage, Header, Mapping};
use crate::view::read_at::ReadAt;
use crate::view::recent::Recent;

/// Tables begin at multiples of 512 bytes and have sizes that are powers of two, so no entry straddles pages.
const PAGE_BYTES: u64 = 4096;
/// 256 KiB in all: enough for each of many readers to have its own piece of the L1 and of an L2 table.
const PAGES_KEPT: usize = 64;
/// How much of the L1 table is looked at in one go when the image is opened.
const L1_STEP_BYTES: usize = 64 << 10;

/// A stretch of the image that is mapped in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// How long it is.
    pub(super) len_bytes: u64,
    /// Where the bytes are; of a compressed cluster, where all of it is.
    pub(super) mapping: Mapping,
}

/// The tables of an image.
pub(super) struct Map<F> {
    name: String,
    pub(super) file: F,
    file_bytes: u64,
    pub(super) header: Header,
    pages: Recent,
}

impl<F: ReadAt> Map<F> {
    /// Takes an image whose header was found readable, and looks through its L1 table.
    pub(super) fn open(name: String, file: F, file_bytes: u64, header: Header) -> Result<Self> {
        let map = Map { name, file, file_bytes, header, pages: Recent::new(PAGES_KEPT) };
        map.check_l1()?;
        Ok(map)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// An L2 table takes a cluster, so there cannot be more of them than the file has clusters. Without this
    /// bound, a small file whose L1 entries all lead to one table would be as laborious as a huge one.
    fn check_l1(&self) -> Result<()> {
        let l1_bytes = self.header.l1_entries() * 8;
        let start = self.header.l1_offset_bytes;
        if l1_bytes > 0 && start.checked_add(l1_bytes).is_none_or(|end| end > self.file_bytes) {
            return Err(self.cut_short("its L1 table", start, 0));
        }
        let mut buf = vec![0; L1_STEP_BYTES];
        let (mut at, mut tables) = (0, 0);
        while at < l1_bytes {
            let piece = usize::try_from(l1_bytes - at).map_or(L1_STEP_BYTES, |left| left.min(L1_STEP_BYTES));
            self.read(&mut buf[..piece], start + at, 0)?;
            tables +=
                buf[..piece].chunks_exact(8).filter(|entry| entry.iter().any(|&b| b != 0)).count() as u64;
            at += piece as u64;
        }
        if tables > self.file_bytes / self.header.geometry.cluster_bytes() {
            return Err(self
                .error("damaged qcow2 image: more L2 tables than fit into the file", 0)
                .with_hint(OTHER_COPY_HINT));
        }
        Ok(())
    }

    /// How the image is mapped from `offset_bytes` on, which must be within it; the run goes on as far as it is
    /// known to without reading another page.
    pub(super) fn run_at(&self, offset_bytes: u64) -> Result<Run> {
        let (h, g) = (&self.header, &self.header.geometry);
        let slot = g.slot(offset_bytes);
        let l1_entry_at = h.l1_offset_bytes + slot.l1_index * 8;
        let l1_page = self.page(l1_entry_at, offset_bytes)?;
        let l1_at = in_page(l1_entry_at);
        let Some(table) = g.l2_table(be64(&l1_page, l1_at)).map_err(|d| self.damaged(d, offset_bytes))?
        else {
            let empty = l1_page[l1_at..].chunks_exact(8).take_while(|e| e.iter().all(|&b| b == 0)).count();
            let entries = slot.l1_index + (empty as u64).max(1);
            let end = entries.saturating_mul(g.l2_table_maps_bytes()).min(h.size_bytes);
            return Ok(Run { len_bytes: end - offset_bytes, mapping: Mapping::Zeros });
        };
        if table.checked_add(g.cluster_bytes()).is_none_or(|end| end > self.file_bytes) {
            return Err(self.cut_short("an L2 table", table, offset_bytes));
        }
        self.run_in_table(table, slot.unit, offset_bytes)
    }

    fn run_in_table(&self, table: u64, first_unit: u64, offset_bytes: u64) -> Result<Run> {
        let g = &self.header.geometry;
        let entry_at = table + first_unit / g.units_per_cluster() * g.l2_entry_bytes();
        let page = self.page(entry_at, offset_bytes)?;
        let page_entries = (page.len() - in_page(entry_at)) as u64 / g.l2_entry_bytes();
        let table_units = g.cluster_bytes() / g.l2_entry_bytes() * g.units_per_cluster();
        let page_units = (first_unit / g.units_per_cluster() + page_entries) * g.units_per_cluster();
        let end_unit = table_units.min(page_units);

        let mapping_of = |unit: u64| {
            let at = in_page(table + unit / g.units_per_cluster() * g.l2_entry_bytes());
            let bitmap = if g.extended_l2() { be64(&page, at + 8) } else { 0 };
            g.mapping(be64(&page, at), bitmap, unit)
        };
        let first = mapping_of(first_unit).map_err(|d| self.damaged(d, offset_bytes))?;
        // Damage further on is reported by whoever gets there.
        let goes_on = |unit: u64| match (first, mapping_of(unit)) {
            (Mapping::Zeros, Ok(Mapping::Zeros)) => true,
            (Mapping::Plain { host_offset_bytes: from }, Ok(Mapping::Plain { host_offset_bytes: here })) => {
                here.checked_sub(from) == Some((unit - first_unit) * g.unit_bytes())
            }
            _ => false,
        };
        let last = match first {
            Mapping::Compressed { .. } => {
                first_unit - first_unit % g.units_per_cluster() + g.units_per_cluster()
            }
            _ => (first_unit + 1..end_unit).find(|&unit| !goes_on(unit)).unwrap_or(end_unit),
        };
        let inside = offset_bytes % g.unit_bytes();
        let mapping = match first {
            Mapping::Plain { host_offset_bytes } => {
                Mapping::Plain { host_offset_bytes: host_offset_bytes + inside }
            }
            other => other,
        };
        let len_bytes = (last - first_unit) * g.unit_bytes() - inside;
        Ok(Run { len_bytes: len_bytes.min(self.header.size_bytes - offset_bytes), mapping })
    }

    /// The page that has the entry at `entry_at` of the file; shorter than others at the file's end.
    fn page(&self, entry_at: u64, for_bytes: u64) -> Result<Arc<[u8]>> {
        let start = entry_at - entry_at % PAGE_BYTES;
        let present = PAGE_BYTES.min(self.file_bytes.saturating_sub(start));
        if entry_at % PAGE_BYTES + 8 > present {
            return Err(self.cut_short("a table", entry_at, for_bytes));
        }
        self.pages.get_or_read(start, || {
            let mut page = vec![0; usize::try_from(present).unwrap_or_default()];
            self.read(&mut page, start, for_bytes)?;
            Ok(page.into())
        })
    }

    /// Reads at `host_bytes` of the file what the image needs at `for_bytes`. What the file does not have is an
    /// error; see [`cut_short`](Self::cut_short).
    pub(super) fn read(&self, buf: &mut [u8], host_bytes: u64, for_bytes: u64) -> Result<()> {
        if host_bytes.checked_add(buf.len() as u64).is_none_or(|end| end > self.file_bytes) {
            return Err(self.cut_short("data", host_bytes, for_bytes));
        }
        self.file.read_exact_at(buf, host_bytes).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
                return self
                    .error("the backing image became shorter while it was read", for_bytes)
                    .with_hint("something still writes to it: stop it, and start again");
            }
            self.error(format!("cannot read the backing image at byte {host_bytes} of its file"), for_bytes)
                .caused_by(e)
                .with_hint("the disk may be failing: look at the kernel log, or take this backing image from another node")
        })
    }

    /// Reads the compressed bytes of a cluster. Their number is told in whole sectors of 512 bytes, so the file
    /// may rightly end within the last one.
    pub(super) fn read_packed(&self, host_bytes: u64, len_bytes: u64, for_bytes: u64) -> Result<Vec<u8>> {
        let present = self.file_bytes.saturating_sub(host_bytes).min(len_bytes);
        if present == 0 {
            return Err(self.cut_short("a compressed cluster", host_bytes, for_bytes));
        }
        // At most two clusters, 4 MiB.
        let mut packed = vec![0; usize::try_from(present).unwrap_or_default()];
        self.read(&mut packed, host_bytes, for_bytes)?;
        Ok(packed)
    }

    /// An error about the image's byte at `for_bytes`.
    pub(super) fn error(&self, what: impl Into<String>, for_bytes: u64) -> Error {
        Error::source(what).in_layer(&self.name).at_offset(for_bytes)
    }

    fn damaged(&self, damage: Damage, for_bytes: u64) -> Error {
        self.error(format!("damaged qcow2 image: {damage}"), for_bytes).with_hint(OTHER_COPY_HINT)
    }

    fn cut_short(&self, what: &str, host_bytes: u64, for_bytes: u64) -> Error {
        self.error(
            format!(
                "qcow2 image cut short or damaged: {what} at byte {host_bytes} of a file of {} bytes",
                self.file_bytes
            ),
            for_bytes,
        )
        .with_hint(OTHER_COPY_HINT)
    }
}

/// What to do about a damaged image.
pub(super) const OTHER_COPY_HINT: &str =
    "take this backing image from another node, or from where it was downloaded; `qemu-img check` tells more";

fn in_page(at_bytes: u64) -> usize {
    // Below 4096, so it fits.
    usize::try_from(at_bytes % PAGE_BYTES).unwrap_or_default()
}

/// The entry at `at` of a page that has one there.
fn be64(page: &[u8], at: usize) -> u64 {
    page.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| u64::from_be_bytes(*b))
}
