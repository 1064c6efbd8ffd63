//! Digests of a whole image, zeros included: what `b3sum` and `sha256sum` print of it.
//!
//! A finished file is mapped, window by window, so that BLAKE3 can use all cores; its holes are not read. A
//! device, or a stream, is hashed as it is read or written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::Digest as _;

use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::units::ByteRange;
use crate::sys::{mapped, sparse};

/// Which digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// BLAKE3, on all cores.
    Blake3,
    /// SHA-256, on one.
    Sha256,
}

impl Algorithm {
    /// The name in reports: `blake3` or `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Blake3 => "blake3",
            Algorithm::Sha256 => "sha256",
        }
    }
}

/// A digest in the making.
pub enum Hasher {
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
    /// SHA-256.
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// A digest of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Blake3(hasher) => {
                hasher.update_rayon(bytes);
            }
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The digest as lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        match self {
            Hasher::Blake3(hasher) => hasher.finalize().to_hex().to_string(),
            Hasher::Sha256(hasher) => hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

/// How much of the image is in memory at a time.
const WINDOW_BYTES: u64 = 16 << 20;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The digest of the first `length_bytes` of the file or device at `path`.
///
/// # Errors
/// `Output` when it cannot be read; interrupted when the run is cancelled.
pub fn digest(path: &Path, length_bytes: u64, algorithm: Algorithm, run: &Run<'_>) -> Result<String> {
    let fail = |at: u64, e: io::Error| {
        Error::output("cannot read the output for its digest").with_path(path).at_offset(at).caused_by(e)
    };
    let file = File::open(path).map_err(|e| fail(0, e))?;
    let mappable = file.metadata().map_err(|e| fail(0, e))?.is_file();
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < length_bytes {
        run.check()?;
        let end = length_bytes.min(at.saturating_add(WINDOW_BYTES));
        let data = match sparse::next_data(&file, at) {
            Ok(Some(data)) => data.clip(ByteRange::new(at, end)),
            Ok(None) if mappable => ByteRange::new(end, end),
            // A device has no holes to tell of.
            Ok(None) | Err(_) => ByteRange::new(at, end),
        };
        let data = if data.is_empty() { ByteRange::new(end, end) } else { data };
        zeros(&mut hasher, data.start_bytes - at);
        if !data.is_empty() {
            if mappable {
                let map = mapped::window(&file, data).map_err(|e| fail(at, e))?;
                hasher.update(&map);
            } else {
                buffer.resize(usize::try_from(data.len_bytes()).unwrap_or(0), 0);
                file.read_exact_at(&mut buffer, data.start_bytes).map_err(|e| fail(at, e))?;
                hasher.update(&buffer);
            }
        }
        run.event(Event::Advanced { bytes: data.end_bytes - at });
        at = data.end_bytes;
    }
    Ok(hasher.finish())
}

fn zeros(hasher: &mut Hasher, mut count: u64) {
    while count > 0 {
        let len = usize::try_from(count).unwrap_or(ZEROS.len()).min(ZEROS.len());
        hasher.update(&ZEROS[..len]);
        count -= len as u64;
    }
}
