//! The map as a picture: one file with nothing outside it, light or dark as whoever looks at it prefers.
//!
//! Colours are classes and not variables, which viewers other than browsers do not know.

use std::fmt::Write;

use crate::report::human;
use crate::report::inspect::LayerReport;
use crate::report::map::markup::{cut, escaped};
use crate::report::map::palette::{self, Ground};
use crate::report::map::stack::{Paint, stack};
use crate::report::map::{CellReport, MapReport, cell_lines, percent};

const WIDTH: usize = 1000;
const MARGIN: usize = 32;
/// Where the cells begin: left of them is how far into the volume a row is.
const GRID_LEFT: usize = 136;
const GRID_TOP: usize = 112;
const COLUMNS: usize = 64;
/// From one cell to the next; one unit of it is the gap.
const PITCH: usize = 13;
const LINE: usize = 22;

/// How many layers the legend names; the others are summed up.
const NAMED: usize = 24;

/// The picture.
pub fn svg(report: &MapReport) -> String {
    let serving = report.serving();
    let legend = legend(report, &serving);
    let rows = report.cells.len().div_ceil(COLUMNS).max(1);
    let legend_top = GRID_TOP + rows * PITCH + 52;
    let height = legend_top + legend.len() * LINE + MARGIN;
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title desc\">\n<title id=\"title\">{}</title>\n<desc id=\"desc\">{}</desc>\n\
         <style>{}</style>\n<rect class=\"bg\" width=\"{WIDTH}\" height=\"{height}\"/>\n",
        escaped(&format!("Which layer serves what: {}", report.name())),
        escaped(&summary(report)),
        style(serving.len()),
    );
    text(&mut svg, MARGIN, 46, "h", &cut(report.name(), 80));
    text(&mut svg, MARGIN, 72, "s", &cut(&summary(report), 130));
    grid(&mut svg, report, &serving);
    for (number, line) in legend.iter().enumerate() {
        line.draw(&mut svg, legend_top + number * LINE);
    }
    svg.push_str("</svg>\n");
    svg
}

fn summary(report: &MapReport) -> String {
    let findings = report.replica.findings.len();
    match (report.volume_bytes, report.replica.data_bytes) {
        (Some(volume), Some(data)) => format!(
            "{}: volume of {}, {} of data in {} layers, {findings} finding{}",
            report.state(),
            human::bytes(volume),
            human::bytes(data),
            report.live().count(),
            if findings == 1 { "" } else { "s" },
        ),
        _ => {
            format!("the state cannot be read: {}", report.replica.error.as_deref().unwrap_or("unknown"))
        }
    }
}

fn style(colours: usize) -> String {
    let rules = |ground, bg: &str, ink: &str, soft: &str, track: &str, blank: &str, mark: &str| {
        let mut rules = format!(
            ".bg{{fill:{bg}}}.h,.n{{fill:{ink}}}.s,.v{{fill:{soft}}}.t{{fill:{track}}}.u{{fill:{blank}}}.m{{fill:{mark}}}"
        );
        for place in 0..colours {
            let colour = palette::hex(palette::shade(place, colours, ground));
            let _ = write!(rules, ".c{place}{{fill:{colour}}}");
        }
        rules
    };
    let light = rules(Ground::Light, "#ffffff", "#16191f", "#5a6270", "#e9ecf1", "#b4bbc7", "#16191f");
    let dark = rules(Ground::Dark, "#161a22", "#e8ebf1", "#a3acbb", "#262c38", "#5b6579", "#ffffff");
    format!(
        "text{{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}}.h{{font-size:21px;font-weight:600}}\
         .v{{text-anchor:end}}{light}@media(prefers-color-scheme:dark){{{dark}}}"
    )
}

fn text(svg: &mut String, x: usize, y: usize, class: &str, text: &str) {
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{}</text>", escaped(text));
}

fn grid(svg: &mut String, report: &MapReport, serving: &[usize]) {
    for (row, cells) in report.cells.chunks(COLUMNS).enumerate() {
        let y = GRID_TOP + row * PITCH;
        let start = cells.first().map_or(0, |cell| cell.start_bytes);
        if row % 2 == 0 {
            text(svg, GRID_LEFT - 10, y + 10, "v", &human::bytes(start));
        }
        for (column, cell) in cells.iter().enumerate() {
            draw_cell(svg, report, cell, serving, (GRID_LEFT + column * PITCH, y));
        }
    }
}

fn draw_cell(
    svg: &mut String,
    report: &MapReport,
    cell: &CellReport,
    serving: &[usize],
    (x, y): (usize, usize),
) {
    let side = PITCH - 1;
    let _ = write!(svg, "<g><title>{}</title>", title(report, cell));
    let _ = write!(svg, "<rect class=\"t\" x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\"/>");
    let mut filled = 0;
    for (paint, height) in stack(cell) {
        let class = class(paint, serving);
        filled += height;
        let top = hundredths(y as u64 * 100 + (100 - filled) * side as u64);
        let tall = hundredths(height * side as u64);
        let _ =
            write!(svg, "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{side}\" height=\"{tall}\"/>");
    }
    if !cell.findings.is_empty() {
        let right = x + side;
        let _ = write!(svg, "<path class=\"m\" d=\"M{right} {y}v6l-6-6z\"/>");
    }
    svg.push_str("</g>\n");
}

fn class(paint: Paint, serving: &[usize]) -> String {
    match paint {
        Paint::Unwritten => "u".to_owned(),
        Paint::Layer(layer) => {
            format!("c{}", serving.iter().position(|&serving| serving == layer).unwrap_or_default())
        }
    }
}

/// A number in hundredths, as SVG writes it.
fn hundredths(number: u64) -> String {
    format!("{}.{:02}", number / 100, number % 100)
}

/// What is said of a cell: lines stay lines, and everything in them is text.
fn title(report: &MapReport, cell: &CellReport) -> String {
    let lines = cell_lines(report, cell);
    lines.iter().map(|(_, line)| escaped(line)).collect::<Vec<_>>().join("\n")
}

/// A line of the legend.
struct Line {
    class: Option<String>,
    name: String,
    rest: String,
    numbers: Option<(String, String)>,
}

impl Line {
    fn draw(&self, svg: &mut String, y: usize) {
        if let Some(class) = &self.class {
            let top = y - 11;
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{MARGIN}\" y=\"{top}\" width=\"13\" height=\"13\"/>"
            );
        }
        text(svg, MARGIN + 24, y, "n", &self.name);
        text(svg, 450, y, "s", &self.rest);
        if let Some((bytes, share)) = &self.numbers {
            text(svg, WIDTH - MARGIN - 76, y, "v", bytes);
            text(svg, WIDTH - MARGIN, y, "v", share);
        }
    }
}

fn legend(report: &MapReport, serving: &[usize]) -> Vec<Line> {
    let all = report.replica.data_bytes.unwrap_or_default();
    let served = |layer: &LayerReport| layer.served_bytes.unwrap_or_default();
    let mut shown: Vec<_> = report.live().filter(|(place, _)| serving.contains(place)).collect();
    shown.sort_by_key(|(_, layer)| std::cmp::Reverse(served(layer)));
    let rest = shown.split_off(shown.len().min(NAMED));
    shown.sort_by_key(|(place, _)| *place);
    let numbers = |bytes| Some((human::bytes(bytes), percent(bytes, all)));
    let mut lines: Vec<_> = shown
        .iter()
        .map(|(place, layer)| {
            let created: String = layer.created.chars().take(20).collect();
            let marks = layer.marks().join(", ");
            Line {
                class: Some(class(Paint::Layer(*place), serving)),
                name: cut(&layer.name, 48),
                rest: cut(&format!("{created}  {marks}"), 52),
                numbers: numbers(served(layer)),
            }
        })
        .collect();
    let plain = |class: &str, name: &str| Line {
        class: Some(class.to_owned()),
        name: name.to_owned(),
        rest: String::new(),
        numbers: None,
    };
    if !rest.is_empty() {
        let name = format!("and {} more layers", rest.len());
        let bytes = rest.iter().map(|(_, layer)| served(layer)).sum();
        lines.push(Line { class: None, name, rest: String::new(), numbers: numbers(bytes) });
    }
    lines.push(plain("t", "served by no layer: zeros"));
    if report.has_unwritten() {
        lines.push(plain("u", "preallocated, never written: zeros"));
    }
    lines
}
