//! A PostgreSQL cluster's control file, and whether the cluster can start from it.
//!
//! Offsets as `ControlFileData` and `CheckPoint` have them in PostgreSQL's `src/include/catalog/pg_control.h` of the
//! versions 9.3 to 18, on machines that align 8-byte integers to 8. What follows the checkpoint differs from version to
//! version, and is found by what is known of it: a constant that stands before the sizes, and the sum at the end.

use std::path::Path;

use crc_fast::{CrcAlgorithm, checksum};

use crate::guest::fields::Fields;
use crate::guest::files::{FileKind, Files, beginning};

/// The control file, from the cluster's directory.
pub const CONTROL_FILE: &str = "global/pg_control";
/// How much of it can matter: what follows is padding to 8 KiB (`PG_CONTROL_MAX_SAFE_SIZE`).
const CONTROL_BYTES: usize = 512;
/// Where in it the sum can stand at the earliest: behind the checkpoint and the sizes.
const SUM_FROM: usize = 192;
/// The number that is there as a floating-point one, to tell machines apart (`FLOATFORMAT_VALUE`).
const FLOAT_FORMAT: f64 = 1_234_567.0;
/// The first version whose control file has the layout that is known here, and a plain 64-bit place in the log: 9.3.
const FIRST_VERSION: u32 = 937;
/// The last version of the control file whose sum was of an older kind: 9.4. 9.5 has the same number.
const LAST_OLD_SUM: u32 = 942;
/// The first version that counts transactions in 64 bits: 12.
const FIRST_FULL_XID: u32 = 1201;
/// The first version that does not keep the checkpoint before the last one: 11.
const FIRST_ONE_CHECKPOINT: u32 = 1100;

/// What the cluster did when the control file was written (`DBState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was being started for the first time.
    Starting,
    /// It had been shut down.
    ShutDown,
    /// A standby had been shut down.
    ShutDownInRecovery,
    /// It was being shut down.
    ShuttingDown,
    /// It recovered from a crash.
    CrashRecovery,
    /// It recovered from an archive, or was a standby.
    ArchiveRecovery,
    /// It was running.
    InProduction,
    /// A number that no known version writes.
    Unknown(u32),
}

impl State {
    fn from(number: u32) -> Self {
        match number {
            0 => State::Starting,
            1 => State::ShutDown,
            2 => State::ShutDownInRecovery,
            3 => State::ShuttingDown,
            4 => State::CrashRecovery,
            5 => State::ArchiveRecovery,
            6 => State::InProduction,
            number => State::Unknown(number),
        }
    }

    /// In pg_controldata's words.
    pub fn words(self) -> &'static str {
        match self {
            State::Starting => "starting up",
            State::ShutDown => "shut down",
            State::ShutDownInRecovery => "shut down in recovery",
            State::ShuttingDown => "shutting down",
            State::CrashRecovery => "in crash recovery",
            State::ArchiveRecovery => "in archive recovery",
            State::InProduction => "in production",
            State::Unknown(_) => "unrecognized status code",
        }
    }

    /// Whether it needs nothing of the log to be whole.
    pub fn is_clean(self) -> bool {
        matches!(self, State::ShutDown | State::ShutDownInRecovery)
    }
}

/// What the control file says, as `pg_controldata` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The version of the control file: 1300 is that of PostgreSQL 13 to 16.
    pub control_version: u32,
    /// The version of the system tables.
    pub catalog_version: u32,
    /// What tells the cluster from others.
    pub system_identifier: u64,
    /// What it did.
    pub state: State,
    /// When the file was written, in seconds since 1970.
    pub written_at: i64,
    /// What is known in versions from 9.3 on.
    pub checkpoint: Option<Checkpoint>,
    /// The length of a file of the log, in bytes, where it could be found.
    pub wal_segment_bytes: Option<u32>,
    /// Whether the sum is right; `None` where the version has one of a kind that is not known here.
    pub sum_is_right: Option<bool>,
    /// Whether a machine with the other byte order wrote it: no server on this one would open it.
    pub is_other_endian: bool,
}

/// The last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Where its record is in the log.
    pub location: u64,
    /// From where on the log is needed to recover.
    pub redo: u64,
    /// The timeline it was made on.
    pub timeline: u32,
    /// When, in seconds since 1970.
    pub at: i64,
}

impl Control {
    /// What the file `bytes` says; `None` when it is too short, or of no version that there ever was.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = &bytes[..bytes.len().min(CONTROL_BYTES)];
        let is_version = |n: &Fields<'_>| n.u32(8).is_some_and(|version| (800..10_000).contains(&version));
        let numbers = [false, true]
            .map(|is_big_endian| Fields { bytes, is_big_endian })
            .into_iter()
            .find(is_version)?;
        let control_version = numbers.u32(8)?;
        Some(Control {
            control_version,
            catalog_version: numbers.u32(12)?,
            system_identifier: numbers.u64(0)?,
            state: State::from(numbers.u32(16)?),
            written_at: numbers.u64(24)?.cast_signed(),
            checkpoint: Some(control_version)
                .filter(|&version| version >= FIRST_VERSION)
                .and_then(|version| Checkpoint::parse(&numbers, version)),
            wal_segment_bytes: wal_segment_bytes(&numbers),
            sum_is_right: match has_sum(&numbers) {
                false if control_version <= LAST_OLD_SUM => None,
                is_right => Some(is_right),
            },
            is_other_endian: numbers.is_big_endian != cfg!(target_endian = "big"),
        })
    }

    /// The name of the file of the log from which on recovery needs it (`XLogFileName`).
    pub fn redo_file(&self) -> Option<String> {
        let (checkpoint, segment) = (self.checkpoint?, u64::from(self.wal_segment_bytes?));
        let per_id = (1u64 << 32) / segment;
        let number = checkpoint.redo / segment;
        Some(format!("{:08X}{:08X}{:08X}", checkpoint.timeline, number / per_id, number % per_id))
    }
}

impl Checkpoint {
    fn parse(numbers: &Fields<'_>, version: u32) -> Option<Self> {
        let copy = if version < FIRST_ONE_CHECKPOINT { 48 } else { 40 };
        Some(Checkpoint {
            location: numbers.u64(32)?,
            redo: numbers.u64(copy)?,
            timeline: numbers.u32(copy + 8)?,
            at: numbers.u64(copy + if version < FIRST_FULL_XID { 56 } else { 64 })?.cast_signed(),
        })
    }
}

/// The length of the log's files: the fourth size behind the constant. Powers of two from 1 MiB to 1 GiB are valid.
fn wal_segment_bytes(numbers: &Fields<'_>) -> Option<u32> {
    let constant = (SUM_FROM / 2..numbers.bytes.len())
        .step_by(8)
        .find(|&at| numbers.u64(at).is_some_and(|bits| bits == FLOAT_FORMAT.to_bits()))?;
    let bytes = numbers.u32(constant + 20)?;
    (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(bytes)
}

/// Whether somewhere behind the sizes stands the CRC-32C of all that is before it.
fn has_sum(numbers: &Fields<'_>) -> bool {
    let places = (SUM_FROM..numbers.bytes.len()).step_by(4);
    places.into_iter().any(|at| {
        let sum = checksum(CrcAlgorithm::Crc32Iscsi, &numbers.bytes[..at]);
        numbers.u32(at).is_some_and(|kept| u64::from(kept) == sum)
    })
}

/// A cluster's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// What `PG_VERSION` says: `15`, or `9.6`.
    pub version: Option<String>,
    /// The control file; `None` when it is missing or unusable.
    pub control: Option<Control>,
    /// Whether the file of the log is there from which on recovery needs it; `None` when its name is not known, or the log
    /// is elsewhere.
    pub has_redo_file: Option<bool>,
    /// Whether a `postmaster.pid` is there: the server was not shut down.
    pub has_pid_file: bool,
}

impl Cluster {
    /// The cluster in the directory `dir`.
    pub fn read(files: &dyn Files, dir: &Path) -> Self {
        let control = beginning(files, &dir.join(CONTROL_FILE), CONTROL_BYTES).ok();
        let control = control.and_then(|bytes| Control::parse(&bytes));
        // The log's directory was renamed in version 10. It may be a link to another volume.
        let (mut log, mut has_pid_file) = (None, false);
        let listed = files.list(dir, &mut |entry| {
            match entry.name.to_str() {
                Some(name @ ("pg_wal" | "pg_xlog")) if entry.kind == FileKind::Directory => {
                    log = Some(dir.join(name))
                }
                Some("postmaster.pid") => has_pid_file = true,
                _ => {}
            }
            Ok(())
        });
        let redo_file = control.as_ref().and_then(Control::redo_file).filter(|_| listed.is_ok());
        let has_redo_file =
            log.zip(redo_file).map(|(log, name)| files.read(&log.join(name), 0, &mut [0]).is_ok());
        let version = beginning(files, &dir.join("PG_VERSION"), 16).ok();
        let version = version.and_then(|bytes| String::from_utf8(bytes).ok());
        Cluster {
            version: version.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
            control,
            has_redo_file,
            has_pid_file,
        }
    }

    /// What keeps the cluster from starting, as far as the control file can tell; `None` when nothing does.
    pub fn problem(&self) -> Option<String> {
        let Some(control) = &self.control else {
            return Some(format!("{CONTROL_FILE} is missing or unusable: no server starts without it"));
        };
        if control.sum_is_right == Some(false) {
            return Some(format!("{CONTROL_FILE} does not match its checksum"));
        }
        if let State::Unknown(number) = control.state {
            return Some(format!("{CONTROL_FILE} has a state that no version knows: {number}"));
        }
        if self.has_redo_file == Some(false) {
            let name = control.redo_file().unwrap_or_default();
            return Some(format!("the write-ahead log {name}, from which recovery begins, is not there"));
        }
        None
    }

    /// What the state means to who wants to start it.
    pub fn outlook(&self) -> &'static str {
        match self.control.as_ref().map(|control| control.state) {
            None | Some(State::Unknown(_)) => "cannot be told",
            Some(state) if state.is_clean() => "shut down cleanly: needs no recovery",
            Some(State::ArchiveRecovery) => {
                "was a standby or being restored: goes on recovering when it starts"
            }
            Some(State::Starting) => "was never started in full",
            Some(_) => "was running: recovers from its log when it starts, as after a power cut",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control file of 64-bit little-endian version 1300, as PostgreSQL 15 lays it out.
    fn control(version: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        let copy = if version < FIRST_ONE_CHECKPOINT { 48 } else { 40 };
        put(0, &7_000_000_000_000_000_001u64.to_le_bytes());
        put(8, &version.to_le_bytes());
        put(12, &202_209_061u32.to_le_bytes());
        put(16, &6u32.to_le_bytes());
        put(24, &1_700_000_000i64.to_le_bytes());
        put(32, &0x1_5300_0100u64.to_le_bytes());
        put(copy, &0x1_5300_00c8u64.to_le_bytes());
        put(copy + 8, &3u32.to_le_bytes());
        put(copy + if version < FIRST_FULL_XID { 56 } else { 64 }, &1_600_000_000i64.to_le_bytes());
        put(208, &FLOAT_FORMAT.to_le_bytes());
        put(228, &(16u32 << 20).to_le_bytes());
        let sum = u32::try_from(checksum(CrcAlgorithm::Crc32Iscsi, &bytes[..288])).unwrap();
        bytes[288..292].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn a_control_file_is_read_as_pg_controldata_does() {
        for version in [960, 1002, 1100, 1201, 1300, 1700, 1800] {
            let read = Control::parse(&control(version)).unwrap();
            assert_eq!((read.control_version, read.catalog_version), (version, 202_209_061));
            assert_eq!((read.state, read.state.words()), (State::InProduction, "in production"));
            assert_eq!((read.written_at, read.sum_is_right), (1_700_000_000, Some(true)));
            let checkpoint = read.checkpoint.unwrap();
            assert_eq!((checkpoint.timeline, checkpoint.at), (3, 1_600_000_000), "{version}");
            assert_eq!(read.redo_file().as_deref(), Some("000000030000000100000053"));
        }
    }

    #[test]
    fn damage_shows_and_old_sums_are_not_judged() {
        let mut bytes = control(1300);
        bytes[40] ^= 1;
        assert_eq!(Control::parse(&bytes).unwrap().sum_is_right, Some(false));
        let mut old = control(942);
        old[40] ^= 1;
        assert_eq!(Control::parse(&old).unwrap().sum_is_right, None);
        assert!(Control::parse(&[]).is_none() && Control::parse(&[0; 8192]).is_none());
        assert!(Control::parse(&bytes[..20]).is_none());
    }

    #[test]
    fn the_other_byte_order_is_noticed() {
        let mut bytes = vec![0; 8192];
        bytes[8..12].copy_from_slice(&1300u32.to_be_bytes());
        let read = Control::parse(&bytes).unwrap();
        assert_eq!((read.control_version, read.is_other_endian), (1300, cfg!(target_endian = "little")));
    }
}
