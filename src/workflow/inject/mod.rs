//! Inject: the data back into a live block device.
//!
//! [`blocks`] makes the device hold the exact volume, [`files`] copies the volume's files to a file system on it. Everything
//! that can be refused is refused before a byte is written, by the guard that stands before every device.

pub mod blocks;
pub mod files;
pub mod grow;
pub mod identity;
pub mod luks;
