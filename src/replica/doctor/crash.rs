//! What a purge leaves behind when it is cut short, and files with two names.
//!
//! A purge of a Removed snapshot folds its child into it, removes the child's file, links the parent's file under
//! the child's name, rewrites the child's metadata, and removes the parent's three files (longhorn-engine
//! `pkg/replica/replica.go`, `ReplaceDisk`, and `pkg/sync`). At every moment the volume reads right.

use crate::format::names::DiskKind;
use crate::model::finding::{Code, Finding};
use crate::replica::decide::short;
use crate::replica::doctor::{names_of, on_all};
use crate::replica::inventory::{Disk, Doc, Inventory};
use crate::replica::source::folded_into;

const RIGHT: &str = "all of its data is in the other one, and the content is right";

pub(super) fn examine(inventory: &Inventory) -> Vec<Finding> {
    let mut findings: Vec<_> = inventory.disks.values().filter_map(|disk| purge(inventory, disk)).collect();
    findings.extend(inventory.shared_files().into_iter().map(|names| shared(inventory, names)));
    findings
}

/// The step of a purge that a layer was left in.
fn purge(inventory: &Inventory, disk: &Disk) -> Option<Finding> {
    if disk.kind != DiskKind::Snapshot {
        return None;
    }
    let cut =
        |what: String, meaning: &str| Some(Finding::new(Code::PurgeCutShort, what, meaning).on(&disk.name));
    let name = short(&disk.name);
    match (&disk.kept_image(), &disk.meta) {
        (None, Doc::Good(meta)) => {
            if let Some(parent) = folded_into(inventory, disk) {
                let into = short(&parent.name);
                return cut(
                    format!(
                        "a purge was cut short after it folded snapshot {name} into {into}, with {name}'s file {}",
                        if disk.is_emptied() { "gone and made anew, empty" } else { "gone" }
                    ),
                    RIGHT,
                );
            }
            if !meta.removed || disk.image.is_some() || inventory.children(&disk.name).next().is_some() {
                return None;
            }
            cut(
                format!(
                    "a purge was cut short at its last step: only the metadata of snapshot {name} is left"
                ),
                "the snapshot is gone, as it should be; the content is right",
            )
        }
        (None, Doc::Absent) if disk.has_checksum && disk.image.is_none() => cut(
            format!("a purge was cut short at its last step: only the checksum of snapshot {name} is left"),
            "the snapshot is gone, as it should be; the content is right",
        ),
        (Some(_), Doc::Good(meta)) => {
            let folded = inventory.twins(disk).find(|twin| is_folded(inventory, disk, twin))?;
            let before = if meta.parent == folded.name {
                "before its metadata was rewritten"
            } else {
                "before the purged one was removed"
            };
            cut(
                format!(
                    "a purge was cut short after it folded snapshot {name} into {}, {before}",
                    short(&folded.name)
                ),
                "both are one file, which counts once; the content is right",
            )
            .map(|finding| finding.on(&folded.name))
        }
        _ => None,
    }
}

/// Whether a purge folded `child` into `parent`, which is Removed, and has linked its file under the child's name: the child
/// stands on it, or, once its metadata is rewritten, on what that stands on. The child may be Removed as well.
fn is_folded(inventory: &Inventory, child: &Disk, parent: &Disk) -> bool {
    let (Some(upper), Some(lower)) = (child.meta.good(), parent.meta.good()) else { return false };
    let alone = || inventory.children(&parent.name).next().is_none();
    lower.removed
        && (upper.parent == parent.name
            || upper.parent == lower.parent && is_upper(inventory, child) && alone())
}

/// Whether a layer is not the one of a purged pair that is about to go.
fn is_upper(inventory: &Inventory, disk: &Disk) -> bool {
    !disk.is_removed() || inventory.children(&disk.name).next().is_some()
}

/// One file under several names.
fn shared(inventory: &Inventory, names: &[String]) -> Finding {
    let disks: Vec<&Disk> = names.iter().filter_map(|name| inventory.disks.get(name)).collect();
    let heads = disks.iter().filter(|disk| disk.kind == DiskKind::Head).count();
    let purged = match disks[..] {
        [a, b] => is_folded(inventory, a, b) || is_folded(inventory, b, a),
        _ => false,
    };
    let what = format!("{} are one file", names_of(names));
    let finding = if purged || disks.len() == 2 && heads == 1 {
        Finding::new(
            Code::SameFile,
            what,
            "the engine links files while it takes or purges a snapshot; their space is taken once",
        )
    } else {
        Finding::new(
            Code::UnexplainedLink,
            what,
            "no operation of the engine leaves this behind: a tool that links equal files was here, and writing to \
             one of them changes the other",
        )
        .advise("do not let the engine open this replica; copy it first with a tool that keeps holes (tar -S)")
    };
    on_all(finding, names.to_vec())
}
