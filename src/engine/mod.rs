//! The engines: they take things, do the work, and report events.
//!
//! ```text
//!   layers ──sweep, plan──> segments ──pieces──> batches ──pipeline──> workers ──copy────> sink, sums
//!                                                           └──> in order ──stream──> standard output
//!   output ──────────────────────────────────────────────────────────────verify──> sums compared
//!                                                                         digest
//!   layers ──windows──> workers ──checksum, layer_digest──> sums of each layer
//!                                └──siblings──> differences <──compare── image, plan
//! ```

pub mod archive;
pub mod buffer;
pub mod changes;
pub mod checksum;
pub mod compare;
pub mod content;
pub mod copy;
pub mod delta;
pub mod diagnose;
pub mod differences;
pub mod digest;
pub mod heat;
pub mod judge;
pub mod keeps;
pub mod layer_digest;
pub mod medium;
pub mod pieces;
pub mod pipeline;
pub mod plan;
pub mod preserve;
pub mod siblings;
pub mod stream;
pub mod sums;
pub mod sweep;
pub mod verify;
pub mod windows;
