//! Workflows: engines put together.

pub mod merge;
pub mod scan;
pub mod verify;
