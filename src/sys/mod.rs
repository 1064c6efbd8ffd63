//! The kernel edge: the only home of `unsafe` and of ioctl.
//!
//! [`sparse`] tells what is a hole, and copies or shares ranges in the kernel; [`device`] has the facts about block
//! devices.

#![allow(unsafe_code)]

pub mod device;
pub mod sparse;
