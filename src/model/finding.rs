//! Damage or doubt as data: the findings, and the one table that gives each code its severity.
//!
//! A finding never stops the work by itself; guards do that. Its severity decides the exit code: anything of
//! [`Severity::Warning`] or worse makes it 1. Codes are stable: scripts may match them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::units::ByteRange;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; the data is not in doubt.
    Info,
    /// The data, or a part of it, is in doubt: a person should look.
    Warning,
    /// The data cannot be had this way, or is wrong.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Declares the codes: `Name = "stable-code", Severity, "one line of documentation";`.
macro_rules! codes {
    ($($name:ident = $code:literal, $severity:ident, $doc:literal;)*) => {
        /// What kind of finding. Each code has one severity, given in one table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $doc] $name,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }

            /// How much findings of this code matter.
            pub fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)* }
            }

            /// One line that says what the code stands for.
            pub fn summary(self) -> &'static str {
                match self { $(Code::$name => $doc,)* }
            }
        }
    };
}

codes! {
    UnwrittenExtents = "unwritten-extents", Info,
        "A layer has preallocated extents that were never written, above no older data.";
    UnwrittenHidesData = "unwritten-hides-data", Warning,
        "Preallocated extents that were never written lie above older data: zeros or that data, as --unwritten says.";
    UnwrittenUnknown = "unwritten-unknown", Info,
        "The file system has no FIEMAP: unwritten extents cannot be told from holes.";
    LiveHead = "live-head", Warning,
        "The head is open for writing in another process.";
    LiveUnknown = "live-unknown", Info,
        "Not all processes could be looked at; the replica may be in use.";
    ChosenByHand = "chosen-by-hand", Warning,
        "Head or size were given by hand against, or for want of, volume.meta.";
    SizeUnaligned = "size-unaligned", Warning,
        "The volume's size is not a multiple of 4096 bytes.";
    BackingUnrecorded = "backing-unrecorded", Warning,
        "A backing image was given by hand for a volume that names none.";
    RemovedView = "removed-view", Warning,
        "The snapshot that was asked for is marked as removed: its own view may have been changed.";
    CopyFullyAllocated = "copy-fully-allocated", Error,
        "Every layer is fully allocated: a copy turned holes into data, and upper layers hide what is below.";
    CopyNoZeros = "copy-no-zeros", Warning,
        "No explicit zero block anywhere: a copy probably turned written zeros into holes, and old data shows through.";
    DeviceLarger = "device-larger", Info,
        "The output device is larger than the image; the rest of it is left as it is.";
    DeviceUsersUnknown = "device-users-unknown", Info,
        "Not all processes could be looked at; one may have the output device open.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Damage or doubt: what, where, what it means for the data, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub code: Code,
    /// What was found: one lower-case sentence without a full stop.
    pub what: String,
    /// The files it is about, by name within the replica directory.
    pub files: Vec<String>,
    /// The ranges of the volume it is about; the first ones, when there are very many.
    pub ranges: Vec<ByteRange>,
    /// What it means for the data.
    pub meaning: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Finding {
    /// A finding about no particular file or range yet.
    pub fn new(code: Code, what: impl Into<String>, meaning: impl Into<String>) -> Self {
        Finding {
            code,
            what: what.into(),
            files: Vec::new(),
            ranges: Vec::new(),
            meaning: meaning.into(),
            advice: String::new(),
        }
    }

    /// Names a file it is about.
    pub fn on(mut self, file: impl Into<String>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Names the ranges it is about.
    pub fn at(mut self, ranges: Vec<ByteRange>) -> Self {
        self.ranges = ranges;
        self
    }

    /// Says what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// How much it matters: what the table says of its code.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }
    }
}
