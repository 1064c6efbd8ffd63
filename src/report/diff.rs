//! What `diff` shows: how two states stand to each other, how much changed, and where.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::engine::changes::{Change, Tally};
use crate::format::names::snapshot_name;
use crate::replica::View;
use crate::report::browse::name;
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::report::table::table;
use crate::workflow::diff::{By, Counts, Diff, FileChange, Files, Relation, Side, What};

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
    /// What counts as changed: `bytes` that differ, all that was `written`, or `files`.
    pub by: &'static str,
    /// Whether the two are the same, also in length.
    pub same: bool,
    /// Bytes of the volume that both have.
    pub compared_bytes: u64,
    /// Bytes of them that the two do not read from one and the same layer.
    pub written_bytes: u64,
    /// Bytes in sectors that changed; `null` when files were compared.
    pub changed_bytes: Option<u64>,
    /// How many ranges changed.
    pub range_count: Option<u64>,
    /// The ranges: the first ones, or all of them.
    #[serde(serialize_with = "ranges")]
    pub ranges: &'a Diff,
    /// The files that changed, when they were compared.
    pub files: Option<FilesReport<'a>>,
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
    /// Bytes of what changed; `null` when files were compared.
    pub changed_bytes: Option<u64>,
}

/// The files that changed.
#[derive(Serialize)]
pub struct FilesReport<'a> {
    /// How many of each sort.
    #[serde(flatten)]
    pub counts: Counts,
    /// Whether there were too many to find out which were renamed.
    pub renames_given_up: bool,
    /// What changed, by path.
    #[serde(serialize_with = "changes")]
    pub changes: &'a Files,
}

/// A file that changed.
#[derive(Serialize)]
struct FileReport<'a> {
    what: What,
    path: String,
    old_path: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    old_size_bytes: Option<u64>,
    size_bytes: Option<u64>,
    content: bool,
    metadata: &'a [String],
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
    let by_range = diff.files.is_none();
    DiffReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        from: side(&diff.from, written, by_range.then_some(changed), |tally| &tally.from),
        to: side(&diff.to, written, by_range.then_some(changed), |tally| &tally.to),
        relation: match diff.relation {
            Relation::Same => "same",
            Relation::Later(_) => "later",
            Relation::Earlier(_) => "earlier",
            Relation::Branches(_) => "branches",
            Relation::Apart => "apart",
        },
        common_layer: diff.relation.common_layer().map(str::to_owned),
        by: match diff.by {
            By::Bytes { .. } => "bytes",
            By::Written { .. } => "written",
            By::Files { .. } => "files",
        },
        same: diff.is_same(),
        compared_bytes: diff.from.volume_bytes.min(diff.to.volume_bytes),
        written_bytes: written.bytes,
        changed_bytes: by_range.then_some(changed.bytes),
        range_count: by_range.then_some(diff.changes.ranges),
        ranges: diff,
        files: diff.files.as_ref().map(FilesReport::from),
        findings: diff.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: diff.duration.as_secs_f64(),
    }
}

fn side(
    side: &Side,
    written: &Tally,
    changed: Option<&Tally>,
    of: impl Fn(&Tally) -> &BTreeMap<Option<u8>, u64>,
) -> SideReport {
    let layers = of(written).iter().rev().map(|(&place, &written_bytes)| ServedReport {
        layer: side.layer(place).map(str::to_owned),
        written_bytes,
        changed_bytes: changed.map(|changed| of(changed).get(&place).copied().unwrap_or_default()),
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

impl<'a> From<&'a Files> for FilesReport<'a> {
    fn from(files: &'a Files) -> Self {
        FilesReport { counts: files.counts, renames_given_up: files.renames_given_up, changes: files }
    }
}

/// The files that changed, one after the other: they are never in memory together.
fn changes<S: Serializer>(files: &Files, serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(None)?;
    for change in files.changes() {
        let change = change.map_err(S::Error::custom)?;
        list.serialize_element(&FileReport {
            what: change.what,
            path: String::from_utf8_lossy(&change.path).into_owned(),
            old_path: change.old_path.map(|path| String::from_utf8_lossy(&path).into_owned()),
            kind: kind(change.kind),
            old_size_bytes: change.old_size_bytes,
            size_bytes: change.size_bytes,
            content: change.content,
            metadata: &change.metadata,
        })?;
    }
    list.end()
}

/// The words for the letters of `find -type`, as all commands have them.
fn kind(letter: char) -> &'static str {
    match letter {
        'd' => "directory",
        'l' => "symlink",
        'p' => "fifo",
        's' => "socket",
        'c' => "character",
        'b' => "block",
        _ => "file",
    }
}

/// The ranges, one after the other, too.
fn ranges<S: Serializer>(diff: &Diff, serializer: S) -> Result<S::Ok, S::Error> {
    if diff.files.is_some() {
        return serializer.serialize_none();
    }
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
    if let Some(files) = &report.files {
        text.push_str(&summary(files));
        return text;
    }
    for (name, side) in [("from", from), ("to", to)] {
        if !side.layers.is_empty() {
            text.push_str(&layers(name, side, report.by == "bytes"));
        }
    }
    text
}

/// Who serves what was written, and how much of it differs, if that is known.
fn layers(name: &str, side: &SideReport, compared: bool) -> String {
    let rows = side.layers.iter().map(|layer| {
        let mut row = vec![short(layer.layer.as_deref()), human::bytes(layer.written_bytes)];
        row.extend(layer.changed_bytes.filter(|_| compared).map(human::bytes));
        row
    });
    let header = [name, "written", "of which differ"];
    table(&header[..if compared { 3 } else { 2 }], rows, &[1, 2])
}

/// How many files changed, in a line.
fn summary(files: &FilesReport<'_>) -> String {
    let Counts { added, removed, changed, metadata, renamed, moved_along, same } = files.counts;
    let counts = [
        (added, "added"),
        (removed, "removed"),
        (changed, "changed"),
        (metadata, "with other metadata"),
        (renamed, "renamed"),
        (moved_along, "below renamed directories"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let counts: Vec<_> = counts.collect();
    let all = if counts.is_empty() { "no file changed".to_owned() } else { counts.join(", ") };
    let doubt = if files.renames_given_up { "; too many to tell which were renamed" } else { "" };
    format!("{all}; {same} are the same{doubt}\n")
}

/// What changed for people, one to a line, and last how many more there are. An error is that of reading it back.
pub fn lines<'a>(report: &'a DiffReport<'_>) -> impl Iterator<Item = io::Result<String>> + 'a {
    let diff = report.ranges;
    let more = match report.range_count.map_or(0, |count| diff.ranges.left_out(count)) {
        0 => None,
        more => Some(Ok(format!("and {more} more ranges: --ranges lists them all\n"))),
    };
    let ranges = diff.ranges.iter().map(|change| change.map(|change| range_line(diff, change)));
    let files =
        diff.files.iter().flat_map(|files| files.changes().map(|c| c.map(|change| file_line(&change))));
    ranges.chain(more).chain(files)
}

fn range_line(diff: &Diff, Change { range, between, .. }: Change) -> String {
    let (from, to) = (short(diff.from.layer(between.from)), short(diff.to.layer(between.to)));
    format!(
        "{}..{}  {}  {from} -> {to}\n",
        range.start_bytes,
        range.end_bytes,
        human::bytes(range.len_bytes())
    )
}

fn file_line(change: &FileChange) -> String {
    let (what, path) = (change.what, name(&change.path));
    let content = change.content.then(|| "content".to_owned());
    let mut more: Vec<_> = content.into_iter().chain(change.metadata.iter().cloned()).collect();
    let (what, names) = match (what, &change.old_path) {
        (What::Added, _) => ("added", path),
        (What::Removed, _) => ("removed", path),
        (What::Changed, _) => ("changed", path),
        (What::Metadata, _) => ("metadata", path),
        (What::Renamed, old) => {
            ("renamed", format!("{} -> {path}", old.as_deref().map(name).unwrap_or_default()))
        }
    };
    if let (What::Added | What::Removed, 'f') = (change.what, change.kind) {
        more.extend(change.size_bytes.or(change.old_size_bytes).map(human::bytes));
    }
    let more = if more.is_empty() { String::new() } else { format!("  ({})", more.join(", ")) };
    format!("{what:<8}  {names}{more}\n")
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
    let (written, changed) = (bytes(report.written_bytes), bytes(report.changed_bytes.unwrap_or_default()));
    let ranges = match report.range_count.unwrap_or_default() {
        1 => "in 1 range".to_owned(),
        count => format!("in {count} ranges"),
    };
    match (report.by, report.changed_bytes.unwrap_or_default()) {
        ("files", _) if report.relation == "apart" => String::new(),
        ("files", _) => format!("{written} were written between them\n"),
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
