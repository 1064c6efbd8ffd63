//! `<snapshot>.img.checksum`: any bytes give a value or say how they are damaged. Errors are fine, panics are bugs.
//!
//! And: white space around the value changes nothing, and the sum survives being written as the engine writes it.

#![no_main]

use lhrecover::format::checksum::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(sum) = parse(bytes) else { return };
    let spaced = [b" \n", bytes, b"\r\n\t "].concat();
    assert_eq!(parse(&spaced).as_ref(), Ok(&sum));
    let written = format!(r#"{{"method":"crc64","checksum":"{:016x}"}}"#, sum.crc64);
    assert_eq!(parse(written.as_bytes()).map(|again| again.crc64), Ok(sum.crc64));
});
