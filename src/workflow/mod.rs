//! Workflows: engines put together.

pub mod merge;
pub mod preserve;
pub mod scan;
pub mod verify;
