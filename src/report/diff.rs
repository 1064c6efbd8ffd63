//! What `diff` shows: how two states stand to each other, how much changed, and where.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::engine::changes::{Change, Tally};
use crate::format::names::snapshot_name;
use crate::replica::View;
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::workflow::diff::{Diff, Relation, Side};

/// The version of the JSON that `diff --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything `diff` shows.
#[derive(Serialize)]
pub struct DiffReport<'a> {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// The one side.
    pub from: SideReport,
    /// The other.
    pub to: SideReport,
    /// How they stand to each other: `same`, `later`, `earlier`, `branches` or `apart`.
    pub relation: &'static str,
    /// The file name of the topmost layer that both stand on.
    pub common_layer: Option<String>,
    /// What counts as changed: `bytes` that differ, or all that was `written`.
    pub by: &'static str,
    /// Whether the two are the same, also in length.
    pub same: bool,
    /// Bytes of the volume that both have.
    pub compared_bytes: u64,
    /// Bytes of them that the two do not read from one and the same layer.
    pub written_bytes: u64,
    /// Bytes in sectors that changed.
    pub changed_bytes: u64,
    /// How many ranges changed.
    pub range_count: u64,
    /// The ranges: the first ones, or all of them.
    #[serde(serialize_with = "ranges")]
    pub ranges: &'a Diff,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// One side.
#[derive(Clone, Debug, Serialize)]
pub struct SideReport {
    /// The replica directory, image or device, as it was named.
    pub path: String,
    /// `head`, `snapshot` or `image`.
    pub view: &'static str,
    /// The file name of the top layer; of an image, its path.
    pub top_layer: Option<String>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// The length of the top layer, in bytes: what the volume had at the time.
    pub top_layer_bytes: u64,
    /// Who serves what was written, the newest layer first.
    pub layers: Vec<ServedReport>,
}

/// What a layer serves of what was written.
#[derive(Clone, Debug, Serialize)]
pub struct ServedReport {
    /// The file name; `null` where no layer serves, which reads as zeros.
    pub layer: Option<String>,
    /// Bytes of what was written.
    pub written_bytes: u64,
    /// Bytes of what changed.
    pub changed_bytes: u64,
}

/// A range that changed.
#[derive(Serialize)]
struct ChangeReport<'a> {
    start_bytes: u64,
    end_bytes: u64,
    first_offset_bytes: u64,
    from_layer: Option<&'a str>,
    to_layer: Option<&'a str>,
}

/// Puts together what is shown.
pub fn build(diff: &Diff) -> DiffReport<'_> {
    let (written, changed) = (&diff.changes.written, &diff.changes.differing);
    DiffReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        from: side(&diff.from, written, changed, |tally| &tally.from),
        to: side(&diff.to, written, changed, |tally| &tally.to),
        relation: match diff.relation {
            Relation::Same => "same",
            Relation::Later(_) => "later",
            Relation::Earlier(_) => "earlier",
            Relation::Branches(_) => "branches",
            Relation::Apart => "apart",
        },
        common_layer: diff.relation.common_layer().map(str::to_owned),
        by: if diff.read { "bytes" } else { "written" },
        same: diff.is_same(),
        compared_bytes: diff.from.volume_bytes.min(diff.to.volume_bytes),
        written_bytes: written.bytes,
        changed_bytes: changed.bytes,
        range_count: diff.changes.ranges,
        ranges: diff,
        findings: diff.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: diff.duration.as_secs_f64(),
    }
}

fn side(
    side: &Side,
    written: &Tally,
    changed: &Tally,
    of: impl Fn(&Tally) -> &BTreeMap<Option<u8>, u64>,
) -> SideReport {
    let layers = of(written).iter().rev().map(|(&place, &written_bytes)| ServedReport {
        layer: side.layer(place).map(str::to_owned),
        written_bytes,
        changed_bytes: of(changed).get(&place).copied().unwrap_or_default(),
    });
    SideReport {
        path: side.path.display().to_string(),
        view: match side.view {
            Some(View::Head(_)) => "head",
            Some(View::Snapshot(_)) => "snapshot",
            None => "image",
        },
        top_layer: side.layers.last().cloned(),
        volume_bytes: side.volume_bytes,
        top_layer_bytes: side.top_bytes,
        layers: layers.collect(),
    }
}

/// The ranges, one after the other: they are never in memory together.
fn ranges<S: Serializer>(diff: &Diff, serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(None)?;
    for change in diff.ranges.iter() {
        let Change { range, first_bytes, between } = change.map_err(S::Error::custom)?;
        list.serialize_element(&ChangeReport {
            start_bytes: range.start_bytes,
            end_bytes: range.end_bytes,
            first_offset_bytes: first_bytes,
            from_layer: diff.from.layer(between.from),
            to_layer: diff.to.layer(between.to),
        })?;
    }
    list.end()
}

/// Everything but the ranges, for people.
pub fn text(report: &DiffReport<'_>) -> String {
    let (from, to) = (&report.from, &report.to);
    let mut text = format!("from  {}\nto    {}\n", state(from), state(to));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", relation(report));
    if from.volume_bytes != to.volume_bytes {
        let _ = writeln!(
            text,
            "the volume has {} there and {} here: the first {} are compared",
            bytes(from.volume_bytes),
            bytes(to.volume_bytes),
            bytes(report.compared_bytes)
        );
    } else if report.relation != "apart" && from.top_layer_bytes != to.top_layer_bytes {
        let _ = writeln!(
            text,
            "the volume was expanded between the two: {} and {}",
            bytes(from.top_layer_bytes),
            bytes(to.top_layer_bytes)
        );
    }
    text.push_str(&conclusion(report));
    for (name, side) in [("from", from), ("to", to)] {
        if side.layers.is_empty() {
            continue;
        }
        let line = |name: &str, written: &str, changed: &str| {
            let changed = if report.by == "bytes" { changed } else { "" };
            format!("{:40}  {written:>10}  {changed:>14}", cut(name)).trim_end().to_owned() + "\n"
        };
        text.push_str(&line(name, "written", "of them differ"));
        for layer in &side.layers {
            let name = format!("  {}", short(layer.layer.as_deref()));
            text.push_str(&line(&name, &human::bytes(layer.written_bytes), &human::bytes(layer.changed_bytes)));
        }
    }
    text
}

/// The ranges for people, one to a line, and last how many more there are. An error is that of reading them back.
pub fn range_lines<'a>(report: &'a DiffReport<'_>) -> impl Iterator<Item = io::Result<String>> + 'a {
    let diff = report.ranges;
    let line = |change: Change| {
        let (range, between) = (change.range, change.between);
        let (from, to) = (short(diff.from.layer(between.from)), short(diff.to.layer(between.to)));
        format!(
            "{}..{}  {}  {from} -> {to}\n",
            range.start_bytes,
            range.end_bytes,
            human::bytes(range.len_bytes())
        )
    };
    let more = match report.range_count.saturating_sub(diff.ranges.kept()) {
        0 => None,
        more => Some(Ok(format!("and {more} more ranges: --ranges lists them all\n"))),
    };
    diff.ranges.iter().map(move |change| change.map(line)).chain(more)
}

fn state(side: &SideReport) -> String {
    let path = printable(&side.path);
    match (side.view, &side.top_layer) {
        ("snapshot", Some(file)) => format!("{path}: snapshot {}", short(Some(file))),
        ("head", Some(file)) => format!("{path}: head {}", printable(file)),
        _ => path,
    }
}

fn relation(report: &DiffReport<'_>) -> String {
    let common = || short(report.common_layer.as_deref());
    match report.relation {
        "same" => "they are the same state".to_owned(),
        "later" => "the second stands on the first".to_owned(),
        "earlier" => "the order is reversed: the first is the newer one, and stands on the second".to_owned(),
        "branches" => format!("they are on branches: both stand on {}", common()),
        _ => "they have no layer in common: everything is compared".to_owned(),
    }
}

fn conclusion(report: &DiffReport<'_>) -> String {
    let (written, changed) = (bytes(report.written_bytes), bytes(report.changed_bytes));
    let ranges = match report.range_count {
        1 => "in 1 range".to_owned(),
        count => format!("in {count} ranges"),
    };
    match (report.by, report.changed_bytes) {
        ("written", 0) => "nothing was written between them\n".to_owned(),
        ("written", _) => format!("{written} were written between them, {ranges}; nothing was read\n"),
        (_, 0) if report.written_bytes == 0 => "nothing was written between them\n".to_owned(),
        (_, 0) => format!("nothing differs; {written} that they read from different layers are the same\n"),
        _ if report.relation == "apart" => format!("{changed} differ, {ranges}\n"),
        _ => format!("{written} were written between them, of which {changed} differ, {ranges}\n"),
    }
}

fn bytes(bytes: u64) -> String {
    match human::bytes(bytes) {
        short if bytes < 1024 => short,
        short => format!("{short} ({bytes} bytes)"),
    }
}

/// A layer's name as people use it.
fn short(file: Option<&str>) -> String {
    file.map_or_else(|| "no layer".to_owned(), |file| printable(snapshot_name(file).unwrap_or(file)))
}
