//! What `scan` shows: the replicas of every volume, best first, and why.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::model::evidence::{Clock, Evidence};
use crate::model::standing::{Confidence, Ranked, Ranking, Standing, Verdict, sums};
use crate::report::finding::{FindingReport, printable};
use crate::report::{finding, human};
use crate::workflow::scan::collect::{Collected, NodeSeen, SCHEMA_VERSION};

/// Everything `scan` shows.
#[derive(Clone, Debug, Serialize)]
pub struct ScanReport<'a> {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version that did it.
    pub lhrecover_version: &'static str,
    /// The nodes that were looked at.
    pub nodes: Vec<NodeReport>,
    /// The volumes, by name.
    pub volumes: Vec<VolumeReport<'a>>,
    /// What could not be looked at, and clocks that are off. What is wrong with a volume stands with it.
    pub findings: Vec<FindingReport>,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeReport {
    /// What it is called.
    pub node: String,
    /// How its clock stands to that of the machine that printed this.
    pub clock: Clock,
    /// When it was scanned, by its own clock.
    pub scanned_at: Option<Timestamp>,
    /// Why it could not be scanned.
    pub error: Option<String>,
}

/// A volume and its replicas.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeReport<'a> {
    /// Its name.
    pub volume: String,
    /// The replica to take; `null` when none can be trusted.
    pub best: Option<PlaceReport>,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why it is not certain.
    pub doubts: Vec<String>,
    /// The replicas, best first.
    pub replicas: Vec<ReplicaReport<'a>>,
    /// Where they contradict each other, and what is wrong with the volume as a whole.
    pub findings: Vec<FindingReport>,
}

/// Where a replica is.
#[derive(Clone, Debug, Serialize)]
pub struct PlaceReport {
    /// The node.
    pub node: String,
    /// The directory on it.
    pub path: String,
}

/// A replica in its place.
#[derive(Clone, Debug, Serialize)]
pub struct ReplicaReport<'a> {
    /// What is known of it.
    #[serde(flatten)]
    pub evidence: &'a Evidence,
    /// Its rank among its siblings.
    pub standing: &'a Standing,
    /// What to think of it.
    pub verdict: Verdict,
    /// Why, the weightiest first.
    pub reasons: &'a [String],
}

/// The winners alone.
#[derive(Clone, Debug, Serialize)]
pub struct BestReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// One for each volume that has a replica to trust, by the volumes' names.
    pub best: Vec<WinnerReport>,
}

/// The replica to take for a volume.
#[derive(Clone, Debug, Serialize)]
pub struct WinnerReport {
    /// The volume.
    pub volume: String,
    /// The node.
    pub node: String,
    /// The directory on it.
    pub path: String,
    /// How sure that is.
    pub confidence: Confidence,
}

impl From<&NodeSeen> for NodeReport {
    fn from(seen: &NodeSeen) -> Self {
        NodeReport {
            node: seen.node.clone(),
            clock: seen.clock,
            scanned_at: seen.scanned_at,
            error: seen.error.clone(),
        }
    }
}

impl<'a> From<&'a Ranked<'_>> for ReplicaReport<'a> {
    fn from(ranked: &'a Ranked<'_>) -> Self {
        ReplicaReport {
            evidence: ranked.evidence,
            standing: &ranked.standing,
            verdict: ranked.verdict,
            reasons: &ranked.reasons,
        }
    }
}

/// Builds the report of what was collected and how it ranks.
pub fn build<'a>(collected: &Collected, rankings: &'a [Ranking<'_>]) -> ScanReport<'a> {
    let volumes = rankings.iter().map(|ranking| VolumeReport {
        volume: ranking.volume.clone(),
        best: ranking
            .best()
            .map(|best| PlaceReport { node: best.evidence.node.clone(), path: best.evidence.path.clone() }),
        confidence: ranking.confidence,
        doubts: ranking.doubts.clone(),
        replicas: ranking.replicas.iter().map(ReplicaReport::from).collect(),
        findings: ranking.findings.iter().map(FindingReport::from).collect(),
    });
    ScanReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        nodes: collected.nodes.iter().map(NodeReport::from).collect(),
        volumes: volumes.collect(),
        findings: collected.findings.iter().map(FindingReport::from).collect(),
    }
}

/// The winners alone.
pub fn best(report: &ScanReport<'_>) -> BestReport {
    let winner = |volume: &VolumeReport<'_>| {
        let place = volume.best.clone()?;
        Some(WinnerReport {
            volume: volume.volume.clone(),
            node: place.node,
            path: place.path,
            confidence: volume.confidence,
        })
    };
    BestReport { schema_version: SCHEMA_VERSION, best: report.volumes.iter().filter_map(winner).collect() }
}

/// One line per winner: volume, node, directory and confidence, with tabs between them.
///
/// Control characters of hostile names are shown escaped, so that a line is always a winner.
pub fn best_lines(report: &BestReport) -> String {
    report.best.iter().fold(String::new(), |mut text, winner| {
        let WinnerReport { volume, node, path, confidence } = winner;
        let fields = [volume, node, path].map(|field| printable(field));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{confidence}", fields.join("\t"));
        text
    })
}

/// The report as text: a table per volume, and the reasons below it.
pub fn text(report: &ScanReport<'_>) -> String {
    // Known only of a terminal.
    let is_narrow = Table::new().width().is_some_and(|columns| columns < FULL_COLUMNS);
    text_for(report, is_narrow)
}

fn text_for(report: &ScanReport<'_>, is_narrow: bool) -> String {
    let mut text = String::new();
    for volume in &report.volumes {
        let _ = writeln!(text, "volume {}", printable(&volume.volume));
        let _ = writeln!(text, "{}", table(&volume.replicas, is_narrow));
        for (place, replica) in volume.replicas.iter().enumerate() {
            let why = printable(&replica.reasons.join("; "));
            let _ = writeln!(text, "  {}  {:8}  {why}", place + 1, replica.verdict);
            if is_narrow {
                let _ = writeln!(text, "               {}", beside(place, replica));
            }
        }
        text.push_str(&conclusion(volume));
        for found in &volume.findings {
            text.push_str(&finding::text(found));
        }
        text.push('\n');
    }
    for found in &report.findings {
        text.push_str(&finding::text(found));
    }
    if report.volumes.is_empty() {
        text.push_str("no replicas found\n");
    }
    text
}

fn conclusion(volume: &VolumeReport<'_>) -> String {
    let doubts = volume.doubts.iter().map(|doubt| format!(" ({})", printable(doubt))).collect::<String>();
    match &volume.best {
        Some(best) => {
            let place = printable(&format!("{}:{}", best.node, best.path));
            format!("  => {place}, {}{doubts}\n", volume.confidence)
        }
        None => "  => NO REPLICA CAN BE TRUSTED: a person must look\n".to_owned(),
    }
}

/// On a terminal with fewer columns, the table has only those that fit, and the rest stands below.
const FULL_COLUMNS: u16 = 140;

/// The columns that even a narrow terminal has room for.
const NARROW: [usize; 8] = [0, 1, 3, 4, 5, 7, 8, 9];

/// What a narrow table leaves out: directory, head, last write, checks.
fn beside(place: usize, replica: &ReplicaReport<'_>) -> String {
    let row = row(place + 1, replica);
    let left_out = (0..row.len()).filter(|column| !NARROW.contains(column) && row[*column] != "-");
    left_out.map(|column| row[column].as_str()).collect::<Vec<_>>().join(", ")
}

const COLUMNS: [&str; 12] = [
    "#",
    "node",
    "directory",
    "verdict",
    "size",
    "data",
    "head",
    "snaps",
    "revision",
    "flags",
    "last write",
    "checks",
];

fn table(replicas: &[ReplicaReport<'_>], is_narrow: bool) -> Table {
    let columns: Vec<_> = (0..COLUMNS.len()).filter(|column| !is_narrow || NARROW.contains(column)).collect();
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(columns.iter().map(|&column| COLUMNS[column]));
    for (place, replica) in replicas.iter().enumerate() {
        let row = row(place + 1, replica);
        table.add_row(columns.iter().map(|&column| row[column].clone()));
    }
    for number in (0..columns.len()).filter(|&at| [0, 4, 5, 7, 8].contains(&columns[at])) {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(place: usize, replica: &ReplicaReport<'_>) -> [String; 12] {
    let Evidence { node, path, size_bytes, head, snapshots, .. } = &replica.evidence;
    let e = &replica.evidence;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        place.to_string(),
        printable(node),
        printable(path),
        replica.verdict.to_string(),
        or_dash(size_bytes.map(human::bytes)),
        human::bytes(e.data_bytes.unwrap_or(e.allocated_bytes)),
        or_dash(head.as_deref().map(printable)),
        snapshots.iter().filter(|s| s.live).count().to_string(),
        or_dash(e.revision_counter.map(|n| n.to_string())),
        flags(e),
        or_dash(e.head_modified.map(|at| format!("{at:.0}"))),
        contents(e),
    ]
}

fn flags(evidence: &Evidence) -> String {
    use crate::model::evidence::{ChainState, VolumeState};
    let flags = [
        (evidence.chain == ChainState::Broken, "broken"),
        (evidence.chain == ChainState::BackingMissing, "no backing image"),
        (evidence.state == VolumeState::Rebuilding, "rebuilding"),
        (evidence.state == VolumeState::GivenUp, "error"),
        (evidence.state == VolumeState::Unknown, "unknown"),
        (evidence.dirty, "dirty"),
        (evidence.in_use, "in use"),
    ];
    let set: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|&(_, name)| name).collect();
    if set.is_empty() { "-".to_owned() } else { set.join(", ") }
}

/// Checksums, and what is inside; both only after a closer look.
fn contents(evidence: &Evidence) -> String {
    if !evidence.deep {
        return "not checked".to_owned();
    }
    let recorded = || evidence.live_chain().filter(|s| s.recorded_crc64.is_some());
    let passing = recorded().filter(|s| sums::passes(s)).count();
    let sums = match recorded().count() {
        0 => "no checksums".to_owned(),
        all => format!("{passing} of {all} checksums pass"),
    };
    let guest = evidence.guest.as_deref().unwrap_or("nothing known");
    format!("{sums}, {guest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::standing::rank;

    #[test]
    fn a_narrow_terminal_shows_the_directory_below_the_table() {
        let path =
            format!("/var/lib/longhorn/replicas/{}-00000001", "pvc-96982083-7f5f-43a2-a6e7-80eba830df05");
        let evidence = [Evidence { node: "raspberrypi".into(), path: path.clone(), ..Evidence::default() }];
        let collected = Collected::default();
        let rankings = rank(&evidence, &collected.clocks());
        let text = text_for(&build(&collected, &rankings), true);
        let (table, below) = text.split_once("\n  1  ").unwrap();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!table.contains(&path) && below.contains(&path), "{text}");
    }
}
