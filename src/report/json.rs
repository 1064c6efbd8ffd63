//! JSON as it is printed and kept.
//!
//! It may hold names from a disk, and it is looked at in terminals. JSON escapes the control characters of ASCII by
//! its own rules, but lets DEL and the C1 range stand, among them the one that begins a control sequence.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Result};

/// The value as indented JSON with a line end, and without any control character but line ends.
///
/// # Errors
/// When the value cannot be said in JSON; none of this crate's cannot.
pub fn text(value: &impl Serialize) -> Result<String> {
    let fail = |e| Error::output("cannot write the result as JSON").caused_by(e);
    let mut json = Vec::new();
    write(value, &mut json).map_err(fail)?;
    String::from_utf8(json).map_err(|e| fail(io::Error::other(e)))
}

/// Writes the same to `out`, piece by piece: a large result is never in memory as a whole.
///
/// # Errors
/// When `out` cannot be written to, or the value cannot be said in JSON; none of this crate's cannot.
pub fn write(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    let mut safe = Safe { out: io::BufWriter::new(out), first_of_two: false };
    serde_json::to_writer_pretty(&mut safe, value)?;
    safe.write_all(b"\n")?;
    safe.flush()
}

/// Passes UTF-8 on, with control characters escaped. Within JSON they can only stand in strings.
struct Safe<W> {
    out: W,
    /// The last byte was one that every character of the C1 range begins with. It is held back.
    first_of_two: bool,
}

/// U+0080 to U+009F are this byte, and the number itself.
const C1_FIRST: u8 = 0xc2;

impl<W: Write> Write for Safe<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut rest = buf;
        if let (true, Some(&second)) = (self.first_of_two, rest.first()) {
            self.first_of_two = false;
            if (0x80..=0x9f).contains(&second) {
                write!(self.out, "\\u{second:04x}")?;
                rest = &rest[1..];
            } else {
                self.out.write_all(&[C1_FIRST])?;
            }
        }
        while let Some(at) = rest.iter().position(|&b| b == 0x7f || b == C1_FIRST || (b < 0x20 && b != b'\n'))
        {
            self.out.write_all(&rest[..at])?;
            match (rest[at], rest.get(at + 1)) {
                (C1_FIRST, Some(&second @ 0x80..=0x9f)) => {
                    write!(self.out, "\\u{second:04x}")?;
                    rest = &rest[at + 2..];
                }
                (C1_FIRST, Some(_)) => {
                    self.out.write_all(&[C1_FIRST])?;
                    rest = &rest[at + 1..];
                }
                (C1_FIRST, None) => {
                    self.first_of_two = true;
                    rest = &[];
                }
                (control, _) => {
                    write!(self.out, "\\u{control:04x}")?;
                    rest = &rest[at + 1..];
                }
            }
        }
        self.out.write_all(rest)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
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

    #[test]
    fn pieces_may_end_anywhere() {
        let value: String = (0x70..0x110).filter_map(char::from_u32).collect();
        let whole = text(&value).unwrap();
        let mut out = Vec::new();
        let mut safe = Safe { out: &mut out, first_of_two: false };
        for byte in serde_json::to_string(&value).unwrap().bytes() {
            safe.write_all(&[byte]).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), whole.trim_end());
    }
}
