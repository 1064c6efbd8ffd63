//! `revision.counter`: how many writes the replica has seen.
//!
//! One 4096-byte block: a decimal number in ASCII, then NULs (longhorn-engine `pkg/replica/revision_counter.go`).
//! It is neither atomic with the data nor ordered against it. Not there at all when the counter is switched off.

use crate::format::json::Damage;

/// The file's name.
pub const FILE_NAME: &str = "revision.counter";

/// The most bytes the file is read with; the engine writes one block.
pub const MAX_BYTES: u64 = 4096;

/// Reads the bytes of a `revision.counter`.
///
/// # Errors
/// How they are damaged. The engine refuses to open a replica over any of it.
pub fn parse(bytes: &[u8]) -> Result<i64, Damage> {
    if bytes.is_empty() {
        return Err(Damage::Empty);
    }
    let end = bytes.iter().rposition(|&b| b != 0).ok_or(Damage::Nul)?;
    std::str::from_utf8(&bytes[..=end])
        .ok()
        .and_then(|digits| digits.trim_start_matches('\0').parse().ok())
        .ok_or_else(|| Damage::Foreign("not a decimal number".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_nuls() {
        let mut block = [0; 4096];
        block[..3].copy_from_slice(b"173");
        assert_eq!(parse(&block), Ok(173));
        assert_eq!(parse(b"0"), Ok(0));
    }

    #[test]
    fn what_the_engine_refuses_is_damage() {
        assert_eq!(parse(b""), Err(Damage::Empty));
        assert_eq!(parse(&[0; 4096]), Err(Damage::Nul));
        for foreign in [&b"12\n"[..], b"1 2", b"x", b"99999999999999999999", b"1\x002"] {
            assert!(matches!(parse(foreign), Err(Damage::Foreign(_))), "{foreign:?}");
        }
    }
}
