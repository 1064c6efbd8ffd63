//! JSON as it is printed and kept.
//!
//! It may hold names from a disk, and it is looked at in terminals. JSON escapes the control characters of ASCII by
//! its own rules, but lets DEL and the C1 range stand, among them the one that begins a control sequence.

use std::fmt::Write;

use serde::Serialize;

use crate::error::{Error, Result};

/// The value as indented JSON with a line end, and without any control character but line ends.
///
/// # Errors
/// When the value cannot be said in JSON; none of this crate's cannot.
pub fn text(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(value)
        .map_err(|e| Error::output("cannot write the result as JSON").caused_by(e.into()))?;
    let mut safe = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if c.is_control() && c != '\n' {
            // Within a string, the only place it can be. Writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe.push('\n');
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_stands_and_none_is_lost() {
        let value: String = (0..0x100).filter_map(char::from_u32).collect();
        let text = text(&[&value]).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [value]);
    }
}
