//! What `serve` shows once clients can connect.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::access::nbd::Listed;
use crate::model::finding::Finding;
use crate::report::finding::{FindingReport, printable};

/// The version of the JSON that `serve --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// How many exports are named in text.
const NAMED: usize = 8;

/// What is served, and where.
#[derive(Clone, Debug, Serialize)]
pub struct ServeReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that serves.
    pub lhrecover_version: &'static str,
    /// The replica directory or image, as it was named.
    pub source: String,
    /// What clients reach the default export with.
    pub uri: String,
    /// The default export's length in bytes; `null` when it cannot be had, though others can.
    pub size_bytes: Option<u64>,
    /// Whether writes are taken, and thrown away in the end.
    pub writable: bool,
    /// Everything there is to be asked for, the default export first.
    pub exports: Vec<ExportReport>,
    /// Damage and doubt about what is open so far. What comes later is said on standard error.
    pub findings: Vec<FindingReport>,
}

/// One export.
#[derive(Clone, Debug, Serialize)]
pub struct ExportReport {
    /// Its name; empty for the default one.
    pub name: String,
    /// What clients reach it with.
    pub uri: String,
    /// What it is.
    pub description: String,
}

/// What is served of `source`, read-only; `uri` says how an export is reached.
pub fn build(
    source: &Path,
    listed: Vec<Listed>,
    findings: &[Finding],
    uri: impl Fn(&str) -> String,
) -> ServeReport {
    let export = |Listed { name, description }| ExportReport { uri: uri(&name), name, description };
    ServeReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        source: source.display().to_string(),
        uri: uri(""),
        size_bytes: None,
        writable: false,
        exports: listed.into_iter().map(export).collect(),
        findings: findings.iter().map(FindingReport::from).collect(),
    }
}

/// The same for people: the first line is what to give to a client.
pub fn text(report: &ServeReport) -> String {
    let mut text = format!("{}\n", report.uri);
    let named: Vec<_> = report.exports.iter().filter(|export| !export.name.is_empty()).collect();
    if !named.is_empty() {
        let shown = named.iter().take(NAMED).map(|export| printable(&export.name)).collect::<Vec<_>>();
        let more = named.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "exports by name: {}{more}", shown.join(", "));
    }
    if report.writable {
        text += "writes are taken, and thrown away in the end\n";
    }
    text
}
