//! The kernel edge: the only home of `unsafe` and of ioctl.
//!
//! [`sparse`] tells what is a hole, and shares ranges in the kernel; [`dir`] opens files in a directory
//! that is not trusted; [`process`] knows who else has them open, and [`source_identity`] which must never be written; [`device`] has the facts about block devices, and sets up loop devices;
//! [`mount`] mounts, [`busy`] knows who uses what is mounted, and [`daemon`] is for those who serve it.

#![allow(unsafe_code)]

pub mod attributes;
pub mod busy;
pub mod daemon;
pub mod device;
pub mod dir;
pub mod mapped;
pub mod mount;
pub mod process;
pub mod source_identity;
pub mod sparse;
pub mod tree;
