//! The engines: they take things, do the work, and report events.
//!
//! ```text
//!   layers --sweep--> segments --pieces--> batches --pipeline--> workers --copy--> sink
//!                                                                        --verify--> sums compared
//! ```

pub mod buffer;
pub mod copy;
pub mod pieces;
pub mod pipeline;
pub mod sweep;
