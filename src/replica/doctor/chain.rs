//! Findings about the chain: where it breaks, what its layers lack, and what is off it.

use std::collections::HashMap;

use crate::format::layer_meta::LayerMeta;
use crate::format::names::DiskKind;
use crate::model::chain::{Chain, ChainFault};
use crate::model::finding::{Code, Finding};
use crate::replica::decide::short;
use crate::replica::inventory::{Disk, Doc, Inventory};
use crate::replica::source::is_lost;

pub(super) fn examine(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let mut findings: Vec<_> = chain.fault.iter().filter_map(|fault| broken(inventory, fault)).collect();
    for name in &chain.layers {
        findings.extend(inventory.disks.get(name).and_then(|disk| on_chain(inventory, disk)));
    }
    findings.extend(past_the_end(inventory, chain));
    findings.extend(cut_short(inventory, chain));
    findings.extend(ends_early(inventory, chain));
    for disk in inventory.disks.values().filter(|disk| !chain.contains(&disk.name)) {
        findings.extend(off_chain(inventory, chain, disk));
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
    let name = &disk.name;
    let irregular = disk.image.is_some_and(|image| !image.regular);
    if !irregular && !is_lost(inventory, disk) {
        return None;
    }
    let finding = if disk.is_emptied() {
        emptied(disk)
    } else if irregular {
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

/// A layer that an engine has made anew in the place of a lost one. Only writes make such a file longer.
fn emptied(disk: &Disk) -> Finding {
    let name = &disk.name;
    if disk.kind == DiskKind::Head {
        Finding::new(
            Code::HeadDataEmpty,
            format!("the head {name} has no bytes at all"),
            "this is how the engine makes a lost head anew: what was written since the last snapshot is gone from here, \
             and old data is served as new",
        )
        .advise("keep the engine away from this replica; use another one, or the last snapshot with --at")
    } else {
        Finding::new(
            Code::LayerDataEmpty,
            format!("{name} has no bytes at all"),
            "this is how the engine makes a lost layer anew: what was written in its time is gone from here, and older \
             data is served in its place",
        )
        .advise("keep the engine away from this replica, and use another one; what is below it can be had with --at")
    }
}

/// Layers that are shorter than what they stand on: a volume only grows, and a purge keeps it so.
fn cut_short(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let named_head = inventory.volume_meta.good().map(|meta| meta.head.as_str());
    let size = |name: &String| {
        let image = inventory.disks.get(name)?.kept_image().filter(|image| image.regular)?;
        Some(image.size_bytes)
    };
    let pairs = chain.layers.iter().zip(chain.layers.iter().skip(1));
    let mut findings = Vec::new();
    for (upper, lower) in pairs.filter(|(upper, _)| named_head != Some(upper.as_str())) {
        let (Some(has), Some(below)) = (size(upper), size(lower)) else { continue };
        if has < below {
            findings.push(
                Finding::new(
                    Code::LayerCutShort,
                    format!("{upper} has {has} bytes, and {lower} below it {below}"),
                    "no engine makes a layer shorter than what it stands on: its end is lost, and reads as older data",
                )
                .on(upper)
                .advise("compare with another replica; what is below it can be had with --at"),
            );
        }
    }
    findings
}

/// Snapshots that stand on another lowest layer than the chain. A volume has one, whatever was reverted or purged. Two are
/// what a rebuild leaves that has not come to its end, whose own snapshot stands on nothing, and the flag that says so is
/// lost with `volume.meta`.
fn ends_early(inventory: &Inventory, chain: &Chain) -> Option<Finding> {
    let lowest = chain.layers.last().filter(|_| chain.is_whole())?;
    let chains = inventory.disks.get(lowest)?;
    // A restore puts a lowest layer of its own beside what there was.
    let restored = |disk: &Disk| disk.meta.good().is_some_and(LayerMeta::is_bare);
    if inventory.told().is_some_and(|meta| meta.rebuilding) || restored(chains) {
        return None;
    }
    let mut others = inventory.disks.values().filter(|disk| {
        let Some(meta) = disk.meta.good().filter(|_| disk.kind == DiskKind::Snapshot) else { return false };
        let in_the_making = disk.is_same_image(chains) || meta.name == *lowest;
        meta.parent.is_empty()
            && disk.kept_image().is_some()
            && !(chain.contains(&disk.name) || meta.removed || restored(disk) || in_the_making)
    });
    let other = others.next()?;
    let finding = Finding::new(
        Code::ChainEndsEarly,
        format!("the chain ends at {lowest}, while snapshot {} stands on nothing either", short(&other.name)),
        "a volume has one lowest layer: the replica may have been in the middle of a rebuild, with most of the volume still \
         missing, and the flag that says so is lost",
    );
    Some(finding.on(lowest).on(&other.name).advise("use another replica, or compare this one with it first"))
}

fn past_the_end(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let size = inventory.volume_meta.good().and_then(|meta| u64::try_from(meta.size_bytes).ok());
    let Some(size) = size.filter(|size| *size > 0) else { return Vec::new() };
    let named_head = inventory.volume_meta.good().map(|meta| meta.head.as_str());
    let mut findings = Vec::new();
    for disk in chain.layers.iter().filter_map(|name| inventory.disks.get(name)) {
        let Some(image) = disk.image.filter(|image| image.regular) else { continue };
        let is_head = named_head == Some(disk.name.as_str());
        if is_head && image.size_bytes != size && !disk.is_emptied() {
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
fn off_chain(inventory: &Inventory, chain: &Chain, disk: &Disk) -> Option<Finding> {
    let name = &disk.name;
    match (&disk.image, &disk.meta) {
        (None, Doc::Good(_)) if disk.kind != DiskKind::Head && is_lost(inventory, disk) => Some(
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
        // So is one that a blank head off the chain stands on, where a copy has broken the link.
        (Some(_), Doc::Absent) if carries_new_head(inventory, chain, disk) => None,
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

fn carries_new_head(inventory: &Inventory, chain: &Chain, disk: &Disk) -> bool {
    let new = |child: &Disk| child.kind == DiskKind::Head && child.is_blank() && !chain.contains(&child.name);
    inventory.children(&disk.name).any(new)
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
