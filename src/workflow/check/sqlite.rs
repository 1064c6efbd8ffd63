//! An SQLite database on a throw-away copy: its log replayed, its pages and indices checked by SQLite itself.
//!
//! The copy may be made up by somebody who means harm, so SQLite is told to trust nothing in it
//! (<https://sqlite.org/security.html>, "Untrusted SQLite Database Files"): no triggers, views, functions or virtual tables
//! out of its schema beyond the harmless ones, bounded memory, and a deadline.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::event::Cancel;

/// How many errors are asked for, and how long each may be, in characters.
const MAX_ERRORS: usize = 20;
const MAX_ERROR_CHARS: usize = 200;
/// How many tables have their rows counted at most.
const MAX_COUNTED_TABLES: usize = 10_000;
/// How much memory SQLite may take in all, in bytes: what a database of 16 GiB needs, several times over.
const MAX_HEAP_BYTES: u32 = 256 << 20;
/// How many operations of its machine pass between two looks at the clock.
const OPERATIONS_PER_LOOK: i32 = 20_000;
/// How long a statement may be, in bytes: one that makes a table of 2,000 columns fits.
const MAX_SQL_BYTES: i32 = 1_000_000;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// SQLite found nothing wrong.
    Sound,
    /// It found something wrong.
    Damaged,
    /// It could not be checked, or not in full, and why.
    Unchecked(String),
}

/// A checked database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteCheck {
    /// What came of it.
    pub integrity: Integrity,
    /// What SQLite says is wrong; the first of it.
    pub errors: Vec<String>,
    /// How many tables it has.
    pub tables: Option<u64>,
    /// How many rows its tables have in all; `None` when that was not counted, since something is wrong.
    pub rows: Option<u64>,
    /// How many pages the log had that were not in the database yet; `None` without a log.
    pub wal_frames: Option<u64>,
    /// Whether a transaction that was cut short was rolled back.
    pub rolled_back: bool,
}

impl SqliteCheck {
    /// It was not checked.
    pub fn not_done(why: impl Into<String>) -> Self {
        SqliteCheck {
            integrity: Integrity::Unchecked(why.into()),
            errors: Vec::new(),
            tables: None,
            rows: None,
            wal_frames: None,
            rolled_back: false,
        }
    }
}

/// Checks the copy at `path`, which is written to.
pub fn check(path: &Path, timeout: Duration, cancel: &Cancel) -> SqliteCheck {
    let mut checked = SqliteCheck::not_done("");
    let began = Instant::now();
    let journal = path.with_extension("db-journal");
    let had_journal = journal.metadata().is_ok_and(|meta| meta.len() > 0);
    let result = open(path).and_then(|database| {
        let cancel = cancel.clone();
        let is_over = move || cancel.is_cancelled() || began.elapsed() >= timeout;
        database.progress_handler(OPERATIONS_PER_LOOK, Some(is_over))?;
        examine(&database, &mut checked)
    });
    checked.rolled_back = had_journal && !journal.exists();
    checked.integrity = match result {
        Ok(()) if checked.errors.is_empty() => Integrity::Sound,
        Ok(()) => Integrity::Damaged,
        Err(e) => match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                checked.errors.push(shortened(&e.to_string()));
                Integrity::Damaged
            }
            Some(ErrorCode::OperationInterrupted) => {
                Integrity::Unchecked(format!("it took longer than {} s", timeout.as_secs()))
            }
            // What the application brings along is not here: functions, collations, virtual tables.
            _ => Integrity::Unchecked(shortened(&e.to_string())),
        },
    };
    checked
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let database = Connection::open_with_flags(path, flags)?;
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
    ] {
        database.set_db_config(config, on)?;
    }
    database.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES)?;
    database.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    database.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    // Alone with the database, it needs no memory shared with others.
    for (pragma, value) in [
        ("locking_mode", "EXCLUSIVE"),
        ("cell_size_check", "ON"),
        ("mmap_size", "0"),
        ("cache_size", "-8192"),
        ("hard_heap_limit", &MAX_HEAP_BYTES.to_string()),
    ] {
        database.pragma_update(None, pragma, value)?;
    }
    Ok(database)
}

fn examine(database: &Connection, checked: &mut SqliteCheck) -> rusqlite::Result<()> {
    // The first read replays a log, or rolls back what was cut short.
    let count = "SELECT count(*) FROM sqlite_schema WHERE type = 'table'";
    let tables: i64 = database.query_row(count, [], |row| row.get(0))?;
    checked.tables = u64::try_from(tables).ok();
    let frames: i64 = database.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1))?;
    checked.wal_frames = u64::try_from(frames).ok();
    let mut statement = database.prepare(&format!("PRAGMA integrity_check({MAX_ERRORS})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        if text != "ok" {
            // A headline says which of several databases is meant; there is one.
            let said = text.lines().filter(|line| !line.starts_with("*** in database"));
            checked.errors.extend(said.map(shortened));
        }
    }
    checked.errors.truncate(MAX_ERRORS);
    if checked.errors.is_empty() {
        checked.rows = count_rows(database).ok();
    }
    Ok(())
}

/// Counts the rows of all tables; virtual ones belong to an application's own code.
fn count_rows(database: &Connection) -> rusqlite::Result<u64> {
    let mut statement = database.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.take(MAX_COUNTED_TABLES).try_fold(0, |sum: u64, name| {
        let quoted = name?.replace('"', "\"\"");
        let rows: i64 =
            database.query_row(&format!("SELECT count(*) FROM \"{quoted}\""), [], |row| row.get(0))?;
        Ok(sum.saturating_add(u64::try_from(rows).unwrap_or_default()))
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_ERROR_CHARS).collect()
}
