//! A qcow2 image, from its header to its bytes: any file is read or refused. Errors are fine; panics, endless walks
//! and large allocations (`scripts/fuzz` limits them) are bugs.
//!
//! And: extents ascend, do not overlap and lie within the image; what lies between them and what lies past the end
//! reads as zeros; bytes are the same however they are read.

#![no_main]

use lhrecover::format::qcow2::{HEADER_PREFIX_BYTES, Header};
use lhrecover::model::units::ByteRange;
use lhrecover::view::LayerImage;
use lhrecover::view::qcow2::Qcow2Image;
use libfuzzer_sys::fuzz_target;

/// How much of the map is walked, and of each extent read.
const EXTENTS: usize = 64;
const BATCHES: usize = 64;
const PIECE_BYTES: u64 = 48 << 10;

fuzz_target!(|bytes: &[u8]| {
    let prefix = &bytes[..bytes.len().min(HEADER_PREFIX_BYTES)];
    let header = Header::parse(prefix);
    let Ok(image) = Qcow2Image::open("backing".to_owned(), bytes.to_vec()) else { return };
    assert_eq!(header.ok().as_ref(), Some(image.header()), "opened with another header than it has");
    let size = image.size_bytes();

    let mut past = [1; 100];
    image.read_exact_at(&mut past, size).expect("past the end are zeros");
    assert_eq!(past, [0; 100]);

    let mut walk = image.extents().expect("a walk begins");
    let mut extents = Vec::new();
    let mut from = Some(0);
    for _ in 0..BATCHES {
        let Some(at) = from.filter(|_| extents.len() < EXTENTS) else { break };
        match walk.next_extents(at, &mut extents) {
            Ok(next) => {
                assert!(next.is_none_or(|next| next > at), "the walk does not advance");
                from = next;
            }
            Err(_) => break,
        }
    }

    let mut end = 0;
    for extent in extents.iter().take(EXTENTS) {
        let range = extent.range;
        assert!(end <= range.start_bytes && !range.is_empty() && range.end_bytes <= size, "{extent:?}");
        let gap = ByteRange::new(end, range.start_bytes.min(end + PIECE_BYTES));
        assert!(read(&image, gap).is_none_or(|bytes| bytes.iter().all(|&b| b == 0)), "a hole with data");
        compare(
            &image,
            ByteRange::new(range.start_bytes, range.end_bytes.min(range.start_bytes + PIECE_BYTES)),
        );
        end = range.end_bytes;
    }
});

/// The bytes of `range`, if they can be had.
fn read(image: &Qcow2Image<Vec<u8>>, range: ByteRange) -> Option<Vec<u8>> {
    let mut buf = vec![0xee; usize::try_from(range.len_bytes()).ok()?];
    image.read_exact_at(&mut buf, range.start_bytes).ok().map(|()| buf)
}

/// Reads `range` in one and in odd pieces.
fn compare(image: &Qcow2Image<Vec<u8>>, range: ByteRange) {
    image.prefetch(range);
    let Some(whole) = read(image, range) else { return };
    let mut at = range.start_bytes;
    for expected in whole.chunks(4093) {
        let end = at + expected.len() as u64;
        assert_eq!(read(image, ByteRange::new(at, end)).as_deref(), Some(expected), "at {at}");
        at = end;
    }
}
