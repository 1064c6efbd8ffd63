//! What `check` shows: what is in a volume, whether it is any good, and why that is known.

mod text;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::guest::databases::postgres::{Cluster, Control};
use crate::guest::databases::{StoreFacts, Walked};
use crate::guest::facts::{Facts, Journal, Kind};
use crate::replica::View;
use crate::report::finding::FindingReport;
use crate::workflow::check::databases::StoreCheck;
use crate::workflow::check::file_system::{Look, State};
use crate::workflow::check::sqlite::{Integrity, SqliteCheck};
use crate::workflow::check::{Checked, PartCheck, Replay, Verdict};
use crate::workflow::tool::ToolRun;

pub use text::text;

/// The version of the JSON that `check --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything `check` shows.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// The replica directory or image, as it was named.
    pub source: String,
    /// `head` or `snapshot`; `null` for an image.
    pub view: Option<&'static str>,
    /// The file name of the top layer; `null` for an image.
    pub top_layer: Option<String>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// All checks in a word.
    pub verdict: Verdict,
    /// The volume as a whole, or its partitions.
    pub parts: Vec<PartReport>,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// The whole volume, or a partition.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// Its number; `null` for the whole volume.
    pub partition: Option<u32>,
    /// Its first byte in the volume.
    pub start_bytes: u64,
    /// The byte after its last one.
    pub end_bytes: u64,
    /// Its checks in a word.
    pub verdict: Verdict,
    /// What it says of itself.
    pub content: ContentReport,
    /// The file system's own checker; `null` where there is none.
    pub file_system: Option<FileSystemReport>,
    /// What a walk through the files came by; `null` when there was none.
    pub files: Option<FilesReport>,
    /// Why there was no walk.
    pub files_why: Option<String>,
    /// The databases in it; empty also when there was no walk.
    pub databases: Vec<DatabaseReport>,
}

/// What a superblock says. What it does not say is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct ContentReport {
    /// `ext`, `xfs`, `btrfs`, `luks`, `swap`, `lvm`, `other`, `empty` or `unknown`.
    pub kind: &'static str,
    /// What it is, in words, with its article.
    pub name: String,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// How large it says it is.
    pub size_bytes: Option<u64>,
    /// How much of that is free.
    pub free_bytes: Option<u64>,
    /// How many inodes there are.
    pub inodes: Option<u64>,
    /// How many of them are free.
    pub inodes_free: Option<u64>,
    /// When it was made.
    pub created_at: Option<String>,
    /// When it was last mounted.
    pub mounted_at: Option<String>,
    /// Where it was last mounted.
    pub mounted_on: Option<String>,
    /// When its superblock was last written.
    pub written_at: Option<String>,
    /// When it was last checked.
    pub checked_at: Option<String>,
    /// How often it was mounted since.
    pub mounts: Option<u32>,
    /// `none`, `clean`, `dirty` or `unknown`.
    pub journal: &'static str,
    /// Errors that the kernel met and noted down.
    pub recorded_errors: Option<String>,
    /// What is wrong, by what it says itself.
    pub damage: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// The file system's own checker, before and after the journal is replayed.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystemReport {
    /// What came of it: `sound`, `damaged` or `unchecked`.
    pub state: &'static str,
    /// The look at it as it is. It ignores a journal that waits, so what it finds wrong then need not be.
    pub before: LookReport,
    /// What became of the journal: `not-needed`, `done` or `not-done`.
    pub replay: &'static str,
    /// Why it was not replayed.
    pub replay_why: Option<String>,
    /// What the tool said that replayed it; `null` when it was the kernel.
    pub replay_run: Option<RunReport>,
    /// The look after that; `null` when there was nothing to replay, or it was not.
    pub after: Option<LookReport>,
}

/// A checker's look.
#[derive(Clone, Debug, Serialize)]
pub struct LookReport {
    /// `sound`, `damaged` or `unchecked`.
    pub state: &'static str,
    /// Why it could not tell.
    pub why: Option<String>,
    /// What was run; `null` when nothing was.
    pub run: Option<RunReport>,
}

/// A tool that was run.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The command, with `IMAGE` for the image.
    pub command: String,
    /// Its exit code; `null` when it was ended.
    pub exit_code: Option<i32>,
    /// The first lines of what it said.
    pub lines: Vec<String>,
    /// How many more there were.
    pub more_lines: u64,
}

/// A walk through the files.
#[derive(Clone, Debug, Serialize)]
pub struct FilesReport {
    /// Directories, the top one counted.
    pub directories: u64,
    /// Regular files, by their names.
    pub files: u64,
    /// How long they say they are in all.
    pub file_bytes: u64,
    /// Links, devices and the like.
    pub others: u64,
    /// How many directories or files could not be read.
    pub unreadable: u64,
    /// How many directories or files are encrypted.
    pub encrypted: u64,
    /// How many files were not looked into for databases.
    pub passed_over: u64,
    /// Whether a limit ended the walk.
    pub cut_short: bool,
}

/// A database.
#[derive(Clone, Debug, Serialize)]
pub struct DatabaseReport {
    /// What it is, as its makers write it.
    pub name: &'static str,
    /// The file, or its data directory.
    pub path: String,
    /// How long a database that is one file is.
    pub size_bytes: Option<u64>,
    /// Which version made it, or its format's.
    pub version: Option<String>,
    /// `sound`, `damaged`, `unchecked`, or `recognised` where there is no check.
    pub state: &'static str,
    /// Why it could not be checked, or what is wrong with it.
    pub why: Vec<String>,
    /// Of an SQLite database.
    pub sqlite: Option<SqliteReport>,
    /// Of a PostgreSQL cluster.
    pub postgresql: Option<PostgresReport>,
}

/// An SQLite database.
#[derive(Clone, Debug, Serialize)]
pub struct SqliteReport {
    /// How many tables it has.
    pub tables: Option<u64>,
    /// How many rows they have in all.
    pub rows: Option<u64>,
    /// How many pages its log had that were not in the database yet.
    pub wal_frames: Option<u64>,
    /// Whether a transaction that was cut short was rolled back.
    pub rolled_back: bool,
    /// The length of a page.
    pub page_bytes: u32,
    /// The application's number in it.
    pub user_version: u32,
}

/// A PostgreSQL cluster, in pg_controldata's words. What its control file does not say is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct PostgresReport {
    /// The cluster's state.
    pub state: Option<&'static str>,
    /// What that means to who wants to start it.
    pub outlook: &'static str,
    /// The version of the control file.
    pub control_version: Option<u32>,
    /// The version of the system tables.
    pub catalog_version: Option<u32>,
    /// What tells the cluster from others.
    pub system_identifier: Option<u64>,
    /// When the control file was written.
    pub written_at: Option<String>,
    /// When the last checkpoint was.
    pub checkpoint_at: Option<String>,
    /// Where its record is in the log: two hexadecimal numbers.
    pub checkpoint_location: Option<String>,
    /// From where on the log is needed.
    pub redo_location: Option<String>,
    /// The file of the log that has it.
    pub redo_file: Option<String>,
    /// Whether that is there.
    pub has_redo_file: Option<bool>,
    /// Whether the control file matches its sum.
    pub checksum_is_right: Option<bool>,
}

/// Puts together what is shown.
pub fn new(source: &Path, checked: &Checked, took: Duration) -> CheckReport {
    let view = checked.volume.state();
    CheckReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        source: source.display().to_string(),
        view: view.map(|view| match view {
            View::Head(_) => "head",
            View::Snapshot(_) => "snapshot",
        }),
        top_layer: view.map(|view| view.file().to_owned()),
        volume_bytes: checked.volume.whole().size_bytes(),
        verdict: checked.verdict,
        parts: checked.parts.iter().map(PartReport::from).collect(),
        findings: checked.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: took.as_secs_f64(),
    }
}

/// A time as RFC 3339 has it; `None` also for one that no calendar has.
fn time(seconds: Option<i64>) -> Option<String> {
    Timestamp::from_second(seconds?).ok().map(|time| time.to_string())
}

impl From<&PartCheck> for PartReport {
    fn from(part: &PartCheck) -> Self {
        PartReport {
            partition: part.partition.as_ref().map(|partition| partition.number),
            start_bytes: part.range.start_bytes,
            end_bytes: part.range.end_bytes,
            verdict: part.verdict,
            content: ContentReport::from(&part.facts),
            file_system: part.before.as_ref().map(|before| file_system(part, before)),
            files: part.walked.as_ref().map(FilesReport::from),
            files_why: part.not_walked.clone(),
            databases: part.stores.iter().map(DatabaseReport::from).collect(),
        }
    }
}

impl From<&Facts> for ContentReport {
    fn from(facts: &Facts) -> Self {
        ContentReport {
            kind: match facts.kind {
                Kind::Ext => "ext",
                Kind::Xfs => "xfs",
                Kind::Btrfs => "btrfs",
                Kind::Luks => "luks",
                Kind::Swap => "swap",
                Kind::Lvm => "lvm",
                Kind::Other => "other",
                Kind::Empty => "empty",
                Kind::Unknown => "unknown",
            },
            name: facts.name.clone(),
            label: facts.label.clone(),
            uuid: facts.uuid.clone(),
            size_bytes: facts.size_bytes,
            free_bytes: facts.free_bytes,
            inodes: facts.inodes,
            inodes_free: facts.inodes_free,
            created_at: time(facts.created_at),
            mounted_at: time(facts.mounted_at),
            mounted_on: facts.mounted_on.clone(),
            written_at: time(facts.written_at),
            checked_at: time(facts.checked_at),
            mounts: facts.mounts,
            journal: match facts.journal {
                Journal::None => "none",
                Journal::Clean => "clean",
                Journal::Dirty => "dirty",
                Journal::Unknown => "unknown",
            },
            recorded_errors: facts.recorded_errors.clone(),
            damage: facts.damage.clone(),
            notes: facts.notes.clone(),
        }
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Sound => "sound",
        State::Damaged => "damaged",
        State::Unchecked => "unchecked",
    }
}

fn file_system(part: &PartCheck, before: &Look) -> FileSystemReport {
    let (replay, replay_why) = match &part.replay {
        Replay::NotNeeded => ("not-needed", None),
        Replay::Done => ("done", None),
        Replay::NotDone(why) => ("not-done", Some(why.clone())),
    };
    FileSystemReport {
        state: state(part.state()),
        before: LookReport::from(before),
        replay,
        replay_why,
        replay_run: part.replay_run.as_ref().map(RunReport::from),
        after: part.after.as_ref().map(LookReport::from),
    }
}

impl From<&Look> for LookReport {
    fn from(look: &Look) -> Self {
        LookReport {
            state: state(look.state),
            why: look.why.clone(),
            run: look.run.as_ref().map(RunReport::from),
        }
    }
}

impl From<&ToolRun> for RunReport {
    fn from(run: &ToolRun) -> Self {
        RunReport {
            command: run.command.clone(),
            exit_code: run.exit_code,
            lines: run.lines.clone(),
            more_lines: run.more_lines,
        }
    }
}

impl From<&Walked> for FilesReport {
    fn from(walked: &Walked) -> Self {
        FilesReport {
            directories: walked.directories,
            files: walked.files,
            file_bytes: walked.file_bytes,
            others: walked.others,
            unreadable: walked.unreadable.count,
            encrypted: walked.encrypted.count,
            passed_over: walked.passed_over,
            cut_short: walked.cut_short,
        }
    }
}

impl From<&StoreCheck> for DatabaseReport {
    fn from(check: &StoreCheck) -> Self {
        let store = &check.store;
        let (state, why) = outcome(check);
        DatabaseReport {
            name: store.name,
            path: store.path.display().to_string(),
            size_bytes: store.size_bytes,
            version: store.version.clone(),
            state,
            why,
            sqlite: match (&store.facts, &check.sqlite) {
                (StoreFacts::Sqlite(header), Some(sqlite)) => Some(SqliteReport {
                    tables: sqlite.tables,
                    rows: sqlite.rows,
                    wal_frames: sqlite.wal_frames,
                    rolled_back: sqlite.rolled_back,
                    page_bytes: header.page_bytes,
                    user_version: header.user_version,
                }),
                _ => None,
            },
            postgresql: match &store.facts {
                StoreFacts::Postgres(cluster) => Some(PostgresReport::from(&**cluster)),
                _ => None,
            },
        }
    }
}

fn outcome(check: &StoreCheck) -> (&'static str, Vec<String>) {
    match (&check.store.facts, &check.sqlite) {
        (StoreFacts::Postgres(cluster), _) => match cluster.problem() {
            Some(problem) => ("damaged", vec![problem]),
            None => ("recognised", Vec::new()),
        },
        (_, Some(SqliteCheck { integrity, errors, .. })) => match integrity {
            Integrity::Sound => ("sound", Vec::new()),
            Integrity::Damaged => ("damaged", errors.clone()),
            Integrity::Unchecked(why) => ("unchecked", vec![why.clone()]),
        },
        _ => ("recognised", Vec::new()),
    }
}

impl From<&Cluster> for PostgresReport {
    fn from(cluster: &Cluster) -> Self {
        let control = cluster.control.as_ref();
        let checkpoint = control.and_then(|control| control.checkpoint);
        // As PostgreSQL writes places in its log: LSN_FORMAT_ARGS.
        let place = |lsn: u64| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff);
        PostgresReport {
            state: control.map(|control| control.state.words()),
            outlook: cluster.outlook(),
            control_version: control.map(|control| control.control_version),
            catalog_version: control.map(|control| control.catalog_version),
            system_identifier: control.map(|control| control.system_identifier),
            written_at: time(control.map(|control| control.written_at)),
            checkpoint_at: time(checkpoint.map(|checkpoint| checkpoint.at)),
            checkpoint_location: checkpoint.map(|checkpoint| place(checkpoint.location)),
            redo_location: checkpoint.map(|checkpoint| place(checkpoint.redo)),
            redo_file: control.and_then(Control::redo_file),
            has_redo_file: cluster.has_redo_file,
            checksum_is_right: control.and_then(|control| control.sum_is_right),
        }
    }
}
