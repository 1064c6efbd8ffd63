//! Whether a device carries data: a look that costs seconds, whatever the size of the device.
//!
//! It reads both ends and samples in between, and names what it knows by its magic. A few bytes far from both
//! ends can be missed; this keeps a person from overwriting the wrong device, and is no proof of emptiness.
//! Whether a device reads as zeros *throughout* is another question (`first_nonzero` asked of all of it).

use std::fmt;

use crate::error::Result;
use crate::event::{Event, Run};
use crate::guest;
use crate::model::units::ByteRange;
use crate::sink::Target;

/// How much is read at either end: every superblock that counts is in there.
const END_BYTES: u64 = 1 << 20;
/// A device up to this size is read as a whole: that takes no longer than the samples.
const SMALL_BYTES: u64 = 32 << 20;
/// How many samples are taken between the ends, and how large each is.
const SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 32 << 10;
/// Pieces in which ranges are read and compared.
const PIECE_BYTES: usize = 1 << 20;

/// What was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing but zeros where it was looked at.
    Nothing,
    /// Something known by its magic.
    Known(&'static str),
    /// A byte that is not zero, at this offset.
    Unknown {
        /// Where, in bytes.
        offset_bytes: u64,
    },
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contents::Nothing => f.write_str("nothing but zeros where it was looked at"),
            Contents::Known(what) => f.write_str(what),
            Contents::Unknown { offset_bytes } => write!(f, "unknown data at offset {offset_bytes}"),
        }
    }
}

/// Looks at a device of `size_bytes` through `read`, which fills a buffer from an offset.
///
/// # Errors
/// Whatever `read` says.
pub(super) fn look(size_bytes: u64, read: impl Fn(&mut [u8], u64) -> Result<()>) -> Result<Contents> {
    let mut head = vec![0; usize::try_from(size_bytes.min(END_BYTES)).unwrap_or(PIECE_BYTES)];
    read(&mut head, 0)?;
    if let Some(guest) = guest::recognise(&head) {
        return Ok(Contents::Known(guest.name));
    }
    for range in places(size_bytes) {
        if let Some(offset_bytes) = first_nonzero(range, &read, |_| Ok(()))? {
            return Ok(Contents::Unknown { offset_bytes });
        }
    }
    Ok(Contents::Nothing)
}

/// The places looked at: both ends, and samples spread evenly between them.
fn places(size_bytes: u64) -> Vec<ByteRange> {
    if size_bytes <= SMALL_BYTES {
        return vec![ByteRange::new(0, size_bytes)];
    }
    let mut places = vec![ByteRange::new(0, END_BYTES), ByteRange::new(size_bytes - END_BYTES, size_bytes)];
    let step = (size_bytes - 2 * END_BYTES) / SAMPLES;
    places.extend((0..SAMPLES).map(|i| {
        let start = (END_BYTES + i * step) / SAMPLE_BYTES * SAMPLE_BYTES;
        ByteRange::new(start, start + SAMPLE_BYTES)
    }));
    places
}

/// Where the first byte of `target` is that is not zero, looked for in a phase of that name.
///
/// # Errors
/// `Output` when it cannot be read; interrupted when the run is cancelled.
pub(super) fn search(
    target: &dyn Target,
    size_bytes: u64,
    name: &'static str,
    run: &Run<'_>,
) -> Result<Option<u64>> {
    run.event(Event::Phase { name, total_bytes: Some(size_bytes) });
    let found = first_nonzero(
        ByteRange::new(0, size_bytes),
        |buf, at| {
            run.check()?;
            target.read_exact_at(buf, at)
        },
        |zeros| {
            target.forget(zeros);
            run.event(Event::Advanced { bytes: zeros.len_bytes() });
            Ok(())
        },
    );
    run.event(Event::PhaseDone);
    found
}

/// Where the first byte that is not zero is, read in pieces; `done` is told of each piece that was all zeros.
///
/// # Errors
/// Whatever `read` or `done` says.
pub(super) fn first_nonzero(
    range: ByteRange,
    read: impl Fn(&mut [u8], u64) -> Result<()>,
    mut done: impl FnMut(ByteRange) -> Result<()>,
) -> Result<Option<u64>> {
    let zeros = vec![0u8; 4096];
    let mut buffer = vec![0; usize::try_from(range.len_bytes()).unwrap_or(usize::MAX).min(PIECE_BYTES)];
    let mut at = range.start_bytes;
    while at < range.end_bytes {
        let length = usize::try_from(range.end_bytes - at).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..length];
        read(piece, at)?;
        let mut offset = at;
        for block in piece.chunks(zeros.len()) {
            // Comparing slices is memcmp, many times faster than looking for a byte.
            if *block != zeros[..block.len()] {
                let within = block.iter().take_while(|&&byte| byte == 0).count();
                return Ok(Some(offset + within as u64));
            }
            offset += block.len() as u64;
        }
        done(ByteRange::new(at, offset))?;
        at = offset;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_at(size: usize, bytes: &[(usize, &[u8])]) -> Contents {
        let mut device = vec![0; size];
        for (at, what) in bytes {
            device[*at..*at + what.len()].copy_from_slice(what);
        }
        look(size as u64, |buf, at| {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&device[at..at + buf.len()]);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn what_is_known_is_named() {
        assert_eq!(
            look_at(1 << 20, &[(0x438, b"\x53\xef")]),
            Contents::Known("an ext2, ext3 or ext4 file system")
        );
    }

    #[test]
    fn a_small_device_is_read_throughout() {
        assert_eq!(look_at(3 << 20, &[]), Contents::Nothing);
        assert_eq!(look_at(0, &[]), Contents::Nothing);
        assert_eq!(look_at(512, &[(511, b"x")]), Contents::Unknown { offset_bytes: 511 });
        let odd = (2 << 20) + 12_345;
        assert_eq!(look_at(3 << 20, &[(odd, b"x")]), Contents::Unknown { offset_bytes: odd as u64 });
    }

    #[test]
    fn places_of_a_large_device_are_within_it_and_hold_both_ends() {
        for size in [SMALL_BYTES + 512, 1 << 30, u64::MAX / 4096 * 4096] {
            let places = places(size);
            assert!(places.iter().all(|p| p.end_bytes <= size && !p.is_empty()));
            assert!(places.iter().any(|p| p.start_bytes == 0));
            assert!(places.iter().any(|p| p.end_bytes == size));
            let middle =
                places.iter().filter(|p| p.start_bytes > size / 4 && p.end_bytes < size / 4 * 3).count();
            assert!(middle > 100, "{middle} samples in the middle of {size}");
        }
    }
}
