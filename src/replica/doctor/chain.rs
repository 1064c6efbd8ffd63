//! Findings about the chain: where it breaks, what its layers lack, and what is off it.

use std::collections::HashMap;

use crate::format::names::DiskKind;
use crate::model::chain::{Chain, ChainFault};
use crate::model::finding::{Code, Finding};
use crate::replica::decide::short;
use crate::replica::inventory::{Disk, Doc, Inventory};
use crate::replica::source::is_dispensable;

pub(super) fn examine(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let mut findings: Vec<_> = chain.fault.iter().filter_map(|fault| broken(inventory, fault)).collect();
    for name in &chain.layers {
        findings.extend(inventory.disks.get(name).and_then(|disk| on_chain(inventory, disk)));
    }
    findings.extend(past_the_end(inventory, chain));
    for disk in inventory.disks.values().filter(|disk| !chain.contains(&disk.name)) {
        findings.extend(off_chain(inventory, disk));
    }
    findings.extend(broken_branches(inventory, chain));
    findings
}

/// A chain that cannot be followed. Damaged metadata is reported where metadata is.
fn broken(inventory: &Inventory, fault: &ChainFault) -> Option<Finding> {
    let (code, files) = match fault {
        ChainFault::DamagedMeta { .. } => return None,
        ChainFault::NoMeta { layer, child } => {
            let has_data = inventory.disks.get(layer).is_some_and(|disk| disk.image.is_some());
            let code = match (has_data, child) {
                (true, _) => Code::LayerMetaMissing,
                (false, Some(_)) => Code::ParentMissing,
                (false, None) => Code::HeadMissing,
            };
            (code, [child.clone(), Some(layer.clone())].into_iter().flatten().collect())
        }
        ChainFault::SelfParent { layer } => (Code::SelfParent, vec![layer.clone()]),
        ChainFault::Cycle { layers } => (Code::ChainCycle, layers.clone()),
        ChainFault::UnsafeName { child, .. } => (Code::UnsafeName, child.iter().cloned().collect()),
        ChainFault::TooLong { .. } => (Code::ChainTooLong, Vec::new()),
    };
    let mut finding = Finding::new(
        code,
        fault.to_string(),
        "the state on top of it cannot be put together from this directory",
    )
    .advise("use another replica; snapshots below the break can be had with --at");
    finding.files = files;
    Some(finding)
}

fn on_chain(inventory: &Inventory, disk: &Disk) -> Option<Finding> {
    if disk.image.is_some_and(|image| image.regular) || is_dispensable(inventory, disk) {
        return None;
    }
    let name = &disk.name;
    let finding = if disk.image.is_some() {
        Finding::new(
            Code::LayerDataMissing,
            format!("{name} is not a regular file"),
            "links are not followed",
        )
    } else if disk.kind == DiskKind::Head {
        Finding::new(
            Code::HeadDataMissing,
            format!("the head {name} has metadata and no data"),
            "everything written since the last snapshot is gone from here; the engine would quietly make an empty \
             head and serve old data as new",
        )
        .advise("keep the engine away from this replica; use another one, or the last snapshot with --at")
    } else {
        Finding::new(
            Code::LayerDataMissing,
            format!("{name} has metadata and no data"),
            "what was written in its time is gone from here; the engine would quietly make an empty file and serve \
             older data",
        )
        .advise("keep the engine away from this replica, and use another one")
    };
    Some(finding.on(name))
}

fn past_the_end(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let size = inventory.volume_meta.good().and_then(|meta| u64::try_from(meta.size_bytes).ok());
    let Some(size) = size.filter(|size| *size > 0) else { return Vec::new() };
    let named_head = inventory.volume_meta.good().map(|meta| meta.head.as_str());
    let mut findings = Vec::new();
    for disk in chain.layers.iter().filter_map(|name| inventory.disks.get(name)) {
        let Some(image) = disk.image.filter(|image| image.regular) else { continue };
        let is_head = named_head == Some(disk.name.as_str());
        if is_head && image.size_bytes != size {
            findings.push(
                Finding::new(
                    Code::HeadSizeDiffers,
                    format!("the head has {} bytes, and volume.meta says {size}", image.size_bytes),
                    "the engine makes both alike; the volume is taken to be as long as volume.meta says, and what \
                     the head lacks reads as older data or zeros",
                )
                .on(&disk.name)
                .advise("compare with the size of the volume in the cluster; --size sets another"),
            );
        } else if !is_head && image.size_bytes > size {
            findings.push(
                Finding::new(
                    Code::LayerPastEnd,
                    format!("{} has {} bytes, and the volume only {size}", disk.name, image.size_bytes),
                    "volumes never shrink, so the size may be wrong; what is past it is left out",
                )
                .on(&disk.name)
                .advise("compare with the size of the volume in the cluster; --size sets another"),
            );
        }
    }
    findings
}

/// A layer off the chain that lacks half of itself. What a crash leaves behind is named elsewhere.
fn off_chain(inventory: &Inventory, disk: &Disk) -> Option<Finding> {
    let name = &disk.name;
    match (&disk.image, &disk.meta) {
        (None, Doc::Good(_)) if disk.kind != DiskKind::Head && !is_dispensable(inventory, disk) => Some(
            Finding::new(
                Code::BranchDataMissing,
                format!("{name} is off the chain, and has metadata and no data"),
                "this snapshot cannot be had from here; the state examined does not need it",
            )
            .on(name),
        ),
        (Some(image), Doc::Absent) if !image.regular => None,
        // A link to the head is a snapshot in the making; a blank head a snapshot or revert in the making.
        (Some(_), Doc::Absent) if inventory.twins(disk).next().is_some() => None,
        (Some(_), Doc::Absent) if disk.kind == DiskKind::Head && disk.is_blank() => None,
        (Some(_), Doc::Absent) if is_restore(inventory, disk) => Some(
            Finding::new(
                Code::RestoreCutShort,
                format!("{name} has data and no metadata, beside an empty head: a restore was cut short"),
                "the volume is empty, and the snapshot holds a part of the backup",
            )
            .on(name)
            .advise("restore the backup again"),
        ),
        (Some(_), Doc::Absent) => Some(
            Finding::new(
                Code::ImageWithoutMeta,
                format!("{name} has data and no metadata"),
                "where in the chain it belongs is not known; the state examined does not need it",
            )
            .on(name),
        ),
        (Some(_), Doc::Good(meta))
            if meta.is_bare() && meta.parent.is_empty() && head_is_alone(inventory) =>
        {
            Some(
                Finding::new(
                    Code::RestoreCutShort,
                    format!("{name} was restored or cloned, and the empty head does not stand on it"),
                    "the volume reads as empty; what was restored is in the snapshot",
                )
                .on(name)
                .advise(format!("read the snapshot: --at {}", short(name))),
            )
        }
        _ => None,
    }
}

fn is_restore(inventory: &Inventory, disk: &Disk) -> bool {
    disk.kind == DiskKind::Snapshot && head_is_alone(inventory)
}

/// Whether the head is blank and stands on nothing: a volume that was made for a restore or as a clone.
fn head_is_alone(inventory: &Inventory) -> bool {
    let named = inventory.volume_meta.good().and_then(|meta| inventory.disks.get(&meta.head));
    named.is_some_and(|head| head.is_blank() && head.meta.good().is_some_and(|meta| meta.parent.is_empty()))
}

/// Snapshots off the chain whose own chain does not come to an end. Each layer is passed once.
fn broken_branches(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let mut whole: HashMap<&str, bool> = HashMap::new();
    let mut findings = Vec::new();
    let snapshots =
        inventory.disks.values().filter(|disk| disk.kind != DiskKind::Head && disk.meta.good().is_some());
    for disk in snapshots.filter(|disk| !chain.contains(&disk.name)) {
        let mut path: Vec<&Disk> = Vec::new();
        let mut next = Some(disk);
        let verdict = loop {
            let Some(layer) = next else { break false };
            if let Some(known) = whole.get(layer.name.as_str()) {
                break *known;
            }
            // Until the verdict is known, coming back here is a cycle.
            whole.insert(&layer.name, false);
            path.push(layer);
            match layer.meta.good() {
                None => break false,
                Some(meta) if meta.parent.is_empty() => break true,
                Some(meta) => next = inventory.disks.get(&meta.parent),
            }
        };
        let first_broken = !verdict && !path.is_empty();
        for layer in path {
            whole.insert(&layer.name, verdict);
        }
        if first_broken && !joins_broken(disk, chain) {
            findings.push(
                Finding::new(
                    Code::BranchBroken,
                    format!("the chain of snapshot {} cannot be followed to its end", short(&disk.name)),
                    "this snapshot cannot be had from here; the state examined does not need it",
                )
                .on(&disk.name),
            );
        }
    }
    findings
}

/// Whether the branch joins the examined chain, whose own break is reported already.
fn joins_broken(disk: &Disk, chain: &Chain) -> bool {
    !chain.is_whole() && disk.meta.good().is_some_and(|meta| chain.contains(&meta.parent))
}
