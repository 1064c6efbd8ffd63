//! `<layer>.img.meta`: any bytes give a value or say how they are damaged. Errors are fine, panics are bugs.
//!
//! And: white space around the value changes nothing, and a parent is only told where `Parent` is there.

#![no_main]

use lhrecover::format::layer_meta::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(meta) = parse(bytes) else { return };
    let spaced = [b" \n", bytes, b"\r\n\t "].concat();
    assert_eq!(parse(&spaced).as_ref(), Ok(&meta));
    assert!(meta.names_parent || meta.parent.is_empty());
    assert!(!meta.is_bare() || meta.name.is_empty());
});
