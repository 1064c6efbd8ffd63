//! Patterns for names, as shells have them: `*`, `?`, `[a-z]`, `[!a-z]` and `\` before any of them.

/// A pattern, as bytes: names are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Byte(u8),
    /// Ranges, both ends included, and whether a byte must be in none of them.
    Set(Vec<(u8, u8)>, bool),
}

impl Glob {
    /// Reads a pattern. A bracket that is not closed stands for itself.
    pub fn new(pattern: &[u8]) -> Self {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            parts.push(match (first, after) {
                (b'*', _) => Part::Any,
                (b'?', _) => Part::One,
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    Part::Byte(*escaped)
                }
                (b'[', _) => match set(after) {
                    Some((part, after)) => {
                        rest = after;
                        part
                    }
                    None => Part::Byte(b'['),
                },
                (byte, _) => Part::Byte(*byte),
            });
        }
        Glob(parts)
    }

    /// Whether the whole of `name` is as the pattern says.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut at, mut part) = (0, 0);
        // Where to go on when what follows the last star does not match: the star then takes one byte more.
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.0.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    retry = Some((at, part));
                    continue;
                }
                Some(wanted) if wanted.takes(name[at]) => (at, part) = (at + 1, part + 1),
                _ => {
                    let Some((from, after)) = retry else { return false };
                    (at, part) = (from + 1, after);
                    retry = Some((from + 1, after));
                }
            }
        }
        self.0[part..].iter().all(|rest| *rest == Part::Any)
    }
}

impl Part {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Part::Any => false,
            Part::One => true,
            Part::Byte(wanted) => *wanted == byte,
            Part::Set(ranges, negated) => ranges.iter().any(|&(a, b)| (a..=b).contains(&byte)) != *negated,
        }
    }
}

/// What follows an opening bracket: the set, and what is behind it.
fn set(bytes: &[u8]) -> Option<(Part, &[u8])> {
    let negated = matches!(bytes.first(), Some(b'!' | b'^'));
    let bytes = &bytes[usize::from(negated)..];
    // A closing bracket in the first place is meant.
    let end = bytes.iter().skip(1).position(|&b| b == b']')? + 1;
    let (mut inner, mut ranges) = (&bytes[..end], Vec::new());
    while let [first, after @ ..] = inner {
        inner = after;
        let mut last = *first;
        if let [b'-', end, after @ ..] = after {
            (last, inner) = (*end, after);
        }
        ranges.push((*first, last));
    }
    Some((Part::Set(ranges, negated), &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_shells_have_them() {
        let cases: &[(&str, &str, bool)] = &[
            ("*.sqlite", "app.sqlite", true),
            ("*.sqlite", "app.sqlite-wal", false),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("**", "anything", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(Glob::new(pattern.as_bytes()).matches(name.as_bytes()), *expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "*a".repeat(100) + "b";
        assert!(!Glob::new(pattern.as_bytes()).matches(&[b'a'; 250]));
    }
}
