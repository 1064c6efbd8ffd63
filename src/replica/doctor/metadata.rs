//! Findings about the small files: `volume.meta`, layer metadata, the revision counter, leftovers.

use crate::format::json::{Damage, Quirks};
use crate::format::volume_meta::VolumeMeta;
use crate::format::{copy, revision, volume_meta};
use crate::model::chain::Chain;
use crate::model::finding::{Code, Finding};
use crate::model::units::SECTOR_BYTES;
use crate::replica::decide::{RUN_AS_ROOT, below_damage, judge_size};
use crate::replica::doctor::{names_of, on_all};
use crate::replica::head;
use crate::replica::inventory::{Disk, Doc, Inventory};

pub(super) fn examine(inventory: &Inventory, chain: &Chain) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &inventory.volume_meta {
        Doc::Good(meta) => volume(inventory, meta, &mut findings),
        damaged => findings.push(no_volume_meta(inventory, damaged)),
    }
    for disk in inventory.disks.values() {
        layer(inventory, disk, chain, &mut findings);
    }
    findings.extend(revision_counter(&inventory.revision));
    findings.extend(leftovers(inventory));
    findings
}

fn no_volume_meta(inventory: &Inventory, doc: &Doc<VolumeMeta>) -> Finding {
    let code = match doc {
        Doc::Absent => Code::VolumeMetaMissing,
        Doc::Damaged(Damage::Empty) => Code::VolumeMetaEmpty,
        Doc::Damaged(Damage::Truncated) => Code::VolumeMetaTruncated,
        Doc::Damaged(Damage::Nul) => Code::VolumeMetaNul,
        Doc::Damaged(_) | Doc::Unreadable(_) | Doc::Good(_) => Code::VolumeMetaForeign,
    };
    if doc.is_denied() {
        return denied(code, volume_meta::FILE_NAME, doc);
    }
    let engine = match code {
        Code::VolumeMetaMissing | Code::VolumeMetaEmpty => {
            "the engine would guess: the first head by name, and no rebuild under way"
        }
        _ => "the engine would refuse to open the replica",
    };
    let finding = Finding::new(
        code,
        format!("volume.meta {}", doc.trouble().unwrap_or_default()),
        format!(
            "head and size are not known for certain, nor whether the replica was being rebuilt or has a backing \
             image; {engine}"
        ),
    )
    .on(volume_meta::FILE_NAME);
    match head::propose(inventory) {
        Some(likely) => finding.advise(format!(
            "prefer another replica; from this one, likely: --head {} --size {} ({})",
            likely.head, likely.size_bytes, likely.why
        )),
        None => finding.advise("use another replica: this one has no head with data and metadata"),
    }
}

/// A metadata file that only another user may read.
fn denied<T>(code: Code, file: &str, doc: &Doc<T>) -> Finding {
    let what = format!("{file} {}", doc.trouble().unwrap_or_default());
    Finding::new(code, what, "what it says is not known to this user").on(file).advise(RUN_AS_ROOT)
}

fn volume(inventory: &Inventory, meta: &VolumeMeta, findings: &mut Vec<Finding>) {
    let mut say = |finding: Finding| findings.push(finding.on(volume_meta::FILE_NAME));
    if meta.rebuilding {
        say(Finding::new(
            Code::Rebuilding,
            "the replica was being rebuilt from another one",
            "layers may be missing, half filled or old, however complete the chain looks: what it holds is not the \
             volume",
        )
        .advise("use another replica; --allow-rebuilding reads this one all the same"));
    }
    if meta.dirty {
        say(Finding::new(
            Code::Dirty,
            "the replica was not closed",
            "its engine died, or runs still; writes that were acknowledged are in the files",
        ));
    }
    if !meta.error.is_empty() {
        let text: String = meta.error.chars().take(200).collect();
        say(Finding::new(
            Code::EngineError,
            format!("the engine gave this replica up: {text:?}"),
            "it will not use it again by itself; what made it say so may have damaged the data",
        )
        .advise("prefer a replica without it"));
    }
    if meta.encrypted == Some(true) {
        say(Finding::new(
            Code::Encrypted,
            "the volume is encrypted",
            "the image is a LUKS container: its passphrase is needed to look inside",
        ));
    }
    findings.extend(size(inventory, meta));
    findings.extend(quirks(volume_meta::FILE_NAME, &meta.quirks));
}

fn size(inventory: &Inventory, meta: &VolumeMeta) -> Option<Finding> {
    let says = meta.size_bytes;
    let finding = match judge_size(i128::from(says)) {
        Ok(size) if size % SECTOR_BYTES != 0 => Finding::new(
            Code::SizeUnaligned,
            format!("the volume's size, {size} bytes, is not a multiple of {SECTOR_BYTES}"),
            "the engine cannot write the last, incomplete sector, so the size may be wrong",
        )
        .advise("compare it with the size of the volume in the cluster; --size sets another"),
        Ok(_) => return None,
        Err(why) => Finding::new(
            Code::SizeInvalid,
            format!("the Size in volume.meta, {says}, {why}"),
            "how long the volume is, is not known",
        )
        .advise(match head::propose_size(inventory) {
            Some(size) => format!("give it by hand: --size {size} is likely"),
            None => "give it by hand: --size N".to_owned(),
        }),
    };
    Some(finding.on(volume_meta::FILE_NAME))
}

fn quirks(file: &str, quirks: &Quirks) -> Vec<Finding> {
    let mut findings = Vec::new();
    if quirks.trailing_bytes > 0 {
        findings.push(Finding::new(
            Code::TrailingGarbage,
            format!("{file} goes on after its end, for {} bytes", quirks.trailing_bytes),
            "the engine reads only the first value, and so do we; but something wrote to this file that is no engine",
        ));
    }
    if !quirks.repeated.is_empty() {
        findings.push(Finding::new(
            Code::KeysRepeated,
            format!("{file} has more than one {}", names_of(&quirks.repeated)),
            "the last one counts, for the engine as for us; but no engine writes that",
        ));
    }
    if !quirks.other_case.is_empty() {
        findings.push(Finding::new(
            Code::KeysOtherCase,
            format!("{file} writes {} in another case than the engine", names_of(&quirks.other_case)),
            "the engine takes them all the same, and so do we; somebody edited this file",
        ));
    }
    if !quirks.old_keys.is_empty() {
        findings.push(Finding::new(
            Code::OldFieldNames,
            format!("{file} was written by an engine before 1.1.1: {}", names_of(&quirks.old_keys)),
            "it is understood; a newer engine would not know the backing image by it",
        ));
    }
    findings.into_iter().map(|finding| finding.on(file)).collect()
}

fn layer(inventory: &Inventory, disk: &Disk, chain: &Chain, findings: &mut Vec<Finding>) {
    let file = disk.meta_name();
    match &disk.meta {
        Doc::Good(meta) => {
            if !meta.names_parent {
                findings.push(
                    Finding::new(
                        Code::MetaWithoutParent,
                        format!("{file} names no parent, not even an empty one"),
                        "it counts as the lowest layer, for the engine as for us; if it had one, all below is lost",
                    )
                    .on(&file),
                );
            }
            findings.extend(quirks(&file, &meta.quirks));
        }
        Doc::Absent => {}
        damaged => {
            let trouble = damaged.trouble().unwrap_or_default();
            let finding = if chain.contains(&disk.name) {
                Finding::new(
                    Code::LayerMetaDamaged,
                    format!("{file} {trouble}"),
                    "what is below this layer is not known, so the state on top of it cannot be put together",
                )
                .advise(below_damage(inventory, disk))
            } else if damaged.is_denied() {
                denied(Code::StrayMetaDamaged, &file, damaged)
            } else {
                Finding::new(
                    Code::StrayMetaDamaged,
                    format!("{file} {trouble}"),
                    "it is not on the chain and does not matter here; the engine would refuse to open the replica",
                )
            };
            findings.push(match finding.files.is_empty() {
                true => finding.on(file),
                false => finding,
            });
        }
    }
}

fn revision_counter(doc: &Doc<i64>) -> Option<Finding> {
    let trouble = match doc {
        Doc::Absent | Doc::Good(_) => return None,
        hidden if hidden.is_denied() => {
            return Some(denied(Code::RevisionUnreadable, revision::FILE_NAME, hidden));
        }
        damaged => damaged.trouble().unwrap_or_default(),
    };
    let finding = Finding::new(
        Code::RevisionUnreadable,
        format!("revision.counter {trouble}"),
        "how many writes this replica saw is not known; the engine would refuse to open it. The data is not touched \
         by that",
    );
    Some(
        finding
            .on(revision::FILE_NAME)
            .advise("compare with other replicas before you trust this one to be the newest"),
    )
}

fn leftovers(inventory: &Inventory) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (tmp, scratch, foreign) = (&inventory.tmp, &inventory.restore_scratch, &inventory.foreign);
    if !tmp.is_empty() {
        let finding = Finding::new(
            Code::TmpLeftover,
            format!("metadata was being written when the engine died: {}", names_of(tmp)),
            "such files are never read; the content is right",
        );
        findings.push(on_all(finding, tmp.clone()));
    }
    if !scratch.is_empty() {
        let finding = Finding::new(
            Code::RestoreScratch,
            format!("a restore into a standby volume was under way: {}", names_of(scratch)),
            "the volume is as it was before that restore: older than the backup",
        )
        .advise("restore the backup again if you need its state");
        findings.push(on_all(finding, scratch.clone()));
    }
    if inventory.ours.iter().any(|name| name == copy::JOURNAL_NAME) {
        let finding = Finding::new(
            Code::CopyUnfinished,
            "this is a copy that lhrecover preserve has not finished",
            "files may be missing, and not all of those that are there need be of one moment",
        );
        let finding = finding.advise("run lhrecover preserve once more, with the same source");
        findings.push(finding.on(copy::JOURNAL_NAME));
    }
    if !foreign.is_empty() {
        let finding = Finding::new(
            Code::ForeignFiles,
            format!("not Longhorn's: {}", names_of(foreign)),
            "somebody put them there; they are not looked at",
        );
        findings.push(on_all(finding, foreign.clone()));
    }
    findings
}
