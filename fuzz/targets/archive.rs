//! Archives of `preserve`: any bytes are refused, or are just what the manifest among them says. Errors are fine, panics
//! are bugs, and so is memory that no byte stands behind.
//!
//! Checksums of headers are put right first, or hardly any input would come past them.

#![no_main]

use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::workflow::preserve::archive::read_through;
use libfuzzer_sys::fuzz_target;
use tar::Header;

const BLOCK: usize = 512;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    if let Ok(manifest) = read_through(&bytes[..], &run) {
        for file in &manifest.files {
            assert!(!file.name.contains('/') && file.name != "..", "{:?}", file.name);
        }
    }
});
