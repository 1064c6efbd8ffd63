//! `revision.counter`: any bytes give a number or say how they are damaged. Errors are fine, panics are bugs.
//!
//! And: a number survives being written as the engine writes it.

#![no_main]

use lhrecover::format::revision::{MAX_BYTES, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(count) = parse(bytes) else { return };
    let mut block = count.to_string().into_bytes();
    block.resize(usize::try_from(MAX_BYTES).unwrap(), 0);
    assert_eq!(parse(&block), Ok(count));
});
