//! A file system of the ext family, from its superblock to the bytes of its files: any image is read or refused. Errors are
//! fine; panics, endless walks and large allocations (`scripts/fuzz` limits them) are bugs.
//!
//! And: names are plain; ranges of files ascend, do not overlap and lie within the file; what lies between them reads as zeros;
//! bytes are the same from wherever they are read.

#![no_main]

use std::sync::Arc;

use lhrecover::error::Result;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::guest::ext::{ExtFs, Found, Kind, LastLink, Step, Walk};
use lhrecover::model::units::ByteRange;
use lhrecover::view::disk::{Content, Disk, Stretch, check_range};
use libfuzzer_sys::fuzz_target;

/// The length of the image, and of its blocks.
const IMAGE_BYTES: usize = 4 << 20;
const BLOCK_BYTES: usize = 1024;

/// How much is looked at.
const STEPS: usize = 2000;
const FILES: usize = 64;
const PIECES: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let Ok(fs) = ExtFs::open(Arc::new(Memory(unpack(bytes)))) else { return };
    for path in ["/", "/d/e/../link/x", "/a", "d//e/", "/loop"] {
        let _ = fs.resolve(path.as_bytes(), LastLink::Follow);
    }
    let Ok(root) = fs.resolve(b"/", LastLink::Keep) else { return };
    let cancel = Cancel::default();
    let mut walk = Walk::new(&fs, root, &Run { observer: &Silent, cancel: &cancel });
    let mut files = 0;
    for _ in 0..STEPS {
        let Some(step) = walk.next_step().expect("nobody stops it") else { break };
        let Step::Entry(found) = step else { continue };
        for name in found.path.split(|&b| b == b'/').skip(1) {
            assert!(name != b"." && name != b".." && !name.contains(&0), "{found:?}");
        }
        let _ = fs.xattrs(&found.node);
        let _ = fs.read_link(&found.node);
        if found.node.kind == Kind::Regular && files < FILES {
            files += 1;
            read(&fs, &found);
        }
    }
});

/// Blocks behind their numbers, as one image.
fn unpack(bytes: &[u8]) -> Vec<u8> {
    let mut image = vec![0; IMAGE_BYTES];
    for record in bytes.chunks(2 + BLOCK_BYTES) {
        let Some((number, data)) = record.split_first_chunk() else { break };
        let at = usize::from(u16::from_le_bytes(*number)) * BLOCK_BYTES % IMAGE_BYTES;
        image[at..at + data.len()].copy_from_slice(data);
    }
    image
}

fn read(fs: &ExtFs, found: &Found) {
    let Ok(ranges) = fs.allocated(&found.node) else { return };
    let mut end = 0;
    for range in ranges.take(PIECES) {
        let Ok(allocated) = range else { break };
        let range = allocated.range;
        assert!(end <= range.start_bytes && !range.is_empty() && range.end_bytes <= found.node.size_bytes);
        let gap = ByteRange::new(end, range.start_bytes);
        if let Some(bytes) = piece(fs, found, gap.start_bytes, gap.len_bytes()) {
            assert!(bytes.iter().all(|&b| b == 0), "a hole with data");
        }
        if let Some(whole) = piece(fs, found, range.start_bytes, range.len_bytes()) {
            let from = whole.len() / 3;
            let part = piece(fs, found, range.start_bytes + from as u64, (whole.len() - from) as u64);
            assert_eq!(part.as_deref(), Some(&whole[from..]));
        }
        end = range.end_bytes;
    }
}

/// Up to 16 KiB at `from`, if they can be read.
fn piece(fs: &ExtFs, found: &Found, from: u64, len: u64) -> Option<Vec<u8>> {
    let mut open = fs.open_file(&found.node).ok()?;
    open.seek(from).ok()?;
    let mut bytes = vec![0; usize::try_from(len.min(16 << 10)).ok()?];
    let mut filled = 0;
    while filled < bytes.len() {
        match open.read(&mut bytes[filled..]).ok()? {
            0 => return None,
            n => filled += n,
        }
    }
    Some(bytes)
}

struct Memory(Vec<u8>);

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset_bytes, buf.len())?;
        let start = usize::try_from(offset_bytes).expect("in memory");
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        Ok(vec![Stretch { range, content: Content::Data }])
    }
}
