//! The report of `verify` for people: tables as short as can be, and a conclusion below each.

use std::fmt::Write;

use crate::format::names;
use crate::report::finding::printable;
use crate::report::human;
use crate::report::table::table;
use crate::report::verify::{ChecksumReport, DigestsReport, ImageReport, SiblingReport, VerifyReport};

/// The lines for people; findings are shown apart.
pub fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    if let Some(checksums) = &report.checksums {
        text.push_str(&checksums_text(checksums));
    }
    if let Some(image) = &report.image {
        text.push_str(&image_text(image, &report.source));
    }
    if let Some(sibling) = &report.sibling {
        text.push_str(&sibling_text(sibling));
    }
    if let Some(digests) = &report.digests {
        text.push_str(&digests_text(digests));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "done in {:.1} s", report.duration_seconds);
    text
}

/// A layer's name as people use it.
fn short(file: &str) -> String {
    printable(names::snapshot_name(file).unwrap_or(file))
}

fn checksums_text(checksums: &[ChecksumReport]) -> String {
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let rows = checksums.iter().map(|sum| {
        let hashed = if sum.recorded.is_some() { human::bytes(sum.data_bytes) } else { "-".to_owned() };
        let removed = if sum.removed { ", removed" } else { "" };
        let verdict = match sum.verdict {
            "absent" => "nothing recorded",
            verdict => verdict,
        };
        vec![
            short(&sum.layer),
            hashed,
            or_dash(&sum.recorded),
            or_dash(&sum.computed),
            format!("{verdict}{removed}"),
        ]
    });
    let table = table(&["layer", "data", "recorded", "now", "verdict"], rows, &[1]);
    let present = checksums.iter().filter(|sum| sum.verdict != "absent").count();
    let matching = checksums.iter().filter(|sum| sum.verdict == "match").count();
    let conclusion = match present {
        0 => "no checksum is recorded: nothing could be verified".to_owned(),
        _ => format!("{matching} of {present} recorded checksums match"),
    };
    format!("{table}{conclusion}\n")
}

fn image_text(image: &ImageReport, source: &str) -> String {
    let is = if image.same { "is" } else { "is NOT" };
    let mut text = format!(
        "{} {is} what {} holds at {}\n  compared {}, of which {} are data",
        printable(&image.path),
        printable(source),
        printable(&image.top_layer),
        human::bytes(image.compared_bytes),
        human::bytes(image.data_bytes),
    );
    text.push_str(if image.direct { "\n" } else { " (after dropping the cache)\n" });
    for place in &image.differences {
        let layer = place.layer.as_deref().map_or_else(|| "no layer: zeros".to_owned(), printable);
        let (start, end) = (place.start_bytes, place.end_bytes);
        let _ =
            writeln!(text, "  differs at {start}..{end}, first byte {}: {layer}", place.first_offset_bytes);
    }
    if image.differing_bytes > 0 {
        let _ = writeln!(text, "  {} bytes differ in all (in whole sectors)", image.differing_bytes);
    }
    text
}

fn sibling_text(sibling: &SiblingReport) -> String {
    let rows = sibling.layers.iter().map(|layer| {
        let result = match (layer.same, layer.differing_bytes) {
            (true, _) => "same".to_owned(),
            (false, Some(bytes)) => format!("{bytes} bytes differ"),
            (false, None) if layer.error.is_some() => "unreadable".to_owned(),
            (false, None) => "another length".to_owned(),
        };
        let or_dash = |verdict: Option<&'static str>| verdict.unwrap_or("-").to_owned();
        let compared = layer.compared_bytes.map_or_else(|| "-".to_owned(), human::bytes);
        vec![short(&layer.layer), compared, result, or_dash(layer.verdict), or_dash(layer.sibling_verdict)]
    });
    let mut text = table(&["snapshot", "compared", "result", "checksum here", "there"], rows, &[1]);
    for layer in &sibling.layers {
        for place in &layer.differences {
            let (start, end, first) = (place.start_bytes, place.end_bytes, place.first_offset_bytes);
            let sides = match place.here == place.there {
                true => "other data".to_owned(),
                false => format!("{} here, {} there", place.here, place.there),
            };
            let name = short(&layer.layer);
            let _ = writeln!(text, "  {name} differs at {start}..{end}, first byte {first}: {sides}");
        }
    }
    for (names, place) in [(&sibling.only_here, "here"), (&sibling.only_there, "there")] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(|name| short(name)).collect();
            let _ = writeln!(text, "  only {place}: {}", names.join(", "));
        }
    }
    let same = sibling.layers.iter().filter(|layer| layer.same).count();
    let _ = writeln!(text, "{same} of {} snapshots in common are the same", sibling.layers.len());
    text
}

fn digests_text(digests: &DigestsReport) -> String {
    let path = printable(&digests.path);
    if digests.written {
        return format!("recorded the digests of {} layers in {path}\n", digests.layers.len());
    }
    let rows = digests.layers.iter().map(|layer| {
        let result = match (layer.same, &layer.now) {
            (Some(true), _) => "same",
            (Some(false), Some(_)) => "changed",
            (Some(false), None) => "gone",
            (None, _) => "new",
        };
        vec![short(&layer.file), result.to_owned()]
    });
    let table = table(&["layer", "since it was recorded"], rows, &[]);
    let recorded = digests.layers.iter().filter(|layer| layer.same.is_some()).count();
    let same = digests.layers.iter().filter(|layer| layer.same == Some(true)).count();
    format!("{table}{same} of {recorded} layers are what {path} says of them\n")
}
