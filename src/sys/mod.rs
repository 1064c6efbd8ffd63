//! The kernel edge: the only home of `unsafe` and of ioctl.
//!
//! [`sparse`] tells what is a hole, and copies or shares ranges in the kernel.

#![allow(unsafe_code)]

pub mod sparse;
