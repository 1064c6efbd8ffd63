//! A replica in one file that any medium can hold: a PAX archive with sparse members.
//!
//! Members are in GNU's sparse format 1.0, so that GNU tar restores holes as holes and zeros as zeros without us. What it
//! has no notion of, room that was preallocated and never written, is stored as zeros and listed beside, for our own
//! reader. The last member is the manifest, with a digest of every file.
//!
//! ```text
//!   ./                     the directory, for its mode and time
//!   images, then metadata  a header with the real name and size; the map: count, offset, length, ... ; the data
//!   lhrecover-preserve.json
//! ```

mod layer;
pub mod pax;
pub mod read;
pub mod write;

pub use layer::{ArchivedLayer, FileMap};

/// A block of a tar archive, in bytes: headers have one, and contents are filled up to whole ones.
pub const BLOCK_BYTES: u64 = 512;

/// The most runs of data that all members of an archive may have together: they are in memory while it is read, 128 MiB
/// at the most.
pub const MAX_RUNS: u64 = 8 << 20;

/// The name that the directory itself has.
const DIRECTORY_NAME: &str = "./";

/// How many bytes are missing to a whole block.
fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}
