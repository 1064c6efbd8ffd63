//! Evidence: what a scan writes down of one replica directory, and all that the ranking ever looks at.
//!
//! It is data, so that it can be printed as JSON on one node and ranked on another. Nothing in it is a judgement
//! that needs the replica's siblings; those are made in [`standing`](crate::model::standing).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How far the chain from the head down to the lowest layer can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChainState {
    /// Not to its end, or a layer's data is missing.
    #[default]
    Broken,
    /// To its end, but the backing image below it is not on this node.
    BackingMissing,
    /// To its end.
    Whole,
}

/// What `volume.meta` says of the replica's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// It was being filled from another replica.
    Rebuilding,
    /// The engine gave it up, with an error.
    GivenUp,
    /// `volume.meta` is missing or damaged: it may have been rebuilding.
    #[default]
    Unknown,
    /// Nothing speaks against it.
    Sound,
}

/// What is known of one replica directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// The node it is on.
    pub node: String,
    /// The directory's path on that node.
    pub path: String,
    /// What tells the machine that looked at it from all others, since it was started; empty when nothing does. Two
    /// machines may have one name.
    pub origin: String,
    /// The volume's name.
    pub volume: String,
    /// When it was looked at, by the node's clock.
    pub scanned_at: Option<Timestamp>,
    /// Whether its chain can be read.
    pub chain: ChainState,
    /// What `volume.meta` says of its state.
    pub state: VolumeState,
    /// What is wrong with the chain or the state, as sentences without a full stop.
    pub trouble: Vec<String>,
    /// The volume's size in bytes; `null` when nothing tells it.
    pub size_bytes: Option<u64>,
    /// The head's file name; the likely one when `volume.meta` cannot tell.
    pub head: Option<String>,
    /// When the head began, as its metadata says.
    pub head_created: Option<Timestamp>,
    /// When the head was last written, by the node's clock at that time.
    pub head_modified: Option<Timestamp>,
    /// What the head takes on the disk, in bytes.
    pub head_allocated_bytes: u64,
    /// What all layers take on the disk, in bytes; a file with two names counts once.
    pub allocated_bytes: u64,
    /// Bytes of the volume that some layer serves with data; only a deep scan knows them.
    pub data_bytes: Option<u64>,
    /// Not closed, as after any crash.
    pub dirty: bool,
    /// Another process has it open for writing.
    pub in_use: bool,
    /// The number in `revision.counter`; `null` when there is none, or it cannot be read.
    pub revision_counter: Option<u64>,
    /// Whether the head was written after the counter was: then nobody counts any more.
    pub revision_frozen: bool,
    /// Whether the files' times look like those of a copy rather than of writes.
    pub times_copied: bool,
    /// What the metadata of the lowest layer says: when it began, if it is the head; when it was taken, if it is a snapshot.
    pub began: Option<Timestamp>,
    /// The snapshots: those on the live chain first, from the head down, then the others by name.
    pub snapshots: Vec<SnapshotEvidence>,
    /// Whether checksums were computed and the content was looked at.
    pub deep: bool,
    /// What the volume holds, as far as a deep scan recognised it.
    pub guest: Option<String>,
}

/// What is known of one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotEvidence {
    /// Its name.
    pub name: String,
    /// The file name of its parent; empty for the lowest layer.
    pub parent: String,
    /// When it was taken, as its metadata says.
    pub created: Option<Timestamp>,
    /// The length of its file in bytes; `null` when the file is not there.
    pub size_bytes: Option<u64>,
    /// Whether it is on the live chain.
    pub live: bool,
    /// Deleted and not purged yet.
    pub removed: bool,
    /// Taken by a user, or for one, rather than by the system: no purge takes it unasked.
    pub user_created: bool,
    /// What its file takes on the disk, in bytes.
    pub allocated_bytes: u64,
    /// The engine's checksum of it (16 hexadecimal digits), if there is one.
    pub recorded_crc64: Option<String>,
    /// Its checksum as a deep scan computed it.
    pub computed_crc64: Option<String>,
    /// Whether the file's change time is still the one recorded with the checksum.
    pub change_time_equal: Option<bool>,
    /// The engine itself found that its data had changed.
    pub silently_corrupted: bool,
    /// Why it could not be read.
    pub unreadable: Option<String>,
}

/// How a node's clock stands to ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Clock {
    /// It was never compared.
    #[default]
    Unknown,
    /// It was compared; positive when it is ahead of ours.
    Compared {
        /// By how many seconds it is off, at least.
        off_seconds: i64,
    },
}

impl Clock {
    /// How far apart two clocks may be before times of one say nothing about times of the other: as much as
    /// Longhorn's own salvage takes for the same moment.
    pub const TOLERANCE_SECONDS: i64 = 5;

    /// A clock that said `read`, while ours went from `sent` to `received`. It may have been cut to whole seconds.
    pub fn read(read: Timestamp, sent: Timestamp, received: Timestamp) -> Self {
        let (read, sent, received) = (read.as_second(), sent.as_second(), received.as_second());
        let off_seconds = if read < sent { read - sent } else { (read - received).max(0) };
        Clock::Compared { off_seconds }
    }

    /// Whether its times can be compared with ours.
    pub fn is_right(self) -> bool {
        matches!(self, Clock::Compared { off_seconds } if off_seconds.unsigned_abs() <= Self::TOLERANCE_SECONDS.unsigned_abs())
    }

    /// Whether its times are known to be wrong.
    pub fn is_wrong(self) -> bool {
        matches!(self, Clock::Compared { .. }) && !self.is_right()
    }
}

impl Evidence {
    /// The snapshots on the live chain, from the head down.
    pub fn live_chain(&self) -> impl Iterator<Item = &SnapshotEvidence> {
        self.snapshots.iter().filter(|snapshot| snapshot.live)
    }

    /// The snapshot of this name.
    pub fn snapshot(&self, name: &str) -> Option<&SnapshotEvidence> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }

    /// Whether nothing was ever written to it. Its backing image, which a deep scan counts as data, says nothing of that.
    pub fn is_empty(&self) -> bool {
        self.allocated_bytes == 0
    }

    /// When it was made, if anything tells: what a snapshot holds was written before it was taken, and nobody knows
    /// how long before.
    pub fn made(&self) -> Option<Timestamp> {
        self.began.filter(|_| self.live_chain().next().is_none())
    }

    /// Why the time of the head's last write cannot be right: only a clock that was wrong makes such times.
    pub fn impossible_time(&self) -> Option<&'static str> {
        let modified = self.head_modified?.as_second();
        let later = |than: Option<Timestamp>, by: i64| {
            than.is_some_and(|than| than.as_second().saturating_add(by) < modified)
        };
        if later(self.scanned_at, Clock::TOLERANCE_SECONDS) {
            Some("its head was last written in the future")
        } else if self.head_created.is_some() && !later(self.head_created, -Clock::TOLERANCE_SECONDS - 1) {
            Some("its head was last written before it was made")
        } else {
            None
        }
    }

    /// The last part of its path: `<volume>-<8 hexadecimal digits>`, which no two replicas share.
    pub fn directory(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether the counter says how many writes it has seen.
    pub fn live_counter(&self) -> Option<u64> {
        self.revision_counter.filter(|_| !self.revision_frozen)
    }

    /// Whether this is a closer look at the same state of a directory.
    pub fn is_closer_look_than(&self, other: &Evidence) -> bool {
        let plain = |e: &Evidence| {
            let mut e = Evidence {
                scanned_at: None,
                origin: String::new(),
                trouble: Vec::new(),
                in_use: false,
                deep: false,
                guest: None,
                data_bytes: None,
                ..e.clone()
            };
            e.snapshots.iter_mut().for_each(|s| (s.computed_crc64, s.unreadable) = (None, None));
            e
        };
        // What only reading shows comes after what the metadata shows.
        let knows_all = self.trouble.starts_with(&other.trouble);
        self.deep && !other.deep && knows_all && plain(self) == plain(other)
    }

    /// Whether its times and those of a sibling were given by one clock, for all that can be told: a disk may have come
    /// from another machine, and two machines may have one name.
    pub fn shares_clock_with(&self, other: &Evidence) -> bool {
        let place = |e: &Evidence| {
            (e.node.clone(), e.origin.clone(), e.path.rfind('/').map(|at| e.path[..at].to_owned()))
        };
        !self.origin.is_empty() && place(self) == place(other)
    }
}
