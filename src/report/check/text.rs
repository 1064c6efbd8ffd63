//! The report of `check` for people: what is there, what was done, and the verdict last.

use std::fmt::Write;

use comfy_table::{ContentArrangement, Table, presets};

use crate::report::check::{
    CheckReport, ContentReport, DatabaseReport, FileSystemReport, LookReport, PartReport,
};
use crate::report::finding::printable;
use crate::report::human;

/// The lines for people; findings are shown apart.
pub fn text(report: &CheckReport) -> String {
    let mut text = printable(&report.source);
    if let Some(layer) = &report.top_layer {
        let _ = write!(text, " at {}", printable(layer));
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, ", {}", human::bytes(report.volume_bytes));
    for part in &report.parts {
        text.push_str(&part_text(part));
    }
    let several = if report.parts.len() > 1 { " of all of it" } else { "" };
    let _ = writeln!(text, "verdict{several}: {}", report.verdict.words());
    text
}

fn part_text(part: &PartReport) -> String {
    let mut text = String::new();
    if let Some(number) = part.partition {
        let (start, len) = (part.start_bytes, human::bytes(part.end_bytes - part.start_bytes));
        let _ = writeln!(text, "partition {number}, at byte {start}, {len}: {}", part.verdict.words());
    }
    text.push_str(&content_text(&part.content));
    if let Some(checked) = &part.file_system {
        text.push_str(&file_system_text(checked));
    }
    if let Some(files) = &part.files {
        let count = format!("{} files in {} directories", files.files, files.directories);
        let _ = writeln!(text, "  files      {count}, {} in all", human::bytes(files.file_bytes));
    }
    if part.files.is_some() && part.databases.is_empty() {
        text.push_str("  databases  none were recognised\n");
    }
    if !part.databases.is_empty() {
        text.push_str(&databases_text(&part.databases));
    }
    text
}

fn content_text(content: &ContentReport) -> String {
    let mut text = format!("  content    {}", printable(&content.name));
    for (name, value) in [("label", &content.label), ("UUID", &content.uuid)] {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {}", printable(value));
        }
    }
    text.push('\n');
    let mut sizes = Vec::new();
    if let Some(size) = content.size_bytes {
        let free = content.free_bytes.map(|free| format!(", {} of it free", human::bytes(free)));
        sizes.push(human::bytes(size) + &free.unwrap_or_default());
    }
    if let (Some(inodes), Some(free)) = (content.inodes, content.inodes_free) {
        sizes.push(format!("{} of {inodes} inodes in use", inodes.saturating_sub(free)));
    }
    let on = content.mounted_on.as_ref().map(|on| format!(" on {}", printable(on))).unwrap_or_default();
    let mounts = content.mounts.map(|mounts| format!(", mounts since then: {mounts}")).unwrap_or_default();
    let said = |what: &str, at: &Option<String>, more: &str| Some(format!("{what} {}{more}", at.as_ref()?));
    let early = [said("made", &content.created_at, ""), said("last checked", &content.checked_at, &mounts)];
    let late =
        [said("last mounted", &content.mounted_at, &on), said("last written", &content.written_at, "")];
    let in_line = |times: [Option<String>; 2]| times.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let journal = match content.journal {
        "dirty" => Some("the journal waits to be replayed: it was not unmounted"),
        "clean" => Some("the journal is clean: it was unmounted"),
        "unknown" => Some("whether the journal waits to be replayed could not be told"),
        _ => None,
    };
    for line in [sizes.join("; "), in_line(early), in_line(late)]
        .into_iter()
        .chain(journal.map(str::to_owned))
        .chain(content.notes.iter().map(|note| printable(note)))
        .filter(|line| !line.is_empty())
    {
        let _ = writeln!(text, "             {line}");
    }
    text
}

fn file_system_text(checked: &FileSystemReport) -> String {
    let mut text = String::new();
    match &checked.after {
        None if checked.replay == "not-needed" => {
            let _ = writeln!(text, "  checked    {}", look_text(&checked.before));
        }
        None if checked.replay_why.is_some() && checked.replay_why == checked.before.why => {
            let _ = writeln!(text, "  checked    {}", look_text(&checked.before));
        }
        after => {
            let doubt = if checked.before.state == "damaged" {
                ", as it may be before its journal is replayed"
            } else {
                ""
            };
            let _ = writeln!(text, "  as it is   {}{doubt}", look_text(&checked.before));
            let replayed = match (after, &checked.replay_why) {
                (Some(after), _) => look_text(after),
                (None, Some(why)) => format!("not checked: {}", printable(why)),
                (None, None) => "not checked".to_owned(),
            };
            let _ = writeln!(text, "  replayed   {replayed}");
        }
    }
    text
}

fn look_text(look: &LookReport) -> String {
    let by = look.run.as_ref().map(|run| format!(" ({})", run.command)).unwrap_or_default();
    let why = look.why.as_ref().map(|why| format!(": {}", printable(why))).unwrap_or_default();
    let state = if look.state == "unchecked" { "not checked" } else { look.state };
    format!("{state}{why}{by}")
}

fn databases_text(databases: &[DatabaseReport]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["database", "path", "version", "state"]);
    for database in databases {
        table.add_row([
            database.name.to_owned(),
            printable(&database.path),
            database.version.as_deref().map_or_else(|| "-".to_owned(), printable),
            state_text(database),
        ]);
    }
    let lines = table.trim_fmt();
    let indented: String = lines.lines().map(|line| format!("   {line}\n")).collect();
    format!("  databases  {}\n{indented}", databases.len())
}

fn state_text(database: &DatabaseReport) -> String {
    let mut words = match database.state {
        "recognised" => vec!["recognised, not checked".to_owned()],
        "unchecked" => vec!["not checked".to_owned()],
        state => vec![state.to_owned()],
    };
    if let Some(sqlite) = &database.sqlite {
        words.extend(sqlite.tables.map(|tables| format!("tables: {tables}")));
        words.extend(sqlite.rows.map(|rows| format!("rows: {rows}")));
        words.extend(sqlite.wal_frames.filter(|&n| n > 0).map(|n| format!("{n} pages from its log")));
        words.extend(sqlite.rolled_back.then(|| "a transaction was rolled back".to_owned()));
    }
    if let Some(cluster) = &database.postgresql {
        if database.state == "recognised" {
            words = vec![cluster.outlook.to_owned()];
        }
        words.extend(cluster.state.map(|state| format!("state: {state}")));
        words.extend(cluster.checkpoint_at.as_ref().map(|at| format!("last checkpoint {at}")));
    }
    words.extend(database.why.first().map(|why| printable(why)));
    words.join(", ")
}
