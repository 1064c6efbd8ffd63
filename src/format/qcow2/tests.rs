use proptest::prelude::*;

use super::*;

/// The smallest image header: 64 KiB clusters, 1 MiB, an L1 table of one entry in the fourth cluster.
fn header(version: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[..4].copy_from_slice(&MAGIC);
    put32(&mut bytes, 4, version);
    put32(&mut bytes, 20, 16);
    put64(&mut bytes, 24, 1 << 20);
    put32(&mut bytes, 36, 1);
    put64(&mut bytes, 40, 3 << 16);
    if version == 3 {
        put32(&mut bytes, 100, 112);
    }
    bytes
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn changed(version: u32, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = header(version);
    change(&mut bytes);
    bytes
}

fn refusal(bytes: &[u8]) -> String {
    Header::parse(bytes).unwrap().check_readable().unwrap_err().to_string()
}

#[test]
fn both_versions_are_read() {
    for version in [2, 3] {
        let h = Header::parse(&header(version)).unwrap();
        h.check_readable().unwrap();
        assert_eq!((h.size_bytes, h.l1_offset_bytes, h.l1_entries()), (1 << 20, 3 << 16, 1));
        assert_eq!((h.geometry.cluster_bytes(), h.geometry.unit_bytes()), (1 << 16, 1 << 16));
        assert_eq!(h.geometry.l2_table_maps_bytes(), 512 << 20);
    }
}

#[test]
fn another_file_is_refused_by_name() {
    let backed = |name: &[u8]| {
        changed(3, |b| {
            put64(b, 8, 512);
            put32(b, 16, u32::try_from(name.len()).unwrap());
            b[512..512 + name.len()].copy_from_slice(name);
        })
    };
    assert_eq!(
        refusal(&backed(b"/etc/shadow")),
        "qcow2 image that continues in another file (/etc/shadow), which is never followed"
    );
    assert!(refusal(&backed(b"\x1b[2Jbase")).contains(r"(\u{1b}[2Jbase)"));

    let data_file = changed(3, |b| {
        put64(b, 72, EXTERNAL_DATA_FILE);
        put32(b, 112, EXTENSION_DATA_FILE);
        put32(b, 116, 8);
        b[120..128].copy_from_slice(b"disk.raw");
    });
    assert_eq!(
        refusal(&data_file),
        "qcow2 image that has its data in another file (disk.raw), which is never followed"
    );
}

#[test]
fn a_name_out_of_sight_is_still_a_refusal() {
    let far = changed(3, |b| {
        put64(b, 8, u64::MAX);
        put32(b, 16, u32::MAX);
    });
    assert!(refusal(&far).starts_with("qcow2 image that continues in another file"));
}

#[test]
fn encryption_and_corruption_are_refused_and_dirt_is_not() {
    assert_eq!(refusal(&changed(2, |b| put32(b, 32, 1))), "encrypted qcow2 image (AES)");
    assert_eq!(refusal(&changed(3, |b| put32(b, 32, 2))), "encrypted qcow2 image (LUKS)");
    assert_eq!(
        refusal(&changed(3, |b| put64(b, 72, CORRUPT))),
        "qcow2 image that QEMU has marked as corrupt"
    );
    Header::parse(&changed(3, |b| put64(b, 72, DIRTY))).unwrap().check_readable().unwrap();
}

#[test]
fn features_of_a_later_date_are_refused_by_name() {
    let later = changed(3, |b| {
        put64(b, 72, 1 << 63 | 1 << 7 | DIRTY);
        put32(b, 112, EXTENSION_FEATURE_NAMES);
        put32(b, 116, 96);
        b[120..122].copy_from_slice(&[1, 7]); // a compatible feature of the same bit
        b[122..127].copy_from_slice(b"wrong");
        b[168..170].copy_from_slice(&[0, 7]);
        b[170..178].copy_from_slice(b"teleport");
    });
    assert_eq!(
        refusal(&later),
        "qcow2 image with features that are not known here: bit 7 (teleport), bit 63"
    );
}

#[test]
fn impossible_numbers_are_refused() {
    type Change = fn(&mut [u8]);
    let cases: [(Change, &str); 14] = [
        (|b| put32(b, 4, 1), "qcow version 1, where 2 and 3 can be read"),
        (|b| put32(b, 20, 8), "clusters of 2^8 bytes"),
        (|b| put32(b, 20, 22), "clusters of 2^22 bytes"),
        (|b| put32(b, 20, u32::MAX), "clusters of 2^4294967295 bytes"),
        (|b| put64(b, 24, 1 << 63), "a size of 9223372036854775808 bytes"),
        (
            |b| put64(b, 24, (1 << 63) - 1),
            "an L1 table of 1 entries for an image of 9223372036854775807 bytes",
        ),
        (|b| put32(b, 36, 0), "an L1 table of 0 entries"),
        (|b| put64(b, 40, 0), "an L1 table at byte 0"),
        (|b| put64(b, 40, 4096), "an L1 table at byte 4096"),
        (|b| put32(b, 100, 103), "a header of 103 bytes"),
        (|b| put32(b, 100, u32::MAX), "ends within its header"),
        (|b| b[104] = 1, "contradicts itself"),
        (
            |b| {
                put64(b, 72, COMPRESSION_TYPE);
                b[104] = 9;
            },
            "compressed in an unknown way (9)",
        ),
        (
            |b| {
                put64(b, 72, EXTENDED_L2);
                put32(b, 20, 13);
            },
            "subclusters in clusters of 8192 bytes",
        ),
    ];
    for (change, said) in cases {
        // In a prefix as short as the header, so that "the rest is elsewhere" is met too.
        let mut bytes = changed(3, change);
        if said.contains("ends within") {
            bytes.truncate(104);
        }
        let e = Header::parse(&bytes).unwrap_err();
        assert!(e.to_string().contains(said), "{e} instead of {said}");
        assert!(e.hint().is_some(), "{e} leaves the reader alone");
    }
    // An L1 table that is large enough for its size, and too large for anyone.
    let vast = changed(3, |b| {
        put32(b, 20, 9);
        put32(b, 36, u32::MAX);
        put64(b, 24, 1 << 40);
    });
    assert!(Header::parse(&vast).unwrap_err().to_string().contains("an L1 table of 4294967295 entries"));
    for len in 0..104 {
        assert!(Header::parse(&header(3)[..len]).is_err(), "{len} bytes");
    }
}

fn geometry(version: u32, cluster_bits: u32, extended_l2: bool) -> Geometry {
    Geometry { version, cluster_bits, extended_l2 }
}

#[test]
fn standard_entries() {
    let g = geometry(3, 16, false);
    assert_eq!(g.mapping(0, 0, 0), Ok(Mapping::Zeros));
    assert_eq!(g.mapping(1, 0, 0), Ok(Mapping::Zeros));
    assert_eq!(g.mapping(1 << 63 | 5 << 16 | 1, 0, 0), Ok(Mapping::Zeros));
    let plain = Mapping::Plain { host_offset_bytes: 5 << 16 };
    assert_eq!(g.mapping(1 << 63 | 5 << 16, 0, 0), Ok(plain));
    assert_eq!(g.mapping(5 << 16 | 512, 0, 0), Err(Damage::UnalignedCluster));
    assert_eq!(geometry(2, 16, false).mapping(1, 0, 0), Err(Damage::ZeroFlagInVersion2));
    assert_eq!(g.l2_table(1 << 63 | 7 << 16), Ok(Some(7 << 16)));
    assert_eq!(g.l2_table(1 << 63), Ok(None));
    assert_eq!(g.l2_table(7 << 15), Err(Damage::UnalignedTable));
}

#[test]
fn compressed_entries() {
    // 64 KiB clusters: offset in bits 0 to 53, further sectors in bits 54 to 61.
    let g = geometry(2, 16, false);
    let entry = 1 << 62 | 3 << 54 | 0x5_0123;
    let there = Mapping::Compressed { host_offset_bytes: 0x5_0123, len_bytes: 4 * 512 - 0x123 };
    assert_eq!(g.mapping(entry, 0, 0), Ok(there));
    // 512-byte clusters: one bit of sectors.
    let entry = 1 << 62 | 1 << 61 | 0x1234;
    let there = Mapping::Compressed { host_offset_bytes: 0x1234, len_bytes: 1024 - 0x34 };
    assert_eq!(geometry(3, 9, false).mapping(entry, 0, 0), Ok(there));
}

#[test]
fn subclusters() {
    let g = geometry(3, 16, true);
    assert_eq!((g.unit_bytes(), g.l2_entry_bytes(), g.l2_table_maps_bytes()), (2048, 16, 256 << 20));
    let data_in_3_zeros_in_4 = 1 << 3 | 1 << 36;
    let at = |unit| g.mapping(5 << 16, data_in_3_zeros_in_4, unit);
    assert_eq!(at(3), Ok(Mapping::Plain { host_offset_bytes: (5 << 16) + 3 * 2048 }));
    assert_eq!(at(32 + 3), at(3));
    assert_eq!((at(4), at(5)), (Ok(Mapping::Zeros), Ok(Mapping::Zeros)));
    assert_eq!(g.mapping(5 << 16, 1 | 1 << 32, 9), Err(Damage::AllocatedAndZero));
    assert_eq!(g.mapping(0, 1, 9), Err(Damage::AllocatedNowhere));
    assert_eq!(g.mapping(0, 1 << 32, 0), Ok(Mapping::Zeros));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in proptest::collection::vec(any::<u8>(), 8..1024),
        version in 2u32..4,
        bits in 8u32..24,
        tame in any::<bool>(),
    ) {
        bytes[..4].copy_from_slice(&MAGIC);
        put32(&mut bytes, 4, version);
        if tame && bytes.len() >= 112 {
            // Past the checks of geometry, to the names.
            put32(&mut bytes, 20, bits);
            put64(&mut bytes, 24, 1 << 20);
            put32(&mut bytes, 36, u32::MAX);
            put64(&mut bytes, 40, 1 << 24);
            put32(&mut bytes, 100, 104);
            bytes[79] &= !8;
        }
        if let Ok(header) = Header::parse(&bytes) {
            let _ = header.check_readable();
            prop_assert!(header.l1_entries() * 8 <= MAX_L1_BYTES);
        }
    }

    #[test]
    fn any_entry_is_read_or_refused(
        entry in any::<u64>(),
        bitmap in any::<u64>(),
        unit in any::<u64>(),
        bits in 14u32..=21,
        extended in any::<bool>(),
    ) {
        let g = geometry(3, bits, extended);
        match g.mapping(entry, bitmap, unit) {
            Ok(Mapping::Plain { host_offset_bytes }) => {
                prop_assert!(host_offset_bytes > 0 && host_offset_bytes.is_multiple_of(g.unit_bytes()));
            }
            Ok(Mapping::Compressed { len_bytes, .. }) => {
                prop_assert!(len_bytes > 0 && len_bytes <= 2 * g.cluster_bytes());
            }
            Ok(Mapping::Zeros) | Err(_) => {}
        }
    }
}
