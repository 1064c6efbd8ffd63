//! Findings, as JSON and as text.

use std::fmt::Write;

use serde::Serialize;

use crate::model::finding::{Code, Finding, Severity};
use crate::model::units::ByteRange;

/// How many ranges are shown in text; JSON has all that were kept.
const RANGES_SHOWN: usize = 4;

/// A range of the volume, in bytes, half-open.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RangeReport {
    /// The first byte.
    pub start_bytes: u64,
    /// The byte after the last one.
    pub end_bytes: u64,
}

/// A finding as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct FindingReport {
    /// The stable code.
    pub code: Code,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub what: String,
    /// The files it is about.
    pub files: Vec<String>,
    /// The ranges of the volume it is about; the first ones, when there are very many.
    pub ranges: Vec<RangeReport>,
    /// What it means for the data.
    pub meaning: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl From<&ByteRange> for RangeReport {
    fn from(range: &ByteRange) -> Self {
        RangeReport { start_bytes: range.start_bytes, end_bytes: range.end_bytes }
    }
}

impl From<&Finding> for FindingReport {
    fn from(finding: &Finding) -> Self {
        FindingReport {
            code: finding.code,
            severity: finding.severity(),
            what: finding.what.clone(),
            files: finding.files.clone(),
            ranges: finding.ranges.iter().map(RangeReport::from).collect(),
            meaning: finding.meaning.clone(),
            advice: finding.advice.clone(),
        }
    }
}

/// A finding as a short paragraph:
///
/// ```text
/// warning: one sentence [code]
///   at bytes: 4096..8192
///   meaning: another sentence
///   what to do: another sentence
/// ```
pub fn text(finding: &FindingReport) -> String {
    let mut text = format!("{}: {} [{}]\n", finding.severity, printable(&finding.what), finding.code);
    if !finding.ranges.is_empty() {
        let shown: Vec<_> = finding
            .ranges
            .iter()
            .take(RANGES_SHOWN)
            .map(|range| format!("{}..{}", range.start_bytes, range.end_bytes))
            .collect();
        let more = if finding.ranges.len() > RANGES_SHOWN { ", ..." } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  at bytes: {}{more}", shown.join(", "));
    }
    let _ = writeln!(text, "  meaning: {}", printable(&finding.meaning));
    if !finding.advice.is_empty() {
        let _ = writeln!(text, "  what to do: {}", printable(&finding.advice));
    }
    text
}

/// Characters that show nothing, or turn what follows around.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Text that may hold names from a disk, made safe for a terminal: control characters, and others that show nothing
/// themselves, are shown, not obeyed.
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_short_paragraph() {
        let finding = Finding::new(Code::UnwrittenHidesData, "what\x1b[2J", "what it means")
            .at((0..9).map(|i| ByteRange::new(i * 8192, i * 8192 + 4096)).collect())
            .advise("do this");
        assert_eq!(
            text(&FindingReport::from(&finding)),
            "warning: what\\u{1b}[2J [unwritten-hides-data]\n  \
             at bytes: 0..4096, 8192..12288, 16384..20480, 24576..28672, ...\n  \
             meaning: what it means\n  \
             what to do: do this\n"
        );
    }
}
