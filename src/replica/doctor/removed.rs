//! Removed snapshots: deleted, and not purged yet.
//!
//! On the chain their data counts as any other's. Their own view may be damaged: a purge folds the next snapshot
//! into them piece by piece, a prune punches out what the head hides, and an unmap punches through them.

use crate::format::names::DiskKind;
use crate::model::chain::Chain;
use crate::model::finding::{Code, Finding};
use crate::replica::decide::short;
use crate::replica::doctor::{names_of, on_all};
use crate::replica::inventory::{Disk, Inventory};

pub(super) fn examine(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut folded = Vec::new();
    for (i, name) in chain.layers.iter().enumerate().skip(1) {
        let Some(disk) = inventory.disks.get(name).filter(|disk| disk.is_removed()) else { continue };
        let child = inventory.disks.get(&chain.layers[i - 1]);
        if child.is_some_and(|child| child.kind == DiskKind::Head) {
            findings.push(behind_head(disk));
        } else {
            folded.push(name.clone());
        }
    }
    if !folded.is_empty() {
        let finding = Finding::new(
            Code::RemovedLayer,
            format!("removed, and still on the chain: {}", names_of(&folded)),
            "their data counts, and the volume is right, even if a purge died while it folded another snapshot into \
             one of them; their own view may be a mix",
        )
        .advise("do not use them with --at");
        findings.push(on_all(finding, folded));
    }
    findings.extend(leaves(inventory, chain));
    findings
}

fn behind_head(disk: &Disk) -> Finding {
    Finding::new(
        Code::RemovedBehindHead,
        format!("snapshot {}, below the head, is removed", short(&disk.name)),
        "a prune, finished or cut short, punches out of it what the head hides, and an unmap may have, too: the \
         volume is right, and the snapshot's own view need not be",
    )
    .on(&disk.name)
    .advise("do not use it with --at")
}

fn leaves(inventory: &Inventory, chain: &Chain) -> Option<Finding> {
    let leaf = |disk: &&Disk| {
        disk.is_removed()
            && disk.image.is_some()
            && !chain.contains(&disk.name)
            && inventory.children(&disk.name).next().is_none()
            && inventory.twins(disk).next().is_none()
    };
    let names: Vec<_> = inventory.disks.values().filter(leaf).map(|disk| disk.name.clone()).collect();
    if names.is_empty() {
        return None;
    }
    let finding = Finding::new(
        Code::RemovedLeaf,
        format!("removed, with nothing on top, waiting for a purge: {}", names_of(&names)),
        "the volume does not need them",
    );
    Some(on_all(finding, names))
}
