//! The extended headers of a PAX archive (POSIX.1-2017, pax, "pax Extended Header"): records of a key and a value.
//!
//! A record is its own length in decimal digits, a blank, the key, `=`, the value, and a line end; a value may hold any
//! byte, line ends too, which is why the length is what counts.

/// The most bytes of extended headers that one member may have. Preallocated ranges are listed there: this is room for
/// a million of them.
pub const MAX_BYTES: u64 = 32 << 20;

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);

/// Appends a record.
pub fn push(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Reads records.
///
/// # Errors
/// Why they are none.
pub fn parse(mut bytes: &[u8]) -> Result<Vec<Record>, &'static str> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let digits = bytes.iter().take(20).take_while(|b| b.is_ascii_digit()).count();
        let length = std::str::from_utf8(&bytes[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
        let length =
            length.filter(|&length| length <= bytes.len()).ok_or("an extended header has a wrong length")?;
        let (record, rest) = bytes.split_at(length);
        let body =
            record.get(digits..).and_then(|r| r.strip_prefix(b" ")).and_then(|r| r.strip_suffix(b"\n"));
        let body = body.ok_or("an extended header is malformed")?;
        let equals = body.iter().position(|&b| b == b'=').ok_or("an extended header has no value")?;
        records.push((body[..equals].to_vec(), body[equals + 1..].to_vec()));
        bytes = rest;
    }
    Ok(records)
}

/// A time as extended headers have it: decimal seconds, with a fraction.
pub fn time_text(seconds: i64, nanoseconds: i64) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        // What is before 1970 counts downwards, its fraction too.
        (..0, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        _ => format!("{seconds}.{nanoseconds:09}"),
    }
}

/// The seconds and nanoseconds of such a time.
pub fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if fraction.len() > 9 || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
    match (negative, nanoseconds) {
        (false, _) => Some((seconds, nanoseconds)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanoseconds)),
    }
}

/// The key of an extended attribute is this and its name, as star and GNU tar have it.
pub const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// The preallocated ranges of a member, stored as zeros: `start+length,start+length`. Our own.
pub const UNWRITTEN: &str = "LHRECOVER.unwritten";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_count_their_own_digits() {
        let mut bytes = Vec::new();
        push(&mut bytes, b"mtime", b"1234567890.5");
        assert_eq!(bytes, b"22 mtime=1234567890.5\n");
        for bad in [&b"5 a=b\n"[..], b"99 a=b\n", b"x", b"6 a=b ", b"5 ab\n\n", b"6 abc\n", b"0 a=b\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_before_1970_too() {
        assert_eq!(time_text(-3, 123_456_789), "-2.876543211");
        assert_eq!(parse_time("1.5"), Some((1, 500_000_000)));
        for bad in ["", "x", "1.0000000001", "--1", "1.2.3", "99999999999999999999"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in proptest::collection::vec(("[a-zA-Z.]{1,40}", any::<Vec<u8>>()), 0..8)) {
            let records: Vec<Record> = records.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
            let mut bytes = Vec::new();
            records.iter().for_each(|(key, value)| push(&mut bytes, key, value));
            prop_assert_eq!(parse(&bytes), Ok(records));
        }

        #[test]
        fn times_survive(seconds in -1_000_000_000_000i64..1_000_000_000_000, nanoseconds in 0i64..1_000_000_000) {
            prop_assert_eq!(parse_time(&time_text(seconds, nanoseconds)), Some((seconds, nanoseconds)));
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), text in any::<String>()) {
            let _ = (parse(&bytes), parse_time(&text));
        }
    }
}
