//! Two heads: which one is the old one, and whether the newer one is the one that counts.
//!
//! Snapshot, expansion and revert all make a new head, rewrite `volume.meta`, and remove the old head, in that
//! order (longhorn-engine `pkg/replica/replica.go`, `createDisk` and `Revert`). Death in between leaves two. The
//! evidence, in order of weight: inodes (taking a snapshot links the head's file), the parents, when each began,
//! and whether anything was written. The number in the name is none: 010 is followed by 001.

use jiff::Timestamp;

use crate::format::layer_meta::EXPANSION_LABEL;
use crate::format::names::{self, DiskKind};
use crate::model::finding::{Code, Finding};
use crate::replica::decide::short;
use crate::replica::inventory::{Disk, Doc, Inventory};

/// The prefix of the names of snapshots that an expansion takes.
const EXPANSION_PREFIX: &str = "expand-";

/// What the engine was doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Snapshot,
    Expansion,
    Revert,
}

impl Operation {
    fn code(self) -> Code {
        match self {
            Operation::Snapshot => Code::SnapshotCutShort,
            Operation::Expansion => Code::ExpansionCutShort,
            Operation::Revert => Code::RevertCutShort,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Operation::Snapshot => "taking a snapshot",
            Operation::Expansion => "expanding the volume",
            Operation::Revert => "reverting to a snapshot",
        }
    }

    /// Snapshot or expansion, by the snapshot that it took.
    fn that_took(snapshot: &str, disk: Option<&Disk>) -> Self {
        let labelled = disk
            .and_then(|disk| disk.meta.good())
            .is_some_and(|meta| meta.labels.iter().any(|(key, _)| key == EXPANSION_LABEL));
        let named = names::snapshot_name(snapshot).is_some_and(|name| name.starts_with(EXPANSION_PREFIX));
        if labelled || named { Operation::Expansion } else { Operation::Snapshot }
    }
}

/// What there is to say of the heads beside `head`, the one that counts: that which `volume.meta` names, whichever is looked
/// at; where it names none, the one that is looked at.
pub(super) fn examine(inventory: &Inventory, looked_at: &Disk) -> Vec<Finding> {
    let named = inventory.volume_meta.good().and_then(|meta| inventory.disks.get(&meta.head));
    let head = named.unwrap_or(looked_at);
    let others = inventory.heads().filter(|other| other.name != head.name);
    others.filter_map(|other| Heads { inventory, head, other, named: named.is_some() }.judge()).collect()
}

/// The head that counts and another one.
struct Heads<'a> {
    inventory: &'a Inventory,
    head: &'a Disk,
    other: &'a Disk,
    /// Whether `volume.meta` names the head that counts.
    named: bool,
}

impl Heads<'_> {
    fn judge(&self) -> Option<Finding> {
        match (&self.other.image, &self.other.meta) {
            (Some(_), Doc::Good(_)) => Some(self.two_whole_heads()),
            (Some(_), Doc::Absent) if self.other.is_blank() => Some(self.new_head_without_meta()),
            (None, Doc::Good(_)) => Some(self.old_head_without_data()),
            // Data without usable metadata, and damaged metadata, are reported for every layer alike.
            _ => None,
        }
    }

    fn two_whole_heads(&self) -> Finding {
        let (inventory, head, other) = (self.inventory, self.head, self.other);
        if let Some(snapshot) = inventory.twins(other).find(|twin| twin.kind == DiskKind::Snapshot) {
            let operation = Operation::that_took(&snapshot.name, Some(snapshot));
            return self.old_head_is_left(operation, Some(snapshot));
        }
        // Where a copy has broken the links, the metadata still says which head a snapshot was.
        if let Some(snapshot) = self.taken_from(parent_of(head), other) {
            return self
                .old_head_is_left(Operation::that_took(&snapshot.name, Some(snapshot)), Some(snapshot));
        }
        let parent = parent_of(other);
        let below = inventory.disks.get(parent);
        let stands_on_head =
            below.is_some_and(|below| below.is_same_image(head)) || self.taken_from(parent, head).is_some();
        let in_the_making =
            |below: &Disk| below.meta.good().is_none() && (below.image.is_none() || other.is_blank());
        // A head that stands on nothing is a volume's first one, or empty and waits for a restore.
        if !parent.is_empty() && below.is_none_or(in_the_making) || stands_on_head {
            // The new head's snapshot was not taken yet, or is a link to the head that still counts.
            return match other.is_blank() {
                true => self.new_head_is_left(Operation::that_took(parent, below)),
                false if stands_on_head => self.newer_head_has_data(),
                false => self.undecided(),
            };
        }
        let stands_deep = || inventory.chain_from(&other.name).layers.iter().any(|l| self.is_file_of_head(l));
        match (began(other), began(head)) {
            _ if !other.is_blank() && stands_deep() => self.newer_head_has_data(),
            (Some(theirs), Some(ours)) if theirs < ours => self.old_head_is_left(Operation::Revert, None),
            _ if other.is_blank() && parent.is_empty() => self.old_head_is_left(Operation::Revert, None),
            _ if other.is_blank() => self.new_head_is_left(Operation::Revert),
            (Some(theirs), Some(ours)) if theirs > ours => self.newer_head_has_data(),
            _ => self.undecided(),
        }
    }

    /// The snapshot of this name, if its metadata says that it was taken from `head`.
    fn taken_from(&self, snapshot: &str, head: &Disk) -> Option<&Disk> {
        self.inventory.disks.get(snapshot).filter(|snapshot| {
            let named = snapshot.meta.good().is_some_and(|meta| meta.name == head.name);
            named && parent_of(snapshot) == parent_of(head)
        })
    }

    fn is_file_of_head(&self, layer: &str) -> bool {
        self.inventory.disks.get(layer).is_some_and(|disk| disk.is_same_image(self.head))
    }

    /// Death before `volume.meta` was rewritten, with the new head complete.
    fn new_head_is_left(&self, operation: Operation) -> Finding {
        let other = &self.other.name;
        let mut finding = Finding::new(
            operation.code(),
            format!("the engine died while {}, before volume.meta was rewritten: {other} is blank", operation.name()),
            "the volume is as it was before, and the content is right; the next snapshot may fail until the blank \
             head is gone",
        )
        .on(other);
        let snapshot = self.inventory.disks.get(parent_of(self.other));
        if let Some(link) = snapshot.filter(|snapshot| snapshot.is_same_image(self.head)) {
            finding = finding.on(&link.name);
        }
        finding
    }

    /// Death before the new head had metadata, which is too early to tell a snapshot from a revert.
    fn new_head_without_meta(&self) -> Finding {
        let other = &self.other.name;
        let size = |disk: &Disk| disk.image.map_or(0, |image| image.size_bytes);
        let (code, doing) = if size(self.other) > size(self.head) {
            (Code::ExpansionCutShort, Operation::Expansion.name())
        } else {
            (Code::NewHeadCutShort, "taking a snapshot, expanding, or reverting")
        };
        Finding::new(
            code,
            format!("the engine died while {doing}, just after it made the blank head {other}"),
            "the volume is as it was before, and the content is right; the next snapshot may fail until the blank \
             head is gone",
        )
        .on(other)
    }

    /// Death after `volume.meta` was rewritten, with the old head complete.
    fn old_head_is_left(&self, operation: Operation, snapshot: Option<&Disk>) -> Finding {
        let other = &self.other.name;
        let what =
            format!("the engine died while {}, before the old head {other} was removed", operation.name());
        match snapshot {
            Some(snapshot) => Finding::new(
                operation.code(),
                what,
                format!(
                    "the old head and snapshot {} {}; the content is right",
                    short(&snapshot.name),
                    if snapshot.is_same_image(self.other) {
                        "are one file, which counts once"
                    } else {
                        "were one file, until a copy made two of it"
                    }
                ),
            )
            .on(other)
            .on(&snapshot.name),
            None if self.other.is_blank() => Finding::new(
                operation.code(),
                what,
                "the volume is as after the revert, and the content is right; nothing was ever written to the old head",
            )
            .on(other),
            None => Finding::new(
                operation.code(),
                what,
                "the volume is as after the revert, and the content is right; the old head still holds what the \
                 revert threw away",
            )
            .on(other)
            .advise(format!("to see what was thrown away: --head {other}")),
        }
    }

    /// Death between removing the old head's data and its metadata.
    fn old_head_without_data(&self) -> Finding {
        let other = &self.other.name;
        let took = self.taken_from(parent_of(self.head), self.other);
        let operation = took.map_or(Operation::Revert, |s| Operation::that_took(&s.name, Some(s)));
        let meaning = match operation {
            Operation::Revert => "the volume is as after the revert, and the content is right",
            _ => "its data is in the snapshot, and the content is right",
        };
        Finding::new(
            operation.code(),
            format!(
                "the engine died while {}: the old head {other} has metadata and no data",
                operation.name()
            ),
            format!("{meaning}; an engine that opens this replica may report an error because of it"),
        )
        .on(format!("{other}.meta"))
    }

    fn newer_head_has_data(&self) -> Finding {
        let (head, other) = (&self.head.name, &self.other.name);
        Finding::new(
            Code::StaleVolumeMeta,
            match self.named {
                true => format!("{other} is newer than {head}, which volume.meta names, and holds data"),
                false => format!("{other} is newer than {head}, and holds data"),
            },
            format!(
                "the last change of volume.meta was probably lost in a power cut: what was written since the last \
                 snapshot is then in the newer head, and is missing from the state at {head}"
            ),
        )
        .on(head)
        .on(other)
        .advise(format!("look at both states: --head {other}"))
    }

    fn undecided(&self) -> Finding {
        let (head, other) = (&self.head.name, &self.other.name);
        Finding::new(
            Code::TwoHeads,
            format!("{other} holds data too, and nothing tells whether it is older than {head}"),
            match self.named {
                true => "one of them is a leftover; volume.meta is believed",
                false => "one of them is a leftover",
            },
        )
        .on(head)
        .on(other)
        .advise(format!("look at both states: --head {other}"))
    }
}

fn parent_of(disk: &Disk) -> &str {
    disk.meta.good().map_or("", |meta| meta.parent.as_str())
}

fn began(disk: &Disk) -> Option<Timestamp> {
    disk.meta.good().and_then(|meta| meta.created.parse().ok())
}
