//! Workflows: engines put together. [`merge`] writes a volume out, [`scan`] finds and ranks replicas, [`verify`] proves what can
//! be proven, [`preserve`] copies a replica as it is, [`map`] draws one, [`diff`] tells what changed, [`browse`] takes files
//! out, [`mount`] shows them in place, [`check`] tells whether they are any good, [`inject`] puts the data back.

pub mod browse;
pub mod check;
pub mod diff;
pub mod inject;
pub mod map;
pub mod merge;
pub mod mount;
pub mod preserve;
pub mod scan;
pub mod tool;
pub mod verify;
