//! The map in a terminal: a strip, as wide as that is, and a legend.
//!
//! ```text
//! aaaaccccc..ccbbbb----..........................dd
//!    !
//! 0                                          64 MiB
//! ```

use std::fmt::Write;

use crate::report::finding::{self, printable};
use crate::report::human;
use crate::report::inspect::LayerReport;
use crate::report::map::palette::{self, Depth, Ground};
use crate::report::map::{CellReport, MapReport, RankingReport, markup, percent};

/// The terminal's width where there is none.
pub const DEFAULT_COLUMNS: usize = 80;

/// The widest strip: more columns than cells tell nothing more.
const MOST_COLUMNS: usize = 400;

/// How many layers the legend names; the others are summed up.
const NAMED: usize = 24;

/// What a layer is called on a strip without colours, the oldest first.
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// What stands for layers that there is no letter for.
const OTHERS: char = '*';

/// How a strip is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// How many columns there are; `None` when it is no terminal.
    pub columns: Option<usize>,
    /// The colours there are.
    pub depth: Depth,
}

/// The map for people.
pub fn text(report: &MapReport, style: Style) -> String {
    let mut text = format!("{}: {}\n", printable(&report.replica.path), printable(&report.state()));
    match report.volume_bytes {
        Some(_) => text.push_str(&Strip::new(report, style).draw()),
        None => {
            let why = report.replica.error.as_deref().unwrap_or("it is not known why");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "the state cannot be read: {}", printable(why));
        }
    }
    if let Some(ranking) = &report.ranking {
        text.push_str(&ranking_text(ranking));
    }
    if !report.replica.findings.is_empty() {
        text.push('\n');
    }
    for found in &report.replica.findings {
        text.push_str(&finding::text(found));
    }
    text
}

/// A strip in the making.
struct Strip<'a> {
    report: &'a MapReport,
    style: Style,
    columns: usize,
    /// The layers that have a colour, oldest first.
    serving: Vec<usize>,
}

/// What a column of the strip stands for.
#[derive(Default)]
struct Column {
    len_bytes: u64,
    /// Bytes of data by layer.
    data: std::collections::BTreeMap<usize, u64>,
    unwritten_bytes: u64,
    is_marked: bool,
}

impl<'a> Strip<'a> {
    fn new(report: &'a MapReport, style: Style) -> Self {
        let columns = style.columns.unwrap_or(DEFAULT_COLUMNS).clamp(1, MOST_COLUMNS);
        Strip { report, style, columns, serving: report.serving() }
    }

    fn draw(&self) -> String {
        let columns: Vec<_> = (0..self.columns).map(|column| self.column(column)).collect();
        let mut text: String = columns.iter().map(|column| self.cell(column)).collect();
        text.push('\n');
        if columns.iter().any(|column| column.is_marked) {
            let marks: String = columns.iter().map(|c| if c.is_marked { '!' } else { ' ' }).collect();
            let _ = writeln!(text, "{}", marks.trim_end());
        }
        let end = human::bytes(self.report.volume_bytes.unwrap_or_default());
        let _ = writeln!(text, "0{end:>width$}", width = self.columns.saturating_sub(1));
        text.push_str(&self.legend());
        text
    }

    /// The cells that column number `column` shows; several may show the same one of a small volume.
    fn column(&self, column: usize) -> Column {
        let cells = &self.report.cells;
        let first = column * cells.len() / self.columns;
        let last = ((column + 1) * cells.len() / self.columns).max(first + 1).min(cells.len());
        let mut sum = Column::default();
        for cell in cells.get(first..last).unwrap_or_default() {
            sum.add(cell);
        }
        sum
    }

    fn cell(&self, column: &Column) -> String {
        let data_bytes: u64 = column.data.values().sum();
        let Some((&layer, _)) = column.data.iter().max_by_key(|(_, bytes)| **bytes) else {
            return if column.unwritten_bytes > 0 { "-" } else { "." }.to_owned();
        };
        if self.style.depth == Depth::None {
            return self.letter(layer).to_string();
        }
        // The fuller the higher, and high enough for the colour to be seen.
        const HEIGHTS: [char; 5] = ['▄', '▅', '▆', '▇', '█'];
        let steps = u128::from(data_bytes) * 4 / u128::from(column.len_bytes.max(1));
        let height = usize::try_from(steps).unwrap_or(4).min(4);
        format!("{}{}{}", self.begin(layer), HEIGHTS[height], palette::reset(self.style.depth))
    }

    fn begin(&self, layer: usize) -> String {
        let place = self.serving.iter().position(|&serving| serving == layer).unwrap_or_default();
        palette::escape(palette::shade(place, self.serving.len(), Ground::Unknown), self.style.depth)
    }

    fn letter(&self, layer: usize) -> char {
        let place = self.serving.iter().position(|&serving| serving == layer);
        place.and_then(|place| LETTERS.get(place)).map_or(OTHERS, |&letter| char::from(letter))
    }

    fn legend(&self) -> String {
        let mut shown: Vec<_> =
            self.report.live().filter(|(place, _)| self.serving.contains(place)).collect();
        let served = |layer: &LayerReport| layer.served_bytes.unwrap_or_default();
        let all = self.report.replica.data_bytes.unwrap_or_default();
        shown.sort_by_key(|(_, layer)| std::cmp::Reverse(served(layer)));
        let rest: Vec<_> = shown.split_off(shown.len().min(NAMED));
        shown.sort_by_key(|(place, _)| *place);
        let names: Vec<_> = shown.iter().map(|(_, layer)| markup::cut(&printable(&layer.name), 40)).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default().max(5);
        let mut text = String::from("\n");
        if !shown.is_empty() {
            let _ = writeln!(text, "   {:width$}  {:20}  {:>10}  share", "layer", "created", "serves");
        }
        for ((place, layer), name) in shown.iter().zip(&names) {
            let sign = match self.style.depth {
                Depth::None => self.letter(*place).to_string(),
                depth => format!("{}█{}", self.begin(*place), palette::reset(depth)),
            };
            let created: String = layer.created.chars().take(20).collect();
            let line = format!(
                " {sign} {name:width$}  {:20}  {:>10}  {}  {}",
                printable(&created),
                human::bytes(served(layer)),
                percent(served(layer), all),
                printable(&layer.marks().join(", ")),
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if !rest.is_empty() {
            let bytes = rest.iter().map(|(_, layer)| served(layer)).sum();
            let _ = writeln!(
                text,
                "   and {} more layers  {}  {}",
                rest.len(),
                human::bytes(bytes),
                percent(bytes, all)
            );
        }
        let silent = self.report.live().count() - self.serving.len();
        match silent {
            0 => {}
            1 => text.push_str("   1 layer of the chain serves nothing\n"),
            _ => {
                let _ = writeln!(text, "   {silent} layers of the chain serve nothing");
            }
        }
        let _ = writeln!(text, " . served by no layer: zeros");
        if self.report.cells.iter().flat_map(|cell| &cell.layers).any(|share| share.unwritten_bytes > 0) {
            let _ = writeln!(text, " - preallocated, never written: zeros");
        }
        if self.report.cells.iter().any(|cell| !cell.findings.is_empty()) {
            let _ = writeln!(text, " ! a finding is about this part");
        }
        text
    }
}

impl Column {
    fn add(&mut self, cell: &CellReport) {
        self.len_bytes += cell.len_bytes();
        for share in &cell.layers {
            if share.data_bytes > 0 {
                *self.data.entry(share.layer).or_default() += share.data_bytes;
            }
            self.unwritten_bytes += share.unwritten_bytes;
        }
        self.is_marked |= !cell.findings.is_empty();
    }
}

fn ranking_text(ranking: &RankingReport) -> String {
    let mut text = format!("\nreplicas of volume {}, best first:\n", printable(&ranking.volume));
    for (place, replica) in ranking.replicas.iter().enumerate() {
        let this = if replica.is_this { " (this one)" } else { "" };
        let where_it_is = printable(&format!("{}:{}", replica.node, replica.path));
        let why = printable(&replica.reasons.join("; "));
        let _ = writeln!(text, "  {}  {:8}  {where_it_is}{this}\n     {why}", place + 1, replica.verdict);
    }
    let doubts: String = ranking.doubts.iter().map(|doubt| format!(" ({})", printable(doubt))).collect();
    let _ = writeln!(text, "  => {}{doubts}", ranking.confidence);
    text
}
