//! What commands print: values for JSON, and text made from the same values.
//!
//! Pure functions that build strings; only the command line prints. JSON carries `schema_version`, which grows
//! when a field changes its meaning or goes away; new fields may come at any time.

pub mod browse;
pub mod check;
pub mod diff;
pub mod extract;
pub mod finding;
pub mod human;
pub mod inject;
pub mod inspect;
pub mod json;
pub mod map;
pub mod merge;
pub mod mount;
pub mod preserve;
pub mod scan;
pub mod serve;
mod table;
mod tree;
pub mod verify;
