//! Which state of the volume, how long, through which head: by `volume.meta`, or by hand where it cannot tell.
//!
//! Whatever is missing is proposed in the hint, with what speaks for it; nothing is guessed in silence.

use crate::error::{Error, Result};
use crate::format::names::{self, DiskKind};
use crate::format::volume_meta::{self, VolumeMeta};
use crate::model::chain::{ChainFault, NotFound, find_snapshot};
use crate::model::finding::{Code, Finding};
use crate::model::units::MAX_VOLUME_BYTES;
use crate::replica::inventory::{Disk, Doc, Inventory};
use crate::replica::source::{SourceOptions, View, is_purged};
use crate::replica::{ReplicaDir, head};

/// What to do about a file that only somebody else may read.
pub(crate) const RUN_AS_ROOT: &str =
    "nothing is known to be wrong with it: replicas belong to root, so run as root";

/// What is decided before any layer is opened.
pub(super) struct Decision {
    pub(super) view: View,
    pub(super) volume_bytes: u64,
    pub(super) head_by_volume_meta: bool,
    pub(super) findings: Vec<Finding>,
}

impl ReplicaDir {
    /// Which state, and how large.
    pub(super) fn decide(&self, options: &SourceOptions) -> Result<Decision> {
        let inventory = self.inventory();
        let view_at = options.at.as_deref().map(|wanted| self.view_at(wanted)).transpose()?;
        let mut findings = Vec::new();
        let known = inventory.volume_meta.good();
        let by_hand = view_at.is_some() || options.head.is_some();
        if known.is_none() && !(by_hand && options.size_bytes.is_some()) {
            return Err(self.untold(view_at.as_ref()));
        }
        if let Some(trouble) = inventory.volume_meta.trouble() {
            findings.push(
                Finding::new(
                    Code::ChosenByHand,
                    format!("volume.meta {trouble}: head and size are as given by hand"),
                    "whether the replica was being rebuilt, and whether the volume stands on a backing image, is \
                     not known beyond what can still be read of it; if either is so, the result is wrong",
                )
                .on(volume_meta::FILE_NAME)
                .advise("compare with another replica; if the volume had a backing image, name it with --backing-file"),
            );
        }
        let meta = known.cloned().unwrap_or_default();
        let volume_bytes = self.volume_bytes(options.size_bytes, &meta, &mut findings)?;
        let head_by_volume_meta = !by_hand;
        let view = match view_at {
            Some(view) => view,
            None => View::Head(self.head(options.head.as_deref(), &meta, &mut findings)?),
        };
        Ok(Decision { view, volume_bytes, head_by_volume_meta, findings })
    }

    /// The state that `--at` means.
    fn view_at(&self, wanted: &str) -> Result<View> {
        let file = self.find_layer(wanted)?;
        Ok(match names::disk_kind(file) {
            DiskKind::Head => View::Head(file.to_owned()),
            _ => View::Snapshot(file.to_owned()),
        })
    }

    /// The file name of the layer that `wanted` means: a snapshot's name, a file name, or the beginning of either.
    ///
    /// # Errors
    /// `Usage` when none or several could be meant; the hint names what is there.
    pub fn find_layer(&self, wanted: &str) -> Result<&str> {
        let disks = &self.inventory().disks;
        // What a purge has left of a snapshot makes no beginning ambiguous.
        let meant = disks
            .values()
            .filter(|disk| disk.name == wanted || short(&disk.name) == wanted || !self.is_gone(disk));
        let found =
            find_snapshot(wanted, meant.map(|disk| disk.name.as_str())).or_else(
                |not_found| match not_found {
                    NotFound::Nothing => find_snapshot(wanted, disks.keys().map(String::as_str)),
                    ambiguous => Err(ambiguous),
                },
            );
        found.map_err(|not_found| match not_found {
            NotFound::Ambiguous(candidates) => {
                Error::usage(format!("{wanted:?} could mean {} snapshots", candidates.len()))
                    .with_hint(format!("one of: {}", list(candidates.iter().map(|c| short(c)))))
            }
            NotFound::Nothing => {
                let there = disks.keys().filter_map(|disk| names::snapshot_name(disk));
                Error::usage(format!("there is no snapshot {wanted:?}"))
                    .with_path(self.path())
                    .with_hint(format!("the replica has: {}", list(there)))
            }
        })
    }

    /// Whether nothing but a checksum, or the metadata of a purged snapshot, is left of a layer.
    fn is_gone(&self, disk: &Disk) -> bool {
        disk.image.is_none() && (matches!(disk.meta, Doc::Absent) || is_purged(self.inventory(), disk))
    }

    /// `volume.meta` cannot be used and not everything was given by hand.
    fn untold(&self, view: Option<&View>) -> Error {
        let inventory = self.inventory();
        let trouble = inventory.volume_meta.trouble().unwrap_or_default();
        let error = Error::source(format!("volume.meta {trouble}"))
            .with_path(self.path().join(volume_meta::FILE_NAME));
        if inventory.volume_meta.is_denied() {
            return error.with_hint(RUN_AS_ROOT);
        }
        let hint = match (view, head::propose(inventory)) {
            (Some(_), _) => match head::propose_size(inventory) {
                Some(size) => format!("say how large the volume is: --size {size} is likely"),
                None => "say how large the volume is, in bytes: --size N".to_owned(),
            },
            (None, Some(likely)) => {
                format!("likely: --head {} --size {} ({})", likely.head, likely.size_bytes, likely.why)
            }
            (None, None) => {
                "no head has both data and metadata: try another replica, or a snapshot (--at NAME --size N)"
                    .to_owned()
            }
        };
        error.with_hint(hint)
    }

    /// The volume's size, given by hand or told by `volume.meta`.
    fn volume_bytes(
        &self,
        by_hand: Option<u64>,
        meta: &VolumeMeta,
        findings: &mut Vec<Finding>,
    ) -> Result<u64> {
        if let Some(size) = by_hand {
            judge_size(i128::from(size)).map_err(|why| Error::usage(format!("--size {size} {why}")))?;
            if self.inventory().volume_meta.good().is_some()
                && i128::from(size) != i128::from(meta.size_bytes)
            {
                findings.push(
                    Finding::new(
                        Code::ChosenByHand,
                        format!(
                            "the size is {size} bytes as given by hand; volume.meta says {}",
                            meta.size_bytes
                        ),
                        "a smaller size cuts the volume's end off, a larger one adds zeros",
                    )
                    .on(volume_meta::FILE_NAME),
                );
            }
            return Ok(size);
        }
        judge_size(i128::from(meta.size_bytes)).map_err(|why| {
            let error = Error::source(format!("the Size in volume.meta, {}, {why}", meta.size_bytes))
                .with_path(self.path().join(volume_meta::FILE_NAME));
            match head::propose_size(self.inventory()) {
                Some(size) => error.with_hint(format!("give it by hand: --size {size} is likely")),
                None => error.with_hint("give it by hand, in bytes: --size N"),
            }
        })
    }

    /// The head's file name, given by hand or told by `volume.meta`; it is there, with metadata.
    fn head(&self, by_hand: Option<&str>, meta: &VolumeMeta, findings: &mut Vec<Finding>) -> Result<String> {
        let inventory = self.inventory();
        let there = |name: &str| inventory.disks.get(name).is_some_and(|d| d.meta.trouble().is_none());
        if let Some(head) = by_hand {
            if !inventory.disks.contains_key(head) {
                return Err(Error::usage(format!("there is no head {head:?}"))
                    .with_path(self.path())
                    .with_hint(format!("the replica has: {}", list(inventory.heads().map(|h| &*h.name)))));
            }
            if inventory.volume_meta.good().is_some() && meta.head != head {
                findings.push(
                    Finding::new(
                        Code::ChosenByHand,
                        format!("the head is {head} as given by hand; volume.meta says {:?}", meta.head),
                        "the engine would read another state of the volume",
                    )
                    .on(head)
                    .advise("compare both states before you trust one"),
                );
            }
            return Ok(head.to_owned());
        }
        if there(&meta.head) || inventory.disks.get(&meta.head).is_some_and(|d| d.image.is_some()) {
            return Ok(meta.head.clone());
        }
        let error = Error::source(format!("the head that volume.meta names, {:?}, is not there", meta.head))
            .with_path(self.path());
        Err(match head::propose(inventory) {
            Some(likely) => error.with_hint(format!("likely: --head {} ({})", likely.head, likely.why)),
            None => error.with_hint(match inventory.remembered_parent() {
                Some(below) => format!("try another replica, or the last snapshot: --at {}", short(below)),
                None => "try another replica, or a snapshot with --at".to_owned(),
            }),
        })
    }

    /// A chain that cannot be followed, as an error.
    pub(super) fn broken(&self, fault: &ChainFault) -> Error {
        let error = Error::source(fault.to_string()).with_path(self.path());
        match fault {
            ChainFault::DamagedMeta { layer } => {
                let disk = self.inventory().disks.get(layer);
                let trouble = disk.and_then(|disk| disk.meta.trouble()).unwrap_or_default();
                Error::source(format!("broken chain: {layer}.meta {trouble}"))
                    .with_path(self.path())
                    .with_hint(disk.map_or_else(String::new, |disk| below_damage(self.inventory(), disk)))
            }
            ChainFault::TooLong { .. } => error.with_hint("a snapshot further down can be had with --at"),
            _ => {
                error.with_hint("another replica may be whole; what is below the break can be had with --at")
            }
        }
    }
}

/// What to do without the metadata of a layer of the chain.
pub(crate) fn below_damage(inventory: &Inventory, disk: &Disk) -> String {
    let named_head = inventory.told().is_some_and(|meta| meta.head == disk.name);
    match inventory.remembered_parent().filter(|_| named_head) {
        _ if disk.meta.is_denied() => RUN_AS_ROOT.to_owned(),
        Some(below) => format!(
            "another replica may be whole; volume.meta says that this head stands on snapshot {0}, which can be had with \
             --at {0}",
            short(below)
        ),
        None => "what is below this layer is not known: another replica may be whole, or a snapshot below it (--at)"
            .to_owned(),
    }
}

/// A size that a volume can have, or what is wrong with it.
pub(crate) fn judge_size(size: i128) -> std::result::Result<u64, &'static str> {
    match u64::try_from(size) {
        Err(_) => Err("is negative"),
        Ok(0) => Err("is no size"),
        Ok(size) if size > MAX_VOLUME_BYTES => Err("is more than a volume can have"),
        Ok(size) if size % 512 != 0 => Err("is not a multiple of 512, as every volume's size is"),
        Ok(size) => Ok(size),
    }
}

/// A layer's name as people use it: a snapshot's own name, else the file's.
pub(crate) fn short(file: &str) -> &str {
    names::snapshot_name(file).unwrap_or(file)
}

/// The first names of a list, for a message.
fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<_> = names.collect();
    match all.len() {
        0 => "none".to_owned(),
        len if len > SHOWN => format!("{}, and {} more", all[..SHOWN].join(", "), len - SHOWN),
        _ => all.join(", "),
    }
}
