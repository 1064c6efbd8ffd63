//! What Longhorn's small files say: bytes in, values out, and nothing else.
//!
//! Parsers take bytes that somebody else has read, and never judge: a negative size is a number here, and a
//! matter for [`model`](crate::model) or [`replica`](crate::replica). They follow the rules of the engine's own
//! reader (Go's `encoding/json`), so that what the engine accepts is understood the same way here, and they say
//! in which way a file is unusable, because "empty" and "cut off" have different causes.

pub mod checksum;
pub mod copy;
pub mod json;
pub mod layer_meta;
pub mod layer_sums;
pub mod names;
pub mod nbd;
pub mod qcow2;
pub mod revision;
pub mod volume_meta;
