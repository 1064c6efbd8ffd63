//! The map as a page: one file that loads nothing, and can be sent with an incident report.
//!
//! Everything is drawn before the page is opened; the script only shows what is pointed at. Names from a disk are text and
//! never markup ([`escaped`]), and should that ever fail, the page's policy lets no script run but its own, and nothing be
//! loaded from anywhere.

use std::fmt::Write;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::report::finding::FindingReport;
use crate::report::human;
use crate::report::inspect::{LayerReport, Place};
use crate::report::map::markup::{base64, cut, escaped};
use crate::report::map::palette::{self, Ground};
use crate::report::map::stack::{Paint, stack};
use crate::report::map::{
    CellReport, Kind, MapReport, RankingReport, cell_lines, created, percent, timeline,
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How many layers are shown at once; older ones are a click away.
const LAYERS_SHOWN: usize = 40;

/// How many ranges of a finding are shown.
const RANGES_SHOWN: usize = 8;

/// How many points of a line are drawn as dots; more would run together on a telephone, and are strokes.
const MAX_DOTS: usize = 60;

/// How far down the points of a line are drawn, by their lanes, in pixels.
const LANES: [u32; 4] = [27, 9, 43, 58];

/// The page, which says that it was made at `made_at`.
pub fn html(report: &MapReport, made_at: Timestamp) -> String {
    let page = Page { report, serving: report.serving() };
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'none'",
        base64(&Sha256::digest(SCRIPT))
    );
    let title = escaped(report.name());
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}{}</style>\n</head>\n<body>\n",
        page.colours()
    );
    page.header(&mut html);
    html.push_str("<main>\n");
    page.volume(&mut html);
    page.chain(&mut html);
    page.findings(&mut html);
    if let Some(ranking) = &report.ranking {
        ranking_section(&mut html, ranking);
    }
    // Writing to a String cannot fail.
    let _ = write!(
        html,
        "</main>\n<footer><p>Made {made_at:.0} by lhrecover {}. The figures are those of <code>lhrecover inspect</code>.</p>\
         </footer>\n<div id=\"tip\" role=\"tooltip\" hidden></div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION")
    );
    html
}

/// What the page is made from.
struct Page<'a> {
    report: &'a MapReport,
    /// The layers that have a colour, oldest first.
    serving: Vec<usize>,
}

impl Page<'_> {
    /// The layers' colours, light and dark.
    fn colours(&self) -> String {
        let count = self.serving.len();
        let rules = |ground| {
            (0..count).fold(String::new(), |mut rules, place| {
                let _ = write!(rules, "--c{place}:{};", palette::hex(palette::shade(place, count, ground)));
                rules
            })
        };
        let ramp = |ground| {
            let stops: Vec<_> = (0..12).map(|i| palette::hex(palette::shade(i, 12, ground))).collect();
            format!("--ramp:linear-gradient(90deg,{});", stops.join(","))
        };
        format!(
            ":root{{{}{}}}\n@media (prefers-color-scheme: dark){{:root{{{}{}}}}}\n",
            rules(Ground::Light),
            ramp(Ground::Light),
            rules(Ground::Dark),
            ramp(Ground::Dark)
        )
    }

    /// The number of a layer's colour; `None` when it serves nothing.
    fn colour(&self, layer: usize) -> Option<usize> {
        self.serving.iter().position(|&serving| serving == layer)
    }

    fn header(&self, html: &mut String) {
        let report = self.report;
        let _ = write!(
            html,
            "<header>\n<h1>{}</h1>\n<p class=\"soft\"><code>{}</code></p>\n<p>{}{}</p>\n<dl class=\"figures\">\n",
            escaped(report.name()),
            escaped(&report.replica.path),
            escaped(&report.state()),
            self.flags(),
        );
        let figures = [
            ("Volume", "volume_bytes", report.volume_bytes),
            ("Data", "data_bytes", report.replica.data_bytes),
            ("On the disk", "allocated_bytes", Some(report.replica.allocated_bytes)),
        ];
        for (name, key, bytes) in figures {
            let (exact, text) = match bytes {
                Some(bytes) => (bytes.to_string(), human::bytes(bytes)),
                None => (String::new(), "not known".to_owned()),
            };
            let _ = writeln!(
                html,
                "<div><dt>{name}</dt><dd data-figure=\"{key}\" data-bytes=\"{exact}\" title=\"{exact} bytes\">{text}</dd></div>"
            );
        }
        let findings = &report.replica.findings;
        let worst = findings.iter().map(|found| found.severity).max();
        let worst = worst.map(|severity| format!(" class=\"{severity}\"")).unwrap_or_default();
        let counts = [
            ("Layers", "layers", report.live().count(), ""),
            ("Findings", "findings", findings.len(), worst.as_str()),
        ];
        for (name, key, count, class) in counts {
            let _ = writeln!(html, "<div><dt>{name}</dt><dd{class} data-figure=\"{key}\">{count}</dd></div>");
        }
        html.push_str("</dl>\n</header>\n");
    }

    /// What `volume.meta` says that should not be overlooked.
    fn flags(&self) -> String {
        let Some(volume) = &self.report.replica.volume else {
            return chip("error", "volume.meta cannot be used");
        };
        let flags = [
            (volume.rebuilding, "error", "rebuilding"),
            (!volume.error.is_empty(), "error", "given up by the engine"),
            (volume.dirty, "info", "dirty"),
            (volume.encrypted == Some(true), "info", "encrypted"),
        ];
        flags
            .iter()
            .filter(|(set, ..)| *set)
            .map(|(_, class, text)| format!(" {}", chip(class, text)))
            .collect()
    }

    fn volume(&self, html: &mut String) {
        let report = self.report;
        html.push_str("<section>\n<h2>The volume</h2>\n");
        let (Some(volume), Some(cell)) = (report.volume_bytes, report.cell_bytes) else {
            let why = report.replica.error.as_deref().unwrap_or("it is not known why");
            let _ = write!(html, "<p>The state cannot be read: {}</p>\n</section>\n", escaped(why));
            return;
        };
        let _ = writeln!(
            html,
            "<div id=\"cells\" role=\"listbox\" aria-label=\"Which layer serves what: {} cells of {}\">",
            report.cells.len(),
            human::bytes(cell)
        );
        for (number, cell) in report.cells.iter().enumerate() {
            self.cell(html, cell, number);
        }
        let _ = write!(
            html,
            "</div>\n<div class=\"ends\"><span>0</span><span>each cell {}</span><span>{}</span></div>\n<p class=\"key\">",
            human::bytes(cell),
            human::bytes(volume)
        );
        html.push_str(
            "<span>the fuller the higher</span><span>oldest <i class=\"age\" style=\"background:var(--ramp)\"></i> newest layer</span>\
             <span><i class=\"swatch\"></i> served by no layer: zeros</span>",
        );
        if report.has_unwritten() {
            html.push_str(
                "<span><i class=\"swatch\" style=\"background:var(--unwritten)\"></i> preallocated, never written: zeros</span>",
            );
        }
        if report.cells.iter().any(|cell| !cell.findings.is_empty()) {
            html.push_str("<span><i class=\"swatch f\"></i> a finding is about this part</span>");
        }
        html.push_str("</p>\n</section>\n");
    }

    fn cell(&self, html: &mut String, cell: &CellReport, number: usize) {
        let lines = cell_lines(self.report, cell);
        let kinds: Vec<_> = lines
            .iter()
            .filter_map(|(kind, _)| match kind {
                Kind::Place => None,
                Kind::Layer(layer) => Some(self.colour(*layer).unwrap_or_default().to_string()),
                Kind::Unwritten => Some("u".to_owned()),
                Kind::Hole => Some("h".to_owned()),
                Kind::Finding => Some("f".to_owned()),
            })
            .collect();
        let title: Vec<_> = lines.iter().map(|(_, line)| escaped(line)).collect();
        let marked = if cell.findings.is_empty() { "" } else { " data-f" };
        let tab = if number == 0 { 0 } else { -1 };
        let _ = writeln!(
            html,
            "<b role=\"option\" tabindex=\"{tab}\" data-k=\"{}\"{marked}{} title=\"{}\"></b>",
            kinds.join(" "),
            self.paint(cell),
            title.join("\n")
        );
    }

    /// What a cell is painted with, from the bottom up.
    fn paint(&self, cell: &CellReport) -> String {
        let variable = |paint| match paint {
            Paint::Unwritten => "var(--unwritten)".to_owned(),
            Paint::Layer(layer) => format!("var(--c{})", self.colour(layer).unwrap_or_default()),
        };
        let bands = stack(cell);
        match bands[..] {
            [] => String::new(),
            [(paint, 100)] => format!(" style=\"background:{}\"", variable(paint)),
            _ => {
                let mut at = 0;
                let stops = bands.iter().map(|&(paint, height)| {
                    let from = at;
                    at += height;
                    format!("{} {from}% {at}%", variable(paint))
                });
                let stops: Vec<_> = stops.collect();
                format!(" style=\"background-image:linear-gradient(0deg,{},#0000 0)\"", stops.join(","))
            }
        }
    }

    fn chain(&self, html: &mut String) {
        html.push_str("<section>\n<h2>The chain</h2>\n");
        self.axis(html);
        let live: Vec<_> = self.report.live().collect();
        let (shown, older) = live.split_at(live.len().min(LAYERS_SHOWN));
        self.layers(html, "layers", shown, &live);
        if !older.is_empty() {
            let _ = writeln!(html, "<details><summary>{} older layers</summary>", older.len());
            self.layers(html, "layers", older, &live);
            html.push_str("</details>\n");
        }
        let beside: Vec<_> = self.report.beside().collect();
        if !beside.is_empty() {
            let open = if beside.len() <= LAYERS_SHOWN { " open" } else { "" };
            let _ = writeln!(
                html,
                "<details{open}><summary>{} layers that are not part of it</summary>",
                beside.len()
            );
            self.layers(html, "layers beside", &beside, &[]);
            html.push_str("</details>\n");
        }
        html.push_str("</section>\n");
    }

    /// When each layer was made, to scale.
    fn axis(&self, html: &mut String) {
        let Some(line) = timeline(self.report) else { return };
        let two = if line.points.iter().any(|point| point.lane > 1) { " two" } else { "" };
        let many = if line.points.len() > MAX_DOTS { " many" } else { "" };
        let _ = write!(html, "<div class=\"axis{two}{many}\" aria-hidden=\"true\">");
        for point in &line.points {
            let Some(layer) = self.report.replica.layers.get(point.layer) else { continue };
            let colour = self.colour(point.layer);
            let mut class = marks_of(layer);
            class.push_str(if colour.is_some() { " serves" } else { "" });
            let style = colour.map(|c| format!(";color:var(--c{c})")).unwrap_or_default();
            let key = colour.map(|c| format!(" data-c=\"{c}\"")).unwrap_or_default();
            let title = escaped(&format!("{}, {}", cut(&layer.name, 60), layer.created));
            let (left, top) = (point.permille, LANES[point.lane]);
            let _ = write!(
                html,
                "<b class=\"{}\" style=\"left:{}.{}%;top:{top}px{style}\"{key} title=\"{title}\"></b>",
                class.trim(),
                left / 10,
                left % 10
            );
        }
        let _ = write!(
            html,
            "</div>\n<div class=\"ends\"><span>{:.0}</span><span>{:.0}</span></div>\n",
            line.first, line.last
        );
    }

    fn layers(
        &self,
        html: &mut String,
        class: &str,
        layers: &[(usize, &LayerReport)],
        chain: &[(usize, &LayerReport)],
    ) {
        let _ = writeln!(html, "<ol class=\"{class}\">");
        for &(place, layer) in layers {
            let at = chain.iter().position(|(other, _)| *other == place);
            let below = at.and_then(|at| chain.get(at + 1)).map(|(_, below)| *below);
            self.layer(html, place, layer, below);
        }
        html.push_str("</ol>\n");
    }

    fn layer(&self, html: &mut String, place: usize, layer: &LayerReport, below: Option<&LayerReport>) {
        let colour = self.colour(place);
        let paint = colour.map(|c| format!(" style=\"background:var(--c{c})\"")).unwrap_or_default();
        let key = colour.map(|c| format!(" data-c=\"{c}\"")).unwrap_or_default();
        let served = layer.served_bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let _ = write!(
            html,
            "<li class=\"{}\" tabindex=\"0\" data-file=\"{}\" data-served-bytes=\"{served}\"{key}>\
             <span class=\"swatch\"{paint}></span><div><span class=\"name\">{}</span>",
            marks_of(layer),
            escaped(&layer.file),
            escaped(&cut(&layer.name, 200)),
        );
        for mark in layer.marks() {
            let class = if mark == "head" { "head" } else { "" };
            html.push_str(&chip(class, &cut(&mark, 120)));
        }
        if layer.place != Place::Live {
            let text = match layer.place {
                Place::Above => "newer than the snapshot",
                Place::Branch => "branch",
                _ => "leftover",
            };
            html.push_str(&chip("info", text));
        }
        let later = below.and_then(|below| later(layer, below)).unwrap_or_default();
        let when = if layer.created.is_empty() { "made at an unknown time" } else { &layer.created };
        let _ = write!(html, "<div class=\"when\">{}{later}</div></div>", escaped(&cut(when, 40)));
        self.share(html, layer, &paint);
        html.push_str("</li>\n");
    }

    /// How much a layer serves; what one that is not part of the state takes on the disk.
    fn share(&self, html: &mut String, layer: &LayerReport, paint: &str) {
        let all = self.report.replica.data_bytes.unwrap_or_default();
        let Some(bytes) = layer.served_bytes else {
            let text = layer.allocated_bytes.map(|bytes| format!("{} on the disk", human::bytes(bytes)));
            let _ = write!(
                html,
                "<div class=\"share\"><div class=\"serves soft\">{}</div></div>",
                text.unwrap_or_default()
            );
            return;
        };
        let tenths = u128::from(bytes) * 1000 / u128::from(all.max(1));
        let bar = match bytes {
            0 => String::new(),
            _ => {
                let paint = paint.trim_end_matches('"');
                format!("<i{paint};width:{}.{}%\"></i>", tenths / 10, tenths % 10)
            }
        };
        let _ = write!(
            html,
            "<div class=\"share\"><div class=\"bar\">{bar}</div><div class=\"serves\"><span>serves {}</span><span>{}</span></div></div>",
            human::bytes(bytes),
            percent(bytes, all)
        );
    }

    fn findings(&self, html: &mut String) {
        let findings = &self.report.replica.findings;
        html.push_str("<section>\n<h2>Findings</h2>\n");
        if findings.is_empty() {
            html.push_str("<p class=\"soft\">Nothing was found.</p>\n");
        }
        html.push_str("<ul class=\"findings\">\n");
        for found in findings {
            finding(html, found);
        }
        html.push_str("</ul>\n</section>\n");
    }
}

fn chip(class: &str, text: &str) -> String {
    format!("<span class=\"chip {class}\">{}</span>", escaped(text))
}

/// What is special about how a layer is drawn.
fn marks_of(layer: &LayerReport) -> String {
    let marks =
        [(layer.kind == "head", "head"), (layer.removed, "removed"), (layer.place != Place::Live, "beside")];
    marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark).collect::<Vec<_>>().join(" ")
}

/// How much later a layer was made than the one below it.
fn later(layer: &LayerReport, below: &LayerReport) -> Option<String> {
    let seconds = created(layer)?.as_second().checked_sub(created(below)?.as_second())?;
    let seconds = u64::try_from(seconds).ok()?;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let text = match (days, hours, minutes) {
        (0, 0, 0) if seconds == 0 => return None,
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    };
    Some(format!(" · {text} later"))
}

fn finding(html: &mut String, found: &FindingReport) {
    let severity = found.severity.to_string();
    let _ = write!(
        html,
        "<li>{} <code>{}</code><p>{}</p>",
        chip(&severity, &severity),
        found.code,
        escaped(&found.what)
    );
    if !found.ranges.is_empty() {
        let ranges = found.ranges.iter().take(RANGES_SHOWN);
        let ranges: Vec<_> =
            ranges.map(|range| format!("{} – {}", range.start_bytes, range.end_bytes)).collect();
        let more = if found.ranges.len() > RANGES_SHOWN { ", …" } else { "" };
        let _ = write!(html, "<p class=\"soft\">At bytes {}{more}</p>", ranges.join(", "));
    }
    let _ = write!(html, "<p class=\"soft\">It means: {}</p>", escaped(&found.meaning));
    if !found.advice.is_empty() {
        let _ = write!(html, "<p class=\"soft\">What to do: {}</p>", escaped(&found.advice));
    }
    html.push_str("</li>\n");
}

fn ranking_section(html: &mut String, ranking: &RankingReport) {
    let _ = write!(
        html,
        "<section>\n<h2>Replicas of {}, best first</h2>\n<ol class=\"ranking\">\n",
        escaped(&ranking.volume)
    );
    for replica in &ranking.replicas {
        let verdict = replica.verdict.to_string();
        let (class, this) =
            if replica.is_this { (" class=\"this\"", chip("head", "this one")) } else { ("", String::new()) };
        let _ = writeln!(
            html,
            "<li{class}>{} {this} {}: <code>{}</code><p class=\"soft\">{}</p></li>",
            chip(&verdict, &verdict),
            escaped(&replica.node),
            escaped(&replica.path),
            escaped(&replica.reasons.join("; "))
        );
    }
    let doubts: String = ranking.doubts.iter().map(|doubt| format!(" ({})", escaped(doubt))).collect();
    let _ = write!(html, "</ol>\n<p>How sure that is: {}{doubts}</p>\n</section>\n", ranking.confidence);
}
