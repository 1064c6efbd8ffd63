//! The qcow2 image format, versions 2 and 3, as far as reading the active image needs it.
//!
//! A backing image may be a qcow2 file that anyone made, so every number in it is a claim. This module turns
//! bytes into facts, and refuses what cannot be read rightly: an image that continues in another file,
//! encryption, features of a later date. Reference counts and snapshots do not matter to a reader and are not
//! looked at.
//!
//! ```text
//! guest offset = L1 index | L2 index | [subcluster |] offset within the cluster
//!
//! header -> L1 table -> L2 table -> cluster (plain, or deflated by zlib or zstd)
//!              | 0         | 0, or the zero flag
//!              v           v
//!            zeros       zeros
//! ```
//!
//! Source: QEMU 10.0 `docs/interop/qcow2.txt`, and `block/qcow2.c` and `block/qcow2.h` where the text leaves
//! room. All numbers are big-endian.

mod table;

use crate::error::{Error, Result};

pub use table::{Damage, Geometry, Mapping, Slot};

/// The first four bytes of every version of the format.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// How much of the file's beginning [`Header::parse`] wants to see, if the file has so much. What decides
/// anything lies in the first 112 bytes; the rest serves to name things in messages.
pub const HEADER_PREFIX_BYTES: usize = 64 << 10;

/// The largest L1 table QEMU opens (`QCOW_MAX_L1_SIZE`).
const MAX_L1_BYTES: u64 = 32 << 20;
/// The longest name of a backing file QEMU accepts.
const MAX_NAME_BYTES: usize = 1023;

const V2_HEADER_BYTES: usize = 72;
const V3_HEADER_BYTES: usize = 104;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Below 16 KiB a subcluster would be smaller than a sector of 512 bytes.
const EXTENDED_L2_MIN_CLUSTER_BITS: u32 = 14;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = DIRTY | CORRUPT | EXTERNAL_DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// What clusters are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate, without a zlib header.
    Deflate,
    /// One zstd frame.
    Zstd,
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How its tables are laid out.
    pub geometry: Geometry,
    /// What the guest sees, in bytes.
    pub size_bytes: u64,
    /// Where the L1 table begins in the file.
    pub l1_offset_bytes: u64,
    /// What compressed clusters are compressed with.
    pub compression: Compression,
    /// The name of the file that unallocated clusters are read from; empty if it lies where it is not looked for.
    pub backing_file: Option<String>,
    /// The name of the file that has the data, if the header names it.
    pub data_file: Option<String>,
    l1_entries: u32,
    encryption: u32,
    incompatible: u64,
    feature_names: Vec<(u8, String)>,
}

impl Header {
    /// Reads the header from the file's beginning, of which [`HEADER_PREFIX_BYTES`] are enough.
    ///
    /// # Errors
    /// When this is no qcow2 header, or its numbers cannot be those of an image. Whether the image can be read
    /// is another question: [`check_readable`](Self::check_readable).
    pub fn parse(prefix: &[u8]) -> Result<Header> {
        if !prefix.starts_with(&MAGIC) {
            return Err(Error::source("not a qcow2 image"));
        }
        let short = || damaged("the file ends within its header");
        let version = be32(prefix, 4).ok_or_else(short)?;
        if !(2..=3).contains(&version) {
            return Err(Error::source(format!("qcow version {version}, where 2 and 3 can be read"))
                .with_hint(FLATTEN_HINT));
        }
        let fixed: &[u8; V2_HEADER_BYTES] = prefix.first_chunk().ok_or_else(short)?;
        let (mut incompatible, mut header_bytes) = (0, V2_HEADER_BYTES);
        if version == 3 {
            incompatible = be64(prefix, 72).ok_or_else(short)?;
            header_bytes = be32(prefix, 100).and_then(|n| n.try_into().ok()).ok_or_else(short)?;
        }
        let mut header = Header {
            geometry: Geometry {
                version,
                cluster_bits: be32(fixed, 20).ok_or_else(short)?,
                extended_l2: incompatible & EXTENDED_L2 != 0,
            },
            size_bytes: be64(fixed, 24).ok_or_else(short)?,
            encryption: be32(fixed, 32).ok_or_else(short)?,
            l1_entries: be32(fixed, 36).ok_or_else(short)?,
            l1_offset_bytes: be64(fixed, 40).ok_or_else(short)?,
            compression: parse_compression(prefix, header_bytes, incompatible)?,
            backing_file: None,
            data_file: None,
            incompatible,
            feature_names: Vec::new(),
        };
        header.check_geometry(header_bytes)?;
        header.parse_names(prefix, header_bytes);
        Ok(header)
    }

    fn check_geometry(&self, header_bytes: usize) -> Result<()> {
        let geometry = &self.geometry;
        if !CLUSTER_BITS.contains(&geometry.cluster_bits) {
            return Err(damaged(&format!("clusters of 2^{} bytes", geometry.cluster_bits)));
        }
        let in_first_cluster = u64::try_from(header_bytes).is_ok_and(|n| n <= geometry.cluster_bytes());
        if (geometry.version == 3 && header_bytes < V3_HEADER_BYTES) || !in_first_cluster {
            return Err(damaged(&format!("a header of {header_bytes} bytes")));
        }
        if geometry.extended_l2 && geometry.cluster_bits < EXTENDED_L2_MIN_CLUSTER_BITS {
            return Err(damaged(&format!("subclusters in clusters of {} bytes", geometry.cluster_bytes())));
        }
        if i64::try_from(self.size_bytes).is_err() {
            return Err(damaged(&format!("a size of {} bytes", self.size_bytes)));
        }
        let needed = self.l1_entries();
        if needed > u64::from(self.l1_entries) || needed * 8 > MAX_L1_BYTES {
            return Err(damaged(&format!(
                "an L1 table of {} entries for an image of {} bytes",
                self.l1_entries, self.size_bytes
            )));
        }
        let misplaced =
            self.l1_offset_bytes == 0 || !self.l1_offset_bytes.is_multiple_of(geometry.cluster_bytes());
        if needed > 0 && misplaced {
            return Err(damaged(&format!("an L1 table at byte {}", self.l1_offset_bytes)));
        }
        Ok(())
    }

    /// Collects what only messages need: names of files and features. Whatever is malformed or out of sight
    /// here stays unnamed.
    fn parse_names(&mut self, prefix: &[u8], header_bytes: usize) {
        let backing_offset = be64(prefix, 8).unwrap_or(0);
        if backing_offset != 0 {
            let start = usize::try_from(backing_offset).unwrap_or(usize::MAX);
            let len = be32(prefix, 16).and_then(|n| n.try_into().ok()).unwrap_or(0).min(MAX_NAME_BYTES);
            let name = prefix.get(start..).and_then(|rest| rest.get(..len));
            self.backing_file = Some(name.map(printable).unwrap_or_default());
        }
        let mut at = header_bytes;
        while let (Some(kind), Some(len)) = (be32(prefix, at), be32(prefix, at + 4)) {
            let Some(body) = usize::try_from(len).ok().and_then(|len| prefix[at + 8..].get(..len)) else {
                break;
            };
            match kind {
                EXTENSION_END => break,
                EXTENSION_DATA_FILE => {
                    self.data_file = Some(printable(&body[..body.len().min(MAX_NAME_BYTES)]));
                }
                EXTENSION_FEATURE_NAMES => self.feature_names = incompatible_names(body),
                _ => {}
            }
            at += 8 + body.len().next_multiple_of(8);
        }
    }

    /// Says whether the bytes of this image can be read rightly from this file alone.
    ///
    /// A dirty image can: only its reference counts may be out of date, and a reader does not need them.
    ///
    /// # Errors
    /// When another file is needed, the image is encrypted or marked corrupt, or has a feature of a later date.
    pub fn check_readable(&self) -> Result<()> {
        if let Some(name) = &self.backing_file {
            return Err(Error::source(format!(
                "qcow2 image that continues in another file ({name}), which is never followed"
            ))
            .with_hint(FLATTEN_HINT));
        }
        if self.incompatible & EXTERNAL_DATA_FILE != 0 {
            let name = self.data_file.as_deref().unwrap_or("not named");
            return Err(Error::source(format!(
                "qcow2 image that has its data in another file ({name}), which is never followed"
            ))
            .with_hint(FLATTEN_HINT));
        }
        if self.encryption != 0 {
            let method = match self.encryption {
                1 => "AES".to_owned(),
                2 => "LUKS".to_owned(),
                other => format!("method {other}"),
            };
            return Err(Error::source(format!("encrypted qcow2 image ({method})")).with_hint(
                "decrypt it with `qemu-img convert -O raw`, and name the result with --backing-file",
            ));
        }
        let unknown = self.incompatible & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(Error::source(format!(
                "qcow2 image with features that are not known here: {}",
                self.name_features(unknown)
            ))
            .with_hint(FLATTEN_HINT));
        }
        if self.incompatible & CORRUPT != 0 {
            return Err(Error::source("qcow2 image that QEMU has marked as corrupt").with_hint(
                "take this backing image from another node, or repair a copy with `qemu-img check -r all COPY` and name that with --backing-file",
            ));
        }
        Ok(())
    }

    /// How many L1 entries the image's size needs. The table may have more, which map nothing the guest sees.
    pub fn l1_entries(&self) -> u64 {
        self.size_bytes.div_ceil(self.geometry.l2_table_maps_bytes())
    }

    fn name_features(&self, bits: u64) -> String {
        let names = (0..64u8).filter(|bit| bits >> bit & 1 != 0).map(|bit| {
            match self.feature_names.iter().find(|(named, _)| *named == bit) {
                Some((_, name)) => format!("bit {bit} ({name})"),
                None => format!("bit {bit}"),
            }
        });
        names.collect::<Vec<_>>().join(", ")
    }
}

/// What clusters are compressed with: a byte that the header of version 3 grew later.
fn parse_compression(prefix: &[u8], header_bytes: usize, incompatible: u64) -> Result<Compression> {
    let kind = if header_bytes > V3_HEADER_BYTES { prefix.get(V3_HEADER_BYTES).copied() } else { Some(0) };
    match (kind, incompatible & COMPRESSION_TYPE != 0) {
        (None, _) => Err(damaged("the file ends within its header")),
        (Some(0), false) => Ok(Compression::Deflate),
        (Some(1), true) => Ok(Compression::Zstd),
        (Some(0 | 1), _) => Err(damaged("it contradicts itself about how clusters are compressed")),
        (Some(kind), _) => {
            Err(Error::source(format!("qcow2 image with clusters compressed in an unknown way ({kind})"))
                .with_hint(FLATTEN_HINT))
        }
    }
}

const FLATTEN_HINT: &str = "make a flat copy where all its parts are, with `qemu-img convert -O raw`, and name that with --backing-file";

fn damaged(what: &str) -> Error {
    Error::source(format!("damaged qcow2 header: {what}"))
        .with_hint("take this backing image from another node, or from where it was downloaded")
}

/// The names of incompatible features in a feature name table: entries of kind, bit, and 46 bytes of name.
fn incompatible_names(table: &[u8]) -> Vec<(u8, String)> {
    const INCOMPATIBLE: u8 = 0;
    let entries = table.chunks_exact(48).take(64).filter(|entry| entry[0] == INCOMPATIBLE);
    entries.map(|entry| (entry[1], printable(entry[2..].split(|&b| b == 0).next().unwrap_or(&[])))).collect()
}

/// A name from the file that cannot play tricks on a terminal.
fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().collect()
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests;
