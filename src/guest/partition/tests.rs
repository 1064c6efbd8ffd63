//! Tables as `sfdisk` writes them, and as damage and malice leave them.

use super::*;
use crate::error::ErrorKind;
use crate::view::disk::Stretch;

/// A disk in memory; what was not set is zeros.
struct Image(Vec<u8>);

impl Disk for Image {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let range = crate::view::disk::check_range(self.size_bytes(), offset_bytes, buf.len())?;
        let at = |bytes: u64| usize::try_from(bytes).unwrap();
        buf.copy_from_slice(&self.0[at(range.start_bytes)..at(range.end_bytes)]);
        Ok(())
    }

    fn stretches(&self, _: ByteRange) -> Result<Vec<Stretch>> {
        unreachable!("a table is found by its bytes")
    }
}

const DISK_BYTES: usize = 1 << 20;

/// An entry of a DOS table.
fn dos_entry(kind: u8, first: u32, count: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..].copy_from_slice(&count.to_le_bytes());
    entry
}

fn put_dos(image: &mut [u8], at_sector: usize, entries: &[[u8; 16]]) {
    let table = &mut image[512 * at_sector..512 * (at_sector + 1)];
    for (i, entry) in entries.iter().enumerate() {
        table[446 + 16 * i..446 + 16 * (i + 1)].copy_from_slice(entry);
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
}

fn numbers_and_starts(table: &Table) -> Vec<(u32, u64)> {
    table.partitions.iter().map(|p| (p.number, p.range.start_bytes / 512)).collect()
}

fn dos_with_logical() -> Vec<u8> {
    let mut image = vec![0; DISK_BYTES];
    put_dos(&mut image, 0, &[dos_entry(0x83, 64, 100), [0; 16], dos_entry(0x0f, 200, 1000)]);
    put_dos(&mut image, 200, &[dos_entry(0x83, 10, 50), dos_entry(0x05, 300, 200)]);
    put_dos(&mut image, 500, &[dos_entry(0x83, 20, 60)]);
    image
}

#[test]
fn logical_partitions_count_from_five_wherever_they_are() {
    let table = read(&Image(dos_with_logical())).unwrap().unwrap();
    assert_eq!((table.scheme, table.doubt), (Scheme::Dos, None));
    assert_eq!(numbers_and_starts(&table), [(1, 64), (5, 210), (6, 520)]);
    assert_eq!(table.partitions[2].range, ByteRange::new(520 * 512, 580 * 512));
}

#[test]
fn a_chain_that_bites_its_tail_or_breaks_ends_and_says_so() {
    let mut image = dos_with_logical();
    put_dos(&mut image, 500, &[dos_entry(0x83, 20, 60), dos_entry(0x05, 0, 200)]);
    let table = read(&Image(image)).unwrap().unwrap();
    assert_eq!(numbers_and_starts(&table), [(1, 64), (5, 210), (6, 520)]);
    assert!(table.doubt.is_some());
    for next in [u32::MAX, 1400] {
        let mut image = dos_with_logical();
        put_dos(&mut image, 500, &[dos_entry(0x83, 20, 60), dos_entry(0x05, next, 200)]);
        assert!(read(&Image(image)).unwrap().unwrap().doubt.is_some());
    }
}

#[test]
fn a_boot_sector_is_no_table() {
    let mut image = vec![0; DISK_BYTES];
    put_dos(&mut image, 0, &[[0x4f; 16]; 4]);
    assert_eq!(read(&Image(image)).unwrap(), None);
    let mut empty = vec![0; DISK_BYTES];
    put_dos(&mut empty, 0, &[]);
    assert_eq!(read(&Image(empty)).unwrap(), None);
    assert_eq!(read(&Image(Vec::new())).unwrap(), None);
}

/// A GPT with the partitions `ranges`, first and last sector, in a disk with sectors of `sector_len`.
fn gpt(ranges: &[(u64, u64)], sector_len: usize) -> Vec<u8> {
    let mut image = vec![0; DISK_BYTES];
    put_dos(&mut image, 0, &[dos_entry(0xee, 1, u32::MAX)]);
    let mut entries = vec![0; 128 * 128];
    for (entry, (first, last)) in entries.chunks_exact_mut(128).zip(ranges) {
        entry[..16].fill(0x11);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        entry[56..60].copy_from_slice(&[b'd', 0, b'b', 0]);
    }
    let last = DISK_BYTES / sector_len - 1;
    let array_sectors = entries.len() / sector_len;
    for (header_at, array_at) in [(1, 2), (last, last - array_sectors)] {
        image[array_at * sector_len..array_at * sector_len + entries.len()].copy_from_slice(&entries);
        let header = &mut image[header_at * sector_len..][..92];
        header[..8].copy_from_slice(SIGNATURE_BYTES);
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&(header_at as u64).to_le_bytes());
        header[72..80].copy_from_slice(&(array_at as u64).to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let crc = crc32fast::hash(header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    image
}

const SIGNATURE_BYTES: &[u8] = b"EFI PART";

#[test]
fn a_gpt_is_read_in_sectors_of_either_size_and_from_its_copy() {
    for sector_len in [512, 4096] {
        let whole = gpt(&[(64, 99), (100, 131)], sector_len);
        let bytes = sector_len as u64;
        let table = read(&Image(whole.clone())).unwrap().unwrap();
        assert_eq!((table.scheme, table.doubt), (Scheme::Gpt, None));
        assert_eq!(table.partitions[1].range, ByteRange::new(100 * bytes, 132 * bytes));
        assert_eq!((table.partitions[1].number, table.partitions[1].name.as_str()), (2, "db"));
        // A flipped bit in the header, and one in the entries.
        for at in [sector_len + 40, 2 * sector_len + 33] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            let from_copy = read(&Image(damaged.clone())).unwrap().unwrap();
            assert_eq!(from_copy.partitions, table.partitions);
            assert!(from_copy.doubt.is_some());
            let end = damaged.len() - sector_len;
            damaged[end + 40] ^= 1;
            assert_eq!(read(&Image(damaged)).unwrap_err().kind(), ErrorKind::Source);
        }
    }
}

#[test]
fn absurd_headers_are_refused_within_bounds() {
    let resum = |image: &mut Vec<u8>| {
        image[512 + 16..512 + 20].fill(0);
        let crc = crc32fast::hash(&image[512..512 + 92]);
        image[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
    };
    let patches: [(usize, &[u8]); 5] =
        [(80, &[0xff; 4]), (84, &[0xff; 4]), (84, &[1, 0, 0, 0]), (72, &[0xff; 8]), (12, &[0xff; 4])];
    for (at, bytes) in patches {
        let mut image = gpt(&[(64, 99)], 512);
        image[512 + at..512 + at + bytes.len()].copy_from_slice(bytes);
        resum(&mut image);
        let end = image.len() - 512;
        image[end..].fill(0);
        assert_eq!(read(&Image(image)).unwrap_err().kind(), ErrorKind::Source, "{at}");
    }
    // Entries that end before they begin, or at the end of all numbers, are none.
    let odd = read(&Image(gpt(&[(99, 64), (0, u64::MAX), (64, 64)], 512))).unwrap().unwrap();
    assert_eq!(numbers_and_starts(&odd), [(3, 64)]);
}
