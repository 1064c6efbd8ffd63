//! `volume-snap-<name>.img.checksum`: what a snapshot's data was when the engine last hashed it.
//!
//! Written by longhorn-engine `pkg/replica/hash.go` since 1.4.0, type `SnapshotHashInfo` of sparse-tools. The sum is
//! CRC-64 with the ISO polynomial over the whole file, its holes as zeros: it cannot tell a hole from written zeros. With
//! it stands the file's change time (ctime) at that moment, as Go prints a time, in the zone of the node. Data that
//! differs while the change time is still the same was changed behind the file system's back; once the change time is
//! another one, the sum may merely be out of date.

use jiff::Timestamp;
use jiff::fmt::strtime::BrokenDownTime;

use crate::format::json::{Damage, Object, Quirks};

/// The most bytes such a file is read with. The engine writes about 170.
pub const MAX_BYTES: u64 = 4096;

/// The only method there is.
const METHOD: &str = "crc64";

/// How many hexadecimal digits a sum has.
const DIGITS: usize = 16;

const KEYS: [&str; 5] = ["method", "checksum", "change_time", "last_hashed_at", "silently_corrupted"];

/// The file name of the recorded sum of the layer `disk`.
pub fn file_name(disk: &str) -> String {
    format!("{disk}.checksum")
}

/// What a `.checksum` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedSum {
    /// `checksum`: CRC-64 (ISO) of the whole file. When the engine found the data changed, the sum of before.
    pub crc64: u64,
    /// `change_time`: the file's ctime when it was hashed; `None` when it is absent or cannot be read.
    pub changed: Option<Timestamp>,
    /// `change_time` as it is written.
    pub change_time: String,
    /// `last_hashed_at`: RFC 3339; empty when a rebuild brought the file here.
    pub last_hashed_at: String,
    /// `silently_corrupted`: the engine itself found other data under the same change time.
    pub silently_corrupted: bool,
    /// What the engine would pass over in silence.
    pub quirks: Quirks,
}

/// Reads the bytes of a `.checksum`.
///
/// # Errors
/// How they are damaged. Another method than CRC-64 is foreign, too.
pub fn parse(bytes: &[u8]) -> Result<RecordedSum, Damage> {
    let object = Object::parse(bytes)?;
    if !object.has_any(&KEYS) {
        return Err(Damage::Foreign("none of the keys of a checksum is there".into()));
    }
    let method = object.string("method")?;
    if method != METHOD {
        return Err(Damage::Foreign(format!("the method is {method:?}, and not {METHOD:?}")));
    }
    let digits = object.string("checksum")?;
    let change_time = object.string("change_time")?;
    Ok(RecordedSum {
        crc64: sum(&digits).ok_or_else(|| Damage::Foreign(format!("{digits:?} is no CRC-64")))?,
        changed: go_time(&change_time),
        change_time,
        last_hashed_at: object.string("last_hashed_at")?,
        silently_corrupted: object.flag("silently_corrupted")?.unwrap_or_default(),
        quirks: object.quirks(&KEYS),
    })
}

fn sum(digits: &str) -> Option<u64> {
    // A sign would pass for a number.
    let plain = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// A time as Go's `time.Time.String` prints it: `2026-11-20 23:59:43.81 +0000 UTC`. The zone's name says nothing that
/// the offset before it does not, and need not be there.
fn go_time(text: &str) -> Option<Timestamp> {
    let (time, end) = BrokenDownTime::parse_prefix("%Y-%m-%d %H:%M:%S%.f %z", text).ok()?;
    let named = text.get(end..)?;
    (named.is_empty() || named.starts_with(' ')).then(|| time.to_timestamp().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WRITTEN: &str = r#"{"method":"crc64","checksum":"ca4a36b3ed0395b7","change_time":"2026-11-20 23:59:43.810762572 +0000 UTC","last_hashed_at":"2026-11-20T23:59:43Z","silently_corrupted":false}
"#;

    #[test]
    fn as_the_engine_writes_it() {
        let sum = parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(sum.crc64, 0xca4a_36b3_ed03_95b7);
        assert_eq!(sum.changed, Some("2026-11-20T23:59:43.810762572Z".parse().unwrap()));
        assert_eq!(sum.last_hashed_at, "2026-11-20T23:59:43Z");
        assert!(!sum.silently_corrupted && sum.quirks == Quirks::default());
    }

    #[test]
    fn a_change_time_in_any_zone_is_the_same_instant() {
        let instant = go_time("2026-11-20 23:59:43.5 +0000 UTC");
        for other in ["2026-11-21 00:59:43.5 +0100 CET", "2026-11-21 05:29:43.5 +0530 IST"] {
            assert_eq!(go_time(other), instant, "{other}");
        }
        assert_eq!(go_time("2026-11-20 19:14:43.5 -0445 -0445"), instant);
        assert_eq!(go_time("2026-11-20 23:59:43.5 +0000 UTC m=+0.1"), instant);
        assert_eq!(go_time("2026-11-20 23:59:43 +0000 UTC"), Some("2026-11-20T23:59:43Z".parse().unwrap()));
    }

    #[test]
    fn what_is_no_time_is_not_known() {
        let long = "9".repeat(4000);
        for text in ["", "yesterday", "2026-11-20T23:59:43Z", "2026-11-20 23:59:43 +0000UTC", &long] {
            assert_eq!(go_time(text), None, "{text:?}");
        }
        assert_eq!(go_time("2026-02-30 00:00:00 +0000 UTC"), None);
        assert_eq!(go_time("2026-11-20 23:59:43"), None);
    }

    #[test]
    fn what_is_no_sum_is_damage() {
        for digits in ["", "ca4a36b3ed0395b", "ca4a36b3ed0395b77", "+a4a36b3ed0395b7", "ca4a36b3ed0395bg"] {
            let text = WRITTEN.replace("ca4a36b3ed0395b7", digits);
            assert!(matches!(parse(text.as_bytes()), Err(Damage::Foreign(_))), "{digits:?}");
        }
        for (from, to) in [("crc64", "sha512"), ("method", "other"), ("false", "\"no\"")] {
            assert!(matches!(parse(WRITTEN.replace(from, to).as_bytes()), Err(Damage::Foreign(_))), "{to}");
        }
        assert!(matches!(parse(b"{}"), Err(Damage::Foreign(_))));
        assert_eq!(parse(&[0; 170]), Err(Damage::Nul));
    }

    proptest! {
        #[test]
        fn every_sum_and_instant_survive(crc64: u64, second in 0i64..4_000_000_000, nanosecond in 0i32..1_000_000_000) {
            let instant = Timestamp::new(second, nanosecond).unwrap();
            let change_time = instant.strftime("%Y-%m-%d %H:%M:%S%.f +0000 UTC").to_string();
            let text = format!(r#"{{"method":"crc64","checksum":"{crc64:016x}","change_time":"{change_time}"}}"#);
            let sum = parse(text.as_bytes()).unwrap();
            prop_assert_eq!((sum.crc64, sum.changed), (crc64, Some(instant)));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
            let _ = parse(&bytes);
            let _ = go_time(&text);
        }

        #[test]
        fn every_cut_is_damage(cut in 1usize..160) {
            prop_assert_eq!(parse(&WRITTEN.as_bytes()[..cut]).unwrap_err(), Damage::Truncated);
        }
    }
}
