//! Look inside without copying: a volume as a disk, and that disk as an image file, an NBD export, or its files.

pub mod fuse;
mod in_use;
pub mod inside;
pub mod mounted;
pub mod nbd;
pub mod scratch;
pub mod volume;
