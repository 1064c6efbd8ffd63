//! `volume.meta`: any bytes give a value or say how they are damaged. Errors are fine, panics are bugs.
//!
//! And: white space around the value changes nothing, `Empty` and `Nul` mean just that, and whatever can be salvaged
//! of a file came out of that file.

#![no_main]

use lhrecover::format::json::Damage;
use lhrecover::format::volume_meta::{parse, salvage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    match &parsed {
        Ok(meta) => {
            let spaced = [b" \n", bytes, b"\r\n\t "].concat();
            assert_eq!(parse(&spaced).as_ref(), Ok(meta));
            assert!(meta.quirks.trailing_bytes < bytes.len());
        }
        Err(Damage::Empty) => assert!(bytes.iter().all(u8::is_ascii_whitespace)),
        Err(Damage::Nul) => assert!(!bytes.is_empty() && bytes.iter().all(|&b| b == 0)),
        Err(Damage::Truncated | Damage::Foreign(_)) => {}
        Err(Damage::TooLarge { .. }) => panic!("a parser does not know how large the file is"),
    }
    if let Some(meta) = salvage(bytes) {
        assert!(meta.head.len() + meta.error.len() + meta.backing_file_path.len() <= 3 * bytes.len());
    }
});
