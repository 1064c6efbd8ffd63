//! JSON as Go's `encoding/json` decoder reads it, because that is what wrote and what reads these files.
//!
//! Only the first value of a file counts; unknown keys are ignored; keys match whatever their case, and the last
//! one wins; `null` leaves a field at its zero value; a value of the wrong type is an error. What Go passes over
//! in silence is kept as [`Quirks`], since an engine never writes it: somebody edited the file, or a disk did.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::error::Category;

/// Why a file that is there cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// No bytes, or only white space.
    Empty,
    /// Nothing but NUL bytes: typical after a power cut, when the size reached the disk and the data did not.
    Nul,
    /// Begins well and stops in the middle.
    Truncated,
    /// Something else; the text says what is wrong with it.
    Foreign(String),
    /// More bytes than such a file can have; it was not read.
    TooLarge {
        /// How large it is, in bytes.
        size_bytes: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Empty => f.write_str("is empty"),
            Damage::Nul => f.write_str("is nothing but NUL bytes"),
            Damage::Truncated => f.write_str("is cut off in the middle"),
            Damage::Foreign(why) => write!(f, "is not what it should be ({why})"),
            Damage::TooLarge { size_bytes } => write!(f, "is far too large ({size_bytes} bytes)"),
        }
    }
}

/// What the engine passes over in silence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// Bytes other than white space after the first value.
    pub trailing_bytes: usize,
    /// Known keys that are written in another case.
    pub other_case: Vec<String>,
    /// Known keys that stand more than once.
    pub repeated: Vec<String>,
    /// Keys of older engine versions.
    pub old_keys: Vec<String>,
}

/// The members of a JSON object in the order of the file, repetitions included.
#[derive(Debug)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Members, E> {
                Err(E::custom("it says null"))
            }
        }
        deserializer.deserialize_any(Collect)
    }
}

/// The first JSON object of a file.
#[derive(Debug)]
pub struct Object {
    members: Vec<(String, Value)>,
    trailing_bytes: usize,
}

impl Object {
    /// Reads the first value of `bytes`, which must be an object.
    ///
    /// # Errors
    /// How the bytes are damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        if bytes.iter().all(|b| is_space(*b)) {
            return Err(Damage::Empty);
        }
        if bytes.iter().all(|&b| b == 0) {
            return Err(Damage::Nul);
        }
        let mut stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Members>();
        match stream.next() {
            Some(Ok(Members(members))) => {
                let rest = bytes.get(stream.byte_offset()..).unwrap_or_default();
                let trailing_bytes = rest.iter().filter(|b| !is_space(**b)).count();
                Ok(Object { members, trailing_bytes })
            }
            Some(Err(e)) if e.classify() == Category::Eof => Err(Damage::Truncated),
            Some(Err(e)) => Err(Damage::Foreign(e.to_string())),
            None => Err(Damage::Empty),
        }
    }

    /// What the engine would pass over in an object whose keys are `known`.
    pub fn quirks(&self, known: &[&str]) -> Quirks {
        let mut quirks = Quirks { trailing_bytes: self.trailing_bytes, ..Quirks::default() };
        for name in known {
            let mut times = 0;
            for (key, _) in self.named(name) {
                times += 1;
                if key != name {
                    quirks.other_case.push(key.clone());
                }
            }
            if times > 1 {
                quirks.repeated.push((*name).to_owned());
            }
        }
        quirks
    }

    /// Whether any of `names` is there. An object without any is not one of ours, though Go would take it.
    pub fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.named(name).next().is_some())
    }

    /// Whether `name` is there with a value: null says nothing, for Go either.
    pub fn says(&self, name: &str) -> bool {
        self.named(name).any(|(_, value)| !value.is_null())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a (String, Value)> {
        self.members.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name))
    }

    /// The last value of `name` that is not null, as `take` reads it; an earlier one of the wrong type spoils
    /// the whole object, as it does for Go.
    fn last<'a, T>(
        &'a self,
        name: &'a str,
        expected: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Damage> {
        let mut last = None;
        for (key, value) in self.named(name).filter(|(_, value)| !value.is_null()) {
            last = Some(take(value).ok_or_else(|| Damage::Foreign(format!("{key} is not {expected}")))?);
        }
        Ok(last)
    }

    /// A string; empty when absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn string(&self, name: &str) -> Result<String, Damage> {
        Ok(self.last(name, "a string", |v| v.as_str().map(str::to_owned))?.unwrap_or_default())
    }

    /// A truth value, if it is there.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Damage> {
        self.last(name, "true or false", Value::as_bool)
    }

    /// A signed 64-bit number; 0 when absent.
    ///
    /// # Errors
    /// When it is something else, or does not fit.
    pub fn number(&self, name: &str) -> Result<i64, Damage> {
        Ok(self.last(name, "a whole 64-bit number", Value::as_i64)?.unwrap_or_default())
    }

    /// A map of strings; empty when absent.
    ///
    /// # Errors
    /// When it is something else.
    pub fn labels(&self, name: &str) -> Result<Vec<(String, String)>, Damage> {
        let label = |(key, value): (&String, &Value)| match value {
            Value::Null => Some((key.clone(), String::new())),
            other => other.as_str().map(|text| (key.clone(), text.to_owned())),
        };
        let map = |v: &Value| v.as_object()?.iter().map(label).collect();
        Ok(self.last(name, "a map of strings", map)?.unwrap_or_default())
    }
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(text: &str) -> Object {
        Object::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_kind_of_damage_is_told_apart() {
        let parse = |bytes: &[u8]| Object::parse(bytes).unwrap_err();
        assert_eq!(parse(b""), Damage::Empty);
        assert_eq!(parse(b" \r\n\t"), Damage::Empty);
        assert_eq!(parse(&[0; 300]), Damage::Nul);
        assert_eq!(parse(b"{\"Size\":167"), Damage::Truncated);
        assert_eq!(parse(b"{\"Size\":1,"), Damage::Truncated);
        for foreign in ["\0{}", "null", "[1]", "17", "apiVersion: v1\n", "{\"Size\" 1}", "\u{feff}{}"] {
            assert!(matches!(parse(foreign.as_bytes()), Damage::Foreign(_)), "{foreign:?}");
        }
    }

    #[test]
    fn keys_match_in_any_case_and_the_last_one_wins() {
        let o = object(r#"{"Size":1,"SIZE":2,"Size":3,"size":null,"Other":[{}]}"#);
        assert_eq!(o.number("Size"), Ok(3));
        let quirks = o.quirks(&["Size", "Head"]);
        assert_eq!(quirks.other_case, ["SIZE", "size"]);
        assert_eq!(quirks.repeated, ["Size"]);
    }

    #[test]
    fn wrong_types_are_errors_as_they_are_for_go() {
        for text in [r#"{"n":"1"}"#, r#"{"n":1.5}"#, r#"{"n":9223372036854775808}"#, r#"{"n":true,"n":1}"#] {
            assert!(matches!(object(text).number("n"), Err(Damage::Foreign(_))), "{text}");
        }
        assert_eq!(object(r#"{"n":-9223372036854775808}"#).number("n"), Ok(i64::MIN));
        assert!(object(r#"{"l":{"a":1}}"#).labels("l").is_err());
        assert_eq!(object(r#"{"l":{"a":null}}"#).labels("l").unwrap(), [("a".into(), String::new())]);
        assert_eq!(object(r#"{"l":null}"#).labels("l").unwrap(), []);
    }

    #[test]
    fn only_the_first_value_counts() {
        assert_eq!(object("{\"n\":1}\n").quirks(&[]).trailing_bytes, 0);
        assert_eq!(object("{\"n\":1}\n}}x\0").quirks(&[]).trailing_bytes, 4);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Object::parse(&bytes);
        }

        #[test]
        fn every_cut_of_an_object_is_truncated(cut in 1usize..40) {
            let text = br#"{"Parent":"a\u00e9b","L":{"x":[1,true]}}"#;
            prop_assert_eq!(Object::parse(&text[..cut.min(text.len() - 1)]).unwrap_err(), Damage::Truncated);
        }
    }
}
