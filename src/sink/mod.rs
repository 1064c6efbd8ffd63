//! Things one can write an image to.

mod contents;
pub mod device;
pub mod guard;

pub use contents::Contents;
