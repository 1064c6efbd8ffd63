//! The verdict: what the checks mean together, and what is to be said of each.

use serde::Serialize;

use crate::guest::databases::StoreFacts;
use crate::guest::facts::{Journal, Kind};
use crate::model::finding::{Code, Finding};
use crate::workflow::check::databases::StoreCheck;
use crate::workflow::check::file_system::{Look, State};
use crate::workflow::check::sqlite::{Integrity, SqliteCheck};
use crate::workflow::check::{PartCheck, Replay};
use crate::workflow::mount::state::OVERLAY_ADVICE;

/// How many of a checker's lines, or of what is wrong with a database, are put into a finding.
const LINES_SHOWN: usize = 5;

/// All checks in a word; the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is nothing to check.
    Nothing,
    /// Nothing is wrong.
    Sound,
    /// Nothing is wrong, once what was written last is taken from the journal.
    SoundAfterReplay,
    /// Nothing was found wrong, and not all was looked at.
    NotInFull,
    /// Something is wrong.
    Damaged,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Nothing => "nothing to check",
            Verdict::Sound => "sound",
            Verdict::SoundAfterReplay => "sound after journal replay",
            Verdict::NotInFull => "could not be checked in full",
            Verdict::Damaged => "damaged",
        }
    }
}

/// Sets the verdict of `part`, and says why. `with_databases` is whether they were asked for.
pub fn judge(part: &mut PartCheck, with_databases: bool) -> Vec<Finding> {
    let mut findings = of_content(part);
    if part.before.is_some() {
        findings.extend(of_file_system(part));
    }
    if with_databases {
        findings.extend(of_walk(part));
    }
    findings.extend(part.stores.iter().filter_map(of_store));
    findings.extend(part.trouble.first().map(|first| {
        let what =
            format!("{} places of the volume could not be read, the first: {first}", part.trouble.len());
        Finding::new(Code::Unreadable, what, "what was there is missing from the checks, and from the volume")
            .advise("another replica may have it: lhrecover scan")
    }));
    let worst = |codes: &[Code]| findings.iter().any(|finding| codes.contains(&finding.code));
    let damage = [Code::FileSystemDamaged, Code::DatabaseDamaged, Code::FilesUnreadable, Code::Unreadable];
    part.verdict = match () {
        () if worst(&damage) => Verdict::Damaged,
        () if worst(&[Code::NotChecked, Code::FilesEncrypted, Code::ContentUnknown]) => Verdict::NotInFull,
        () if worst(&[Code::NothingInside]) => Verdict::Nothing,
        () if part.facts.journal == Journal::Dirty => Verdict::SoundAfterReplay,
        () => Verdict::Sound,
    };
    if let Some(partition) = &part.partition {
        for finding in &mut findings {
            finding.what = format!("partition {}: {}", partition.number, finding.what);
        }
    }
    findings
}

/// Something that is damaged, and how that shows.
pub fn damaged(what: &str, how: &str) -> Finding {
    Finding::new(
        Code::FileSystemDamaged,
        format!("{what} is damaged: {how}"),
        "some of what is in the volume is lost, or not what it was",
    )
    .advise(
        "see whether another replica (lhrecover scan) or an older snapshot (--at) is sound; repair only a copy, made with \
         lhrecover merge",
    )
}

/// Something that was left out, and why.
pub fn not_checked(what: String, why: &str, advice: &str) -> Finding {
    let finding = Finding::new(
        Code::NotChecked,
        format!("{what} not checked: {why}"),
        "nothing is known to be wrong with it, nor that it is right",
    );
    if advice.is_empty() { finding } else { finding.advise(advice) }
}

fn of_content(part: &PartCheck) -> Vec<Finding> {
    let facts = &part.facts;
    let mut findings: Vec<_> = facts.damage.iter().map(|how| damaged(&facts.name, how)).collect();
    findings.extend(facts.recorded_errors.iter().map(|errors| {
        let meaning = "its disk may have failed, or its memory; what was affected then may still be wrong";
        Finding::new(Code::ErrorsRecorded, format!("{}: {errors}", facts.name), meaning)
    }));
    let whole = |what: &str| format!("what is inside {what} was");
    findings.extend(match facts.kind {
        Kind::Luks => vec![
            Finding::new(
                Code::Encrypted,
                format!("the volume is {}", facts.name),
                "its header was looked at; what is inside can only be seen with the key",
            ),
            not_checked(
                whole("the LUKS container"),
                "it is encrypted",
                "open it read-only with cryptsetup (lhrecover mount --image-only says how), and check what is in \
                 /dev/mapper then",
            ),
        ],
        Kind::Lvm => vec![not_checked(
            whole("the LVM physical volume"),
            "its logical volumes must be activated for that",
            "mount --image-only, then losetup and vgchange as it says; check the logical volumes then",
        )],
        Kind::Other => vec![not_checked(facts.name.clone() + " was", "there is no checker for it here", "")],
        Kind::Unknown => vec![
            Finding::new(
                Code::ContentUnknown,
                "no file system, container or partition table was recognised",
                "either something else was kept on the volume, or its beginning was overwritten",
            )
            .advise("see what other states have: lhrecover check --at SNAPSHOT, or another replica"),
        ],
        Kind::Empty | Kind::Swap => vec![Finding::new(
            Code::NothingInside,
            format!("there is {}", facts.name),
            "there is nothing in it to recover",
        )],
        Kind::Ext | Kind::Xfs | Kind::Btrfs => Vec::new(),
    });
    findings
}

fn of_file_system(part: &PartCheck) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &part.facts.name;
    if part.facts.journal == Journal::Dirty {
        let (what, meaning) = match &part.replay {
            Replay::Done => (
                "it was replayed on a throw-away copy",
                "as after a crash or a power cut; whatever mounts the volume replays it, too",
            ),
            _ => ("it was not replayed", "what the journal holds was not looked at"),
        };
        let what = format!("{name} was not unmounted, and its journal waits to be replayed: {what}");
        findings.push(Finding::new(Code::JournalDirty, what, meaning));
    }
    if let Replay::NotDone(why) = &part.replay {
        findings.push(not_checked(
            format!("{name} as it is after its journal is replayed was"),
            why,
            overlay_advice(part),
        ));
    }
    match part.conclusive() {
        Some(look) if look.state == State::Damaged => findings.push(damaged(name, &said(look))),
        Some(look) if look.state == State::Unchecked => {
            let why = look.why.as_deref().unwrap_or("the checker could not tell");
            let what = format!("{name} was");
            findings.push(not_checked(what, &format!("{why}{}", after_colon(&said(look))), ""));
        }
        Some(_) => {}
        None => {
            // Something is said of why: with the replay, or here.
            if let Some(why) = part.before.as_ref().and_then(|look| look.why.as_ref()) {
                let Replay::NotDone(said_already) = &part.replay else { return findings };
                if said_already != why {
                    findings.push(not_checked(format!("{name} was"), why, ""));
                }
            }
        }
    }
    findings
}

/// What the lines of a checker say.
fn said(look: &Look) -> String {
    let lines = look.run.iter().flat_map(|run| &run.lines);
    let telling = lines.filter(|line| !is_routine(line)).filter_map(|line| statement(line));
    telling.take(LINES_SHOWN).collect::<Vec<_>>().join("; ")
}

/// A line without the question whether to repair what it says, and the answer to that; `None` when it says nothing else.
fn statement(line: &str) -> Option<&str> {
    match line.strip_suffix("? no") {
        Some(asked) => asked.rsplit_once(".  ").map(|(statement, _)| statement),
        None => Some(line),
    }
}

/// What checkers say of any file system.
fn is_routine(line: &str) -> bool {
    const ROUTINE: [&str; 13] = [
        "e2fsck 1.",
        "IMAGE: ********** WARNING",
        "Pass ",
        "Phase ",
        "- ",
        "Using EXT2FS",
        "Warning: skipping journal recovery",
        "Cannot get host filesystem geometry",
        "Repair may fail if there is a sector size mismatch",
        "the image and the host filesystem",
        "Opening filesystem",
        "Checking filesystem",
        "No modify flag set",
    ];
    // e2fsck ends with how many files and blocks are in use.
    let is_summary = line.starts_with("IMAGE: ") && line.ends_with(" blocks");
    is_summary || ROUTINE.iter().any(|routine| line.starts_with(routine))
}

fn after_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

fn of_walk(part: &PartCheck) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &part.not_walked {
        findings.push(not_checked("databases were".to_owned(), why, overlay_advice(part)));
    }
    let Some(walked) = &part.walked else { return findings };
    if let Some((path, error)) = walked.unreadable.first.first() {
        let (count, first) = (walked.unreadable.count, path.display());
        let what = format!("{count} files or directories cannot be read, the first is {first}: {error}");
        let meaning = "what is in them is lost, unless another replica or an older snapshot has it";
        findings.push(Finding::new(Code::FilesUnreadable, what, meaning));
    }
    if let Some((path, error)) = walked.encrypted.first.first() {
        let (count, first) = (walked.encrypted.count, path.display());
        let what = format!("{count} files or directories are encrypted, the first is {first}: {error}");
        let meaning = "what is in them was not looked at; nothing is known to be wrong with it";
        let finding = Finding::new(Code::FilesEncrypted, what, meaning);
        findings.push(finding.advise(error.hint().unwrap_or("mount the volume, and unlock it there")));
    }
    if walked.cut_short {
        findings.push(not_checked(
            "part of the files was".to_owned(),
            "there are more than a walk takes",
            "",
        ));
    }
    findings
}

fn overlay_advice(part: &PartCheck) -> &'static str {
    if part.overlay_failed { OVERLAY_ADVICE } else { "" }
}

fn of_store(check: &StoreCheck) -> Option<Finding> {
    let store = &check.store;
    let what = format!("{} {}", store.name, store.path.display());
    let damaged = |how: String| {
        Finding::new(
            Code::DatabaseDamaged,
            format!("{what}: {how}"),
            "the database will not open, or some of what is in it is lost",
        )
        .advise(
            "see whether another replica (lhrecover scan) or an older snapshot (--at) has it whole; take a copy of the \
             files before any repair",
        )
    };
    match (&store.facts, &check.sqlite) {
        (StoreFacts::Postgres(cluster), _) => cluster.problem().map(damaged),
        (_, Some(SqliteCheck { integrity, errors, .. })) => match integrity {
            Integrity::Sound => None,
            Integrity::Damaged => {
                Some(damaged(errors.iter().take(LINES_SHOWN).cloned().collect::<Vec<_>>().join("; ")))
            }
            Integrity::Unchecked(why) => Some(not_checked(format!("{what} was"), why, "")),
        },
        _ => None,
    }
}
