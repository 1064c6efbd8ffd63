//! Bytes in, what the file says out: pure parsers, with no files and no judgement beyond their own format.

pub mod qcow2;
