//! Workflows: engines put together.

pub mod merge;
pub mod preserve;
