//! Workflows: engines put together.

pub mod merge;
