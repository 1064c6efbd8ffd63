//! What `map` shows: which layer serves what, as JSON, as a strip in the terminal, as a picture and as a page.
//!
//! All are drawn from one [`MapReport`], which holds what `inspect` prints and the cells of the volume. So the figures
//! on a page are those of `inspect --json`.

mod html;
mod markup;
mod palette;
mod stack;
mod svg;
mod text;
mod timeline;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::heat::HeatMap;
use crate::model::standing::{Confidence, Ranking, Verdict};
use crate::replica::{LayerKind, ReplicaDir, Source, View};
use crate::report::human;
use crate::report::inspect::{self, InspectReport, LayerReport, Place};
use crate::report::scan::PlaceReport;
use crate::workflow::map::Mapped;

pub use html::html;
pub use palette::Depth;
pub use svg::svg;
pub use text::{Style, text};
use timeline::timeline;

/// Everything `map` shows.
#[derive(Clone, Debug, Serialize)]
pub struct MapReport {
    /// What `inspect` shows, of the state that was asked for.
    #[serde(flatten)]
    pub replica: InspectReport,
    /// `head` or `snapshot`; `null` when the state cannot be read.
    pub view: Option<&'static str>,
    /// The file name of the top layer of the state.
    pub top_layer: Option<String>,
    /// The volume's length in bytes; `null` when the state cannot be read.
    pub volume_bytes: Option<u64>,
    /// How many bytes a cell has; the last one may have fewer.
    pub cell_bytes: Option<u64>,
    /// The volume in equal parts, in ascending order.
    pub cells: Vec<CellReport>,
    /// How the replica stands among its siblings, when a scan was given.
    pub ranking: Option<RankingReport>,
}

/// A part of the volume.
#[derive(Clone, Debug, Serialize)]
pub struct CellReport {
    /// The first byte.
    pub start_bytes: u64,
    /// The byte after the last one.
    pub end_bytes: u64,
    /// Bytes that no layer serves: they read as zeros.
    pub hole_bytes: u64,
    /// The layers that serve the rest, the newest first.
    pub layers: Vec<ShareReport>,
    /// The findings about a range in it, as places in `findings`.
    pub findings: Vec<usize>,
}

/// What a layer serves of a cell.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ShareReport {
    /// The layer, as a place in `layers`.
    pub layer: usize,
    /// Bytes of written data.
    pub data_bytes: u64,
    /// Bytes of preallocated room that was never written, which reads as zeros.
    pub unwritten_bytes: u64,
}

/// The replicas of the volume, best first.
#[derive(Clone, Debug, Serialize)]
pub struct RankingReport {
    /// The volume's name.
    pub volume: String,
    /// The replica to take; `null` when none can be trusted.
    pub best: Option<PlaceReport>,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why it is not certain.
    pub doubts: Vec<String>,
    /// The replicas.
    pub replicas: Vec<RankedReport>,
}

/// A replica in its place.
#[derive(Clone, Debug, Serialize)]
pub struct RankedReport {
    /// The node.
    pub node: String,
    /// The directory on it.
    pub path: String,
    /// What to think of it.
    pub verdict: Verdict,
    /// Why, the weightiest first.
    pub reasons: Vec<String>,
    /// Whether it is the one on the map, going by the directory's name.
    pub is_this: bool,
}

/// Puts together what is shown.
pub fn build(replica: &ReplicaDir, mapped: &Mapped, ranking: Option<&Ranking<'_>>) -> MapReport {
    let inspected = inspect::build(replica, &mapped.diagnosis);
    let source = mapped.diagnosis.source.as_ref();
    let cells = match (&mapped.heat, source) {
        (Some(heat), Some(source)) => cells(heat, source, &inspected),
        _ => Vec::new(),
    };
    MapReport {
        view: source.map(|source| match source.view {
            View::Head(_) => "head",
            View::Snapshot(_) => "snapshot",
        }),
        top_layer: mapped.diagnosis.top.clone(),
        volume_bytes: source.map(|source| source.volume_bytes),
        cell_bytes: mapped.heat.as_ref().map(|heat| heat.cell_bytes),
        cells,
        ranking: ranking.map(|ranking| RankingReport::new(ranking, mapped.directory.as_deref())),
        replica: inspected,
    }
}

fn cells(heat: &HeatMap, source: &Source, inspected: &InspectReport) -> Vec<CellReport> {
    let places: Vec<_> = source
        .chain
        .iter()
        .map(|info| {
            let is_backing = |layer: &LayerReport| layer.kind == "backing";
            let is_it = |layer: &LayerReport| {
                layer.file == info.file && is_backing(layer) == (info.kind == LayerKind::Backing)
            };
            inspected.layers.iter().position(is_it).unwrap_or_default()
        })
        .collect();
    let mut cells: Vec<_> = heat
        .cells
        .iter()
        .map(|cell| {
            let served: u64 = cell.shares.iter().map(|share| share.data_bytes + share.unwritten_bytes).sum();
            let share = |share: &crate::engine::heat::Share| ShareReport {
                layer: places.get(usize::from(share.layer)).copied().unwrap_or_default(),
                data_bytes: share.data_bytes,
                unwritten_bytes: share.unwritten_bytes,
            };
            CellReport {
                start_bytes: cell.range.start_bytes,
                end_bytes: cell.range.end_bytes,
                hole_bytes: cell.range.len_bytes() - served,
                layers: cell.shares.iter().rev().map(share).collect(),
                findings: Vec::new(),
            }
        })
        .collect();
    for (number, finding) in inspected.findings.iter().enumerate() {
        for range in &finding.ranges {
            let first = cells.partition_point(|cell| cell.end_bytes <= range.start_bytes);
            let reached = cells[first..].iter_mut().take_while(|cell| cell.start_bytes < range.end_bytes);
            reached
                .filter(|cell| cell.findings.last() != Some(&number))
                .for_each(|c| c.findings.push(number));
        }
    }
    cells
}

impl RankingReport {
    fn new(ranking: &Ranking<'_>, directory: Option<&str>) -> Self {
        RankingReport {
            volume: ranking.volume.clone(),
            best: ranking.best().map(|best| PlaceReport {
                node: best.evidence.node.clone(),
                path: best.evidence.path.clone(),
            }),
            confidence: ranking.confidence,
            doubts: ranking.doubts.clone(),
            replicas: ranking
                .replicas
                .iter()
                .map(|ranked| RankedReport {
                    node: ranked.evidence.node.clone(),
                    path: ranked.evidence.path.clone(),
                    verdict: ranked.verdict,
                    reasons: ranked.reasons.clone(),
                    is_this: Some(ranked.evidence.directory()) == directory,
                })
                .collect(),
        }
    }
}

impl MapReport {
    /// The places of the layers that serve anything, oldest first: those that have a colour.
    fn serving(&self) -> Vec<usize> {
        let seen: BTreeSet<_> = self.cells.iter().flat_map(|cell| &cell.layers).map(|s| s.layer).collect();
        seen.into_iter().rev().collect()
    }

    /// The layers of the state, newest first, with their places.
    fn live(&self) -> impl DoubleEndedIterator<Item = (usize, &LayerReport)> {
        self.replica.layers.iter().enumerate().filter(|(_, layer)| layer.place == Place::Live)
    }

    /// The layers that are not part of the state.
    fn beside(&self) -> impl Iterator<Item = (usize, &LayerReport)> {
        self.replica.layers.iter().enumerate().filter(|(_, layer)| layer.place != Place::Live)
    }

    /// The replica directory's own name.
    fn name(&self) -> &str {
        let path = self.replica.path.trim_end_matches('/');
        path.rsplit('/').next().filter(|name| !name.is_empty() && *name != ".").unwrap_or(path)
    }

    /// Whether any preallocated room shows.
    fn has_unwritten(&self) -> bool {
        self.cells.iter().flat_map(|cell| &cell.layers).any(|share| share.unwritten_bytes > 0)
    }

    /// Which state is shown, in words.
    fn state(&self) -> String {
        match (self.view, &self.top_layer) {
            (Some("snapshot"), Some(file)) => {
                format!("snapshot {}", crate::format::names::snapshot_name(file).unwrap_or(file))
            }
            (_, Some(file)) => format!("head {file}"),
            _ => "no state".to_owned(),
        }
    }
}

impl CellReport {
    fn len_bytes(&self) -> u64 {
        self.end_bytes - self.start_bytes
    }
}

/// What a line about a cell is about.
enum Kind {
    /// Where the cell is.
    Place,
    /// Data that this layer serves.
    Layer(usize),
    /// Preallocated room.
    Unwritten,
    /// What no layer serves.
    Hole,
    /// A finding.
    Finding,
}

/// What there is to say of a cell, line by line: its range in short, its range in bytes, then what serves it, the newest layer
/// first, what of it is a hole, and the findings.
fn cell_lines(report: &MapReport, cell: &CellReport) -> Vec<(Kind, String)> {
    let CellReport { start_bytes, end_bytes, hole_bytes, .. } = *cell;
    let mut lines = vec![
        (Kind::Place, format!("{} – {}", human::bytes(start_bytes), human::bytes(end_bytes))),
        (Kind::Place, format!("bytes {start_bytes} – {end_bytes}")),
    ];
    for share in &cell.layers {
        let name = report.replica.layers.get(share.layer).map_or("", |layer| layer.name.as_str());
        let name = markup::cut(name, 60);
        if share.data_bytes > 0 {
            lines.push((Kind::Layer(share.layer), format!("{name}: {}", human::bytes(share.data_bytes))));
        }
        if share.unwritten_bytes > 0 {
            let bytes = human::bytes(share.unwritten_bytes);
            lines.push((Kind::Unwritten, format!("{name}: {bytes} never written")));
        }
    }
    if hole_bytes > 0 {
        lines.push((Kind::Hole, format!("no layer: {}", human::bytes(hole_bytes))));
    }
    let findings = cell.findings.iter().filter_map(|&number| report.replica.findings.get(number));
    lines.extend(findings.map(|found| (Kind::Finding, format!("{}: {}", found.severity, found.code))));
    lines
}

/// When a layer was made, if that can be told.
fn created(layer: &LayerReport) -> Option<Timestamp> {
    layer.created.parse().ok()
}

/// A part of a whole, in percent with one decimal: `12.3 %`. What is there at all is never shown as nothing.
fn percent(part: u64, whole: u64) -> String {
    let thousandths = u128::from(part) * 1000 / u128::from(whole.max(1));
    match thousandths {
        0 if part > 0 => "< 0.1 %".to_owned(),
        _ => format!("{}.{} %", thousandths / 10, thousandths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn a_little_is_not_nothing() {
        let told = [(0, 8), (1, 1 << 40), (1, 3), (8, 8), (0, 0)].map(|(part, whole)| percent(part, whole));
        assert_eq!(told, ["0.0 %", "< 0.1 %", "33.3 %", "100.0 %", "0.0 %"]);
    }
}
