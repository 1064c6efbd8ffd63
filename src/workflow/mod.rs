//! Workflows: engines put together. [`merge`] writes a volume out, [`scan`] finds and ranks replicas, [`verify`] proves what can
//! be proven, [`preserve`] copies a replica as it is, [`map`] draws one.

pub mod inject;
pub mod map;
pub mod merge;
pub mod mount;
pub mod preserve;
pub mod scan;
pub mod tool;
pub mod verify;
