//! Numbers as people read them.

/// Bytes with a binary unit: `512 B`, `1.5 MiB`, `16 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = bytes.checked_ilog2().unwrap_or_default() / 10;
    let Some(unit) = power.checked_sub(1).and_then(|i| UNITS.get(usize::try_from(i).ok()?)) else {
        return format!("{bytes} B");
    };
    // In tenths of the unit, rounded down, so that 1023.99 MiB never reads as 1024 MiB.
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn binary_units_with_at_most_one_decimal() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (17_179_869_184, "16 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
    }
}
