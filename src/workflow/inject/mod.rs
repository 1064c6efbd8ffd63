//! Inject: the data back into a live block device.
//!
//! [`blocks`] makes the device hold the exact volume. Everything that can be refused is refused before a byte is written,
//! by the guard that stands before every device.

pub mod blocks;
pub mod luks;
