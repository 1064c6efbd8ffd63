//! Damage or doubt as data: the findings, and the one table that gives each code its severity.
//!
//! A finding never stops the work by itself; guards do that. Its severity decides the exit code: anything of
//! [`Severity::Warning`] or worse makes it 1. Codes are stable: scripts may match them.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::model::units::ByteRange;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; the data is not in doubt.
    Info,
    /// The data, or a part of it, is in doubt: a person should look.
    Warning,
    /// The data cannot be had this way, or is wrong.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Declares the codes: `Name = "stable-code", Severity, "one line of documentation";`.
macro_rules! codes {
    ($($name:ident = $code:literal, $severity:ident, $doc:literal;)*) => {
        /// What kind of finding. Each code has one severity, given in one table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $doc] $name,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }

            /// How much findings of this code matter.
            pub fn severity(self) -> Severity {
                match self { $(Code::$name => Severity::$severity,)* }
            }

            /// One line that says what the code stands for.
            pub fn summary(self) -> &'static str {
                match self { $(Code::$name => $doc,)* }
            }
        }
    };
}

codes! {
    VolumeMetaMissing = "volume-meta-missing", Error,
        "volume.meta is not there: head and size are not known, nor whether the replica was being rebuilt.";
    VolumeMetaEmpty = "volume-meta-empty", Error,
        "volume.meta is empty: head and size are not known, nor whether the replica was being rebuilt.";
    VolumeMetaTruncated = "volume-meta-truncated", Error,
        "volume.meta is cut off in the middle.";
    VolumeMetaNul = "volume-meta-nul", Error,
        "volume.meta is nothing but NUL bytes, as after a power cut.";
    VolumeMetaForeign = "volume-meta-foreign", Error,
        "volume.meta is not what it should be, or cannot be read.";
    LayerMetaMissing = "layer-meta-missing", Error,
        "The metadata of a layer of the chain is not there.";
    LayerMetaDamaged = "layer-meta-damaged", Error,
        "The metadata of a layer of the chain cannot be used.";
    StrayMetaDamaged = "stray-meta-damaged", Warning,
        "Metadata off the chain cannot be used: the engine would refuse to open the replica.";
    MetaWithoutParent = "meta-without-parent", Warning,
        "A layer's metadata names no parent, not even an empty one: the chain may end too early.";
    TrailingGarbage = "trailing-garbage", Warning,
        "A metadata file goes on after its value.";
    KeysRepeated = "keys-repeated", Warning,
        "A metadata file has a key more than once; the last one counts.";
    KeysOtherCase = "keys-other-case", Info,
        "A metadata file has keys in another case than the engine writes; it takes them all the same.";
    OldFieldNames = "old-field-names", Info,
        "volume.meta was written by an old engine version, with other field names.";
    RevisionUnreadable = "revision-counter-unreadable", Warning,
        "revision.counter is there and says nothing: the engine would refuse to open the replica.";
    HeadMissing = "head-missing", Error,
        "volume.meta names a head that is not there.";
    HeadDataMissing = "head-data-missing", Error,
        "The head's metadata is there and its data is not: the engine would make an empty one and serve old data.";
    LayerDataMissing = "layer-data-missing", Error,
        "A layer of the chain has metadata and no data.";
    HeadDataEmpty = "head-data-empty", Error,
        "The head's file has no bytes: an engine made it anew in the place of a lost one, and serves old data.";
    LayerDataEmpty = "layer-data-empty", Error,
        "The file of a layer of the chain has no bytes: an engine made it anew in the place of a lost one.";
    LayerCutShort = "layer-cut-short", Warning,
        "A layer of the chain is shorter than the one below it, which no engine does: its end is lost.";
    ChainEndsEarly = "chain-ends-early", Warning,
        "Other snapshots stand on another lowest layer: the chain may end too early, as in a replica being rebuilt.";
    BranchDataMissing = "branch-data-missing", Warning,
        "A layer off the chain has metadata and no data.";
    ImageWithoutMeta = "image-without-meta", Warning,
        "A layer's data is there and its metadata is not: where it belongs is not known.";
    ParentMissing = "parent-missing", Error,
        "A layer of the chain names a parent that is not there.";
    SelfParent = "self-parent", Error,
        "A layer of the chain names itself as its parent.";
    ChainCycle = "chain-cycle", Error,
        "Layers of the chain are each other's parents.";
    ChainTooLong = "chain-too-long", Error,
        "The chain has more layers than the engine takes.";
    UnsafeName = "unsafe-name", Error,
        "A head or parent is named by something that is not a plain file name.";
    BranchBroken = "branch-broken", Warning,
        "A chain of snapshots off the live chain cannot be followed to its end.";
    StaleVolumeMeta = "stale-volume-meta", Warning,
        "A newer head than the one volume.meta names holds data.";
    TwoHeads = "two-heads", Warning,
        "There are two heads with data, and nothing tells which is the newer one.";
    NewHeadCutShort = "new-head-cut-short", Info,
        "The engine died just after it made a new head, for a snapshot, an expansion or a revert; the content is right.";
    SnapshotCutShort = "snapshot-cut-short", Info,
        "The engine died while it took a snapshot; the content is right.";
    ExpansionCutShort = "expansion-cut-short", Info,
        "The engine died while it expanded the volume; the content is right.";
    RevertCutShort = "revert-cut-short", Info,
        "The engine died while it reverted to a snapshot; the content is that of before or after, never mixed.";
    PurgeCutShort = "purge-cut-short", Info,
        "The engine died while it purged a snapshot; the content is right.";
    RemovedLayer = "removed-layer", Info,
        "A removed snapshot is still on the chain: its data counts, its own view need not be right.";
    RemovedBehindHead = "removed-behind-head", Info,
        "The snapshot below the head is removed: a prune or an unmap may have punched holes in it; the volume is right.";
    RemovedLeaf = "removed-leaf", Info,
        "A removed snapshot that nothing stands on waits for its purge.";
    SameFile = "same-file", Info,
        "One file has two names in the directory, as the engine does it on the way.";
    UnexplainedLink = "unexplained-link", Warning,
        "One file has two names in the directory, and no operation of the engine does that.";
    TmpLeftover = "tmp-leftover", Info,
        "Leftovers of metadata that was being written; the engine never reads them.";
    RestoreCutShort = "restore-cut-short", Warning,
        "A restore or a clone was cut short: its data is not part of the volume yet.";
    RestoreScratch = "restore-scratch", Warning,
        "Scratch files of a restore into a standby volume: the volume is older than what was being restored.";
    ForeignFiles = "foreign-files", Info,
        "Files that are not Longhorn's.";
    SizeInvalid = "size-invalid", Error,
        "The Size in volume.meta is none that a volume can have.";
    SizeUnaligned = "size-unaligned", Warning,
        "The volume's size is not a multiple of 4096 bytes.";
    HeadSizeDiffers = "head-size-differs", Warning,
        "The head's file is not as long as volume.meta says the volume is.";
    LayerPastEnd = "layer-past-end", Warning,
        "A layer is longer than the volume; what is past the end is not part of it.";
    Rebuilding = "rebuilding", Error,
        "The replica was being rebuilt from another one: what it holds is not the volume.";
    Dirty = "dirty", Info,
        "The replica was not closed: its engine died, or runs.";
    EngineError = "engine-error", Warning,
        "The engine has given this replica up, and says why.";
    Encrypted = "encrypted", Info,
        "The volume is encrypted: the image is a LUKS container.";
    BackingMissing = "backing-missing", Error,
        "The volume stands on a backing image that cannot be opened.";
    BackingBlank = "backing-blank", Warning,
        "The backing image holds no data at all.";
    BackingUnrecorded = "backing-unrecorded", Warning,
        "A backing image was given by hand for a volume that names none.";
    BackingLarger = "backing-larger", Warning,
        "The backing image is longer than the volume, which the engine does not take.";
    ChosenByHand = "chosen-by-hand", Warning,
        "Head or size were given by hand against, or for want of, volume.meta.";
    RemovedView = "removed-view", Warning,
        "The snapshot that was asked for is marked as removed: its own view may have been changed.";
    Unreadable = "unreadable", Error,
        "A layer cannot be opened or read.";
    UnwrittenExtents = "unwritten-extents", Info,
        "A layer has preallocated extents that were never written, above no older data.";
    UnwrittenHidesData = "unwritten-hides-data", Warning,
        "Preallocated extents that were never written lie above older data: zeros or that data, as --unwritten says.";
    UnwrittenUnknown = "unwritten-unknown", Info,
        "The file system has no FIEMAP: unwritten extents cannot be told from holes.";
    LiveHead = "live-head", Warning,
        "The head is open for writing in another process.";
    LiveUnknown = "live-unknown", Info,
        "Not all processes could be looked at; the replica may be in use.";
    ChecksumMismatch = "checksum-mismatch", Error,
        "A layer is not what the engine hashed, and the file system says that nobody changed it: it is corrupt.";
    ChecksumStale = "checksum-stale", Warning,
        "A layer is not what the engine hashed, and was touched since: it may have been purged, pruned, unmapped or copied.";
    ChecksumDoubted = "checksum-doubted", Warning,
        "A layer is what the engine hashed, though the engine itself has once read something else: the disk or the memory is in doubt.";
    ChecksumUnusable = "checksum-unusable", Warning,
        "A recorded checksum is damaged, or cannot be read: its layer cannot be verified by it.";
    ChecksumsAbsent = "checksums-absent", Info,
        "No layer has a recorded checksum: nothing can be verified by them.";
    ImageDiffers = "image-differs", Error,
        "An image is not what the replica holds.";
    LayerChanged = "layer-changed", Warning,
        "A layer is not what was recorded of it before, or is gone.";
    NothingInCommon = "nothing-in-common", Warning,
        "Two directories have no snapshot in common: nothing could be compared.";
    CopyFullyAllocated = "copy-fully-allocated", Error,
        "Every layer is fully allocated: a copy turned holes into data, and upper layers hide what is below.";
    CopyNoZeros = "copy-no-zeros", Warning,
        "No explicit zero block anywhere, or in a large sample: a copy probably turned written zeros into holes, and old data shows through.";
    NoTrustedReplica = "no-trusted-replica", Error,
        "None of a volume's replicas can be trusted.";
    SiblingHasMore = "sibling-has-more", Warning,
        "Another replica of the volume has something that the best one lacks: a snapshot, or later writes.";
    SnapshotDiffers = "snapshot-differs", Warning,
        "Two replicas have the same snapshot with another size, checksum or content.";
    SiblingSizeDiffers = "sibling-size-differs", Warning,
        "Two replicas that can be trusted say different sizes of the volume.";
    HeadTimeImpossible = "head-time-impossible", Warning,
        "A head was last written before it was made, or in the future: the node's clock was wrong.";
    ClockOff = "clock-off", Warning,
        "A node's clock is not ours: its times cannot be compared with those of other nodes.";
    NothingFound = "nothing-found", Warning,
        "No replica was found, or none of a volume that was asked for.";
    NodeUnreachable = "node-unreachable", Warning,
        "A node could not be scanned; what it holds is not in the ranking.";
    NodeVersion = "node-version", Warning,
        "A node has another version of this program, and its own was used.";
    PathUnreadable = "path-unreadable", Warning,
        "A directory could not be scanned; what it holds is not in the ranking.";
    CopyUnfinished = "copy-unfinished", Warning,
        "The directory is a copy that lhrecover preserve has not finished.";
    BlocksShared = "blocks-shared", Warning,
        "The copy shares its blocks with the source: it is quick, and no second copy.";
    NotPreserved = "not-preserved", Warning,
        "Something in the directory was not copied: no regular file and no link, or with a name that cannot be kept.";
    UnwrittenAsZeros = "unwritten-as-zeros", Warning,
        "The copy has written zeros where the source has preallocated room: the target cannot keep that.";
    AttributesNotKept = "attributes-not-kept", Warning,
        "The owner or extended attributes of a copied file could not be set.";
    TraitsNotKept = "traits-not-kept", Info,
        "Something about an extracted file was left out that changes neither its data nor who may use it.";
    CopyNamesDiffer = "copy-names-differ", Error,
        "A file is missing from the copy, or is one too many, or is something else than it was.";
    CopyContentDiffers = "copy-content-differs", Error,
        "What a file of the copy holds is not what it should be: its size, its holes, or its bytes.";
    CopyAttributesDiffer = "copy-attributes-differ", Warning,
        "Mode, owner, time or extended attributes of a copied file are not those of the source.";
    SourceChanged = "source-changed", Warning,
        "The source is no longer what it was when the copy was made, or when it was opened to be served.";
    FilesUnreadable = "files-unreadable", Error,
        "Files or directories inside the volume cannot be read, or are damaged.";
    FilesEncrypted = "files-encrypted", Warning,
        "Files or directories inside the volume are encrypted, and there is no key here: they are neither read nor checked.";
    JournalCutShort = "journal-cut-short", Warning,
        "The journal of the file system inside is damaged: what it says from there on is missing.";
    FastCommitsMissing = "fast-commits-missing", Warning,
        "The journal of the file system inside has fast commits, which are not taken into account: the latest changes are missing.";
    NotExtracted = "not-extracted", Warning,
        "Something inside the volume was not extracted: the name is taken or cannot be used, or it needs root.";
    FileSystemDamaged = "file-system-damaged", Error,
        "The file system, or what else is in the volume, is damaged: its own checker says so, or its superblock.";
    DatabaseDamaged = "database-damaged", Error,
        "A database in the volume is damaged, or lacks what its server needs to start.";
    ErrorsRecorded = "errors-recorded", Warning,
        "The kernel has met errors in the file system while it was mounted, and noted them in its superblock.";
    ContentUnknown = "content-unknown", Warning,
        "What is in the volume is nothing that is known.";
    NotChecked = "not-checked", Warning,
        "Something in the volume could not be checked, or not in full: a tool is missing, or there was no room.";
    JournalDirty = "journal-dirty", Info,
        "The file system was not unmounted: its journal holds what was written last.";
    JournalSkipped = "journal-skipped", Warning,
        "The source's journal holds what was written last, and was not played back: that is not in what was copied.";
    NothingInside = "nothing-inside", Info,
        "The volume, or a partition of it, holds nothing to check: it is empty, or swap space.";
    DeviceLarger = "device-larger", Info,
        "The output device is larger than the image; the rest of it is left as it is.";
    DeviceUsersUnknown = "device-users-unknown", Info,
        "Not all processes could be looked at; one may have the output device open.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Damage or doubt: what, where, what it means for the data, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind.
    pub code: Code,
    /// What was found: one lower-case sentence without a full stop.
    pub what: String,
    /// The files it is about, by name within the replica directory.
    pub files: Vec<String>,
    /// The ranges of the volume it is about; the first ones, when there are very many.
    pub ranges: Vec<ByteRange>,
    /// What it means for the data.
    pub meaning: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Finding {
    /// A finding about no particular file or range yet.
    pub fn new(code: Code, what: impl Into<String>, meaning: impl Into<String>) -> Self {
        Finding {
            code,
            what: what.into(),
            files: Vec::new(),
            ranges: Vec::new(),
            meaning: meaning.into(),
            advice: String::new(),
        }
    }

    /// Names a file it is about.
    pub fn on(mut self, file: impl Into<String>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Names the ranges it is about.
    pub fn at(mut self, ranges: Vec<ByteRange>) -> Self {
        self.ranges = ranges;
        self
    }

    /// Says what to do.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// How much it matters: what the table says of its code.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_kebab_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(code.as_str().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        }
    }
}
