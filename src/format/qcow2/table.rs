//! The tables of a qcow2 image: which entries lead to an offset, and what an entry says.

use std::fmt;

/// Compressed clusters are measured in these.
const COMPRESSED_SECTOR_BYTES: u64 = 512;
const SUBCLUSTERS: u64 = 32;

/// Bits 9 to 55 of an L1 entry or a standard L2 entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZEROS: u64 = 1 << 0;

/// Where the bytes of a cluster or subcluster are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Nowhere: it reads as zeros, said so or never written.
    Zeros,
    /// In the file, as they are.
    Plain {
        /// Where in the file they begin.
        host_offset_bytes: u64,
    },
    /// In the file, the whole cluster compressed into less.
    Compressed {
        /// Where in the file the compressed bytes begin.
        host_offset_bytes: u64,
        /// How many there are at most; the file may end up to 511 bytes earlier.
        len_bytes: u64,
    },
}

/// Why a table entry cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// An L2 table that does not begin at a cluster.
    UnalignedTable,
    /// A cluster that does not begin at a cluster of the file.
    UnalignedCluster,
    /// The zero flag, which version 2 does not have.
    ZeroFlagInVersion2,
    /// A subcluster that is said to have data and to read as zeros.
    AllocatedAndZero,
    /// Subclusters that are said to have data in a cluster that has no place in the file.
    AllocatedNowhere,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::UnalignedTable => "an L2 table that does not begin at a cluster",
            Damage::UnalignedCluster => "data that does not begin at a cluster",
            Damage::ZeroFlagInVersion2 => "a zero flag in a version 2 image",
            Damage::AllocatedAndZero => "a subcluster that both has data and reads as zeros",
            Damage::AllocatedNowhere => "subclusters with data in a cluster that is nowhere",
        })
    }
}

/// The way to a guest offset: which entry of which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The entry of the L1 table.
    pub l1_index: u64,
    /// The unit (see [`Geometry::unit_bytes`]) within all that the L2 table maps.
    pub unit: u64,
}

/// The numbers all tables of an image are laid out by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) extended_l2: bool,
}

impl Geometry {
    /// Whether L2 entries have a bitmap of subclusters.
    pub fn extended_l2(&self) -> bool {
        self.extended_l2
    }

    /// The size of a cluster: 512 bytes to 2 MiB.
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The smallest piece that has a mapping of its own: a cluster, or a subcluster.
    pub fn unit_bytes(&self) -> u64 {
        self.cluster_bytes() / self.units_per_cluster()
    }

    /// How many units share one L2 entry.
    pub fn units_per_cluster(&self) -> u64 {
        if self.extended_l2 { SUBCLUSTERS } else { 1 }
    }

    /// The size of an L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// How many bytes of the image one L2 table maps.
    pub fn l2_table_maps_bytes(&self) -> u64 {
        // At most 2^21 * 2^18.
        self.cluster_bytes() / self.l2_entry_bytes() * self.cluster_bytes()
    }

    /// Which entries lead to the byte at `offset_bytes` of the image.
    pub fn slot(&self, offset_bytes: u64) -> Slot {
        Slot {
            l1_index: offset_bytes / self.l2_table_maps_bytes(),
            unit: offset_bytes % self.l2_table_maps_bytes() / self.unit_bytes(),
        }
    }

    /// Where the L2 table is that an L1 entry points to, if it points to one.
    ///
    /// # Errors
    /// When it cannot be there.
    pub fn l2_table(&self, l1_entry: u64) -> std::result::Result<Option<u64>, Damage> {
        let offset = l1_entry & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster_bytes()) {
            return Err(Damage::UnalignedTable);
        }
        Ok((offset != 0).then_some(offset))
    }

    /// Where the bytes of one unit of an L2 entry's cluster are. `bitmap` is the entry's second half in an image
    /// with subclusters, and not looked at in others.
    ///
    /// # Errors
    /// When the entry makes no sense.
    pub fn mapping(&self, l2_entry: u64, bitmap: u64, unit: u64) -> std::result::Result<Mapping, Damage> {
        if l2_entry & COMPRESSED != 0 {
            return Ok(self.compressed(l2_entry));
        }
        let offset = l2_entry & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster_bytes()) {
            return Err(Damage::UnalignedCluster);
        }
        let plain = |host_offset_bytes| Ok(Mapping::Plain { host_offset_bytes });
        if !self.extended_l2 {
            return match l2_entry & READS_AS_ZEROS != 0 {
                true if self.version < 3 => Err(Damage::ZeroFlagInVersion2),
                false if offset != 0 => plain(offset),
                _ => Ok(Mapping::Zeros),
            };
        }
        let (allocated, zero) = (bitmap & 0xffff_ffff, bitmap >> 32);
        if offset == 0 && allocated != 0 {
            return Err(Damage::AllocatedNowhere);
        }
        if allocated & zero != 0 {
            return Err(Damage::AllocatedAndZero);
        }
        let subcluster = unit % SUBCLUSTERS;
        match allocated >> subcluster & 1 {
            0 => Ok(Mapping::Zeros),
            _ => plain(offset + subcluster * self.unit_bytes()),
        }
    }

    /// The descriptor of a compressed cluster: an offset of any alignment, and above it the number of 512-byte
    /// sectors that the data touches besides the first.
    fn compressed(&self, l2_entry: u64) -> Mapping {
        let count_bits = self.cluster_bits - 8;
        let offset_bits = 62 - count_bits;
        let host_offset_bytes = l2_entry & ((1 << offset_bits) - 1);
        let sectors = (l2_entry >> offset_bits & ((1 << count_bits) - 1)) + 1;
        let before = host_offset_bytes % COMPRESSED_SECTOR_BYTES;
        Mapping::Compressed { host_offset_bytes, len_bytes: sectors * COMPRESSED_SECTOR_BYTES - before }
    }
}
