//! What is on the device, and what that means: a file system is made, or the one that is there is kept.

use std::path::Path;

use super::target::TargetDevice;
use super::{FilesOptions, Origin, check};
use crate::access::volume::Volume;
use crate::error::{Error, Result};
use crate::guest::facts::Journal;
use crate::guest::{self, Guest, GuestKind, geometry};
use crate::model::finding::{Code, Finding};
use crate::sink::contents::Contents;
use crate::sink::guard::GuardedDevice;
use crate::sys::device::Identity;
use crate::workflow::inject::grow::Growth;
use crate::workflow::inject::identity::{self, Inside, Met};
use crate::workflow::inject::luks;
use crate::workflow::mount::file_system::FileSystem;

/// What becomes of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// A file system like the source's is made.
    Make,
    /// The one that is there is kept.
    Keep(FileSystem),
}

/// A device that was looked at, and is not held now.
pub struct Place {
    pub device: TargetDevice,
    pub identity: Identity,
    pub before: String,
    /// What is on it, by what that says of itself.
    pub inside: Option<Inside>,
    /// Whether it carries anything.
    pub is_used: bool,
    pub plan: Plan,
    /// Bytes of the device beyond the file system that is there.
    pub surplus_bytes: u64,
    pub findings: Vec<Finding>,
}

impl Place {
    /// Looks at the device.
    ///
    /// # Errors
    /// As the guard; `Refused` when it carries what would be lost, and there is no leave.
    pub fn look(target: &Path, volume: &Volume, from: &Origin, options: &FilesOptions) -> Result<Self> {
        let source = volume.identity();
        let needed_bytes = from.inside.disk.size_bytes();
        let (device, held) = TargetDevice::take(target, needed_bytes, &source, options.leave.any_device)?;
        let head = head_of(&held)?;
        let guest = guest::recognise(&head);
        let is_mapping = held.is_crypt_mapping();
        let carries_data = held.contents() != Contents::Nothing;
        luks::refuse_mismatch(
            target,
            from.inside.guest,
            guest,
            carries_data,
            is_mapping,
            options.allow_luks_mismatch,
        )?;
        let plan = plan_for(target, held.contents(), guest, options)?;
        let size_bytes = geometry::of(&head).map(|geometry| geometry.size_bytes());
        let surplus_bytes = match (plan, size_bytes) {
            (Plan::Keep(_), Some(size_bytes)) => held.device().size_bytes().saturating_sub(size_bytes),
            _ => 0,
        };
        let mut findings: Vec<_> = held.findings();
        // That the device is larger than the volume matters where the volume is copied to it.
        findings.retain(|finding| finding.code != Code::DeviceLarger);
        let file_system = match plan {
            Plan::Make => from.file_system,
            Plan::Keep(file_system) => file_system,
        };
        if !check::must_have(file_system.name, &options.tools)? {
            findings.push(unchecked(file_system));
        }
        let place = Place {
            device,
            identity: held.identity().clone(),
            before: held.contents().to_string(),
            inside: inside_of(&held),
            is_used: carries_data,
            plan,
            // Less than what a file system leaves at its end in any case does not count.
            surplus_bytes: if surplus_bytes < MIN_SURPLUS_BYTES { 0 } else { surplus_bytes },
            findings,
        };
        if let (true, Some(growth)) = (place.growth_bytes(options) > 0, place.growth()) {
            growth.check_available(&options.tools)?;
        }
        Ok(place)
    }

    /// What the device is before anything is written.
    pub fn met(&self) -> Met {
        Met { device: Some(self.identity.clone()), before: self.before.clone(), inside: self.inside.clone() }
    }

    /// By how many bytes the file system that is there is to grow.
    pub fn growth_bytes(&self, options: &FilesOptions) -> u64 {
        if options.grow && self.growth().is_some() { self.surplus_bytes } else { 0 }
    }

    /// Whether files may show on it once its journal is played back.
    pub fn has_pending_journal(&self) -> bool {
        let journal = self.inside.as_ref().map(|inside| inside.journal);
        self.plan != Plan::Make && !matches!(journal, Some(Journal::None | Journal::Clean))
    }

    /// How the file system that is there can grow, if it is to be kept.
    pub fn growth(&self) -> Option<Growth> {
        match self.plan {
            Plan::Keep(file_system) => Growth::of(file_system.name),
            Plan::Make => None,
        }
    }
}

/// A group of ext takes 8 MiB at least.
const MIN_SURPLUS_BYTES: u64 = 8 << 20;

fn plan_for(target: &Path, contents: Contents, guest: Option<Guest>, options: &FilesOptions) -> Result<Plan> {
    if contents == Contents::Nothing {
        return Ok(Plan::Make);
    }
    if guest.is_some_and(|guest| guest.kind == GuestKind::FileSystem) {
        let writable = ["ext4", "xfs", "btrfs", "f2fs"];
        return match FileSystem::of(guest).filter(|known| writable.contains(&known.name)) {
            Some(known) => Ok(Plan::Keep(known)),
            None => Err(Error::refused(format!("the device carries data ({contents}), which is no place for the volume's files"))
                .with_path(target)
                .with_hint("if nothing on it is needed, remove its signature (wipefs --all) and inject again: a file system is made")),
        };
    }
    if options.leave.overwrite {
        return Ok(Plan::Make);
    }
    Err(Error::refused(format!(
        "the device carries data ({contents}), and no file system: making one would destroy it"
    ))
    .with_path(target)
    .with_hint("if all of it may be lost, give leave with --overwrite"))
}

/// The beginning of a device.
pub fn head_of(held: &GuardedDevice) -> Result<Vec<u8>> {
    let device = held.device();
    guest::head(device.size_bytes(), |buf, at| device.read_exact_at(buf, at))
}

/// What is on a device by what it says of itself.
pub fn inside_of(held: &GuardedDevice) -> Option<Inside> {
    let device = held.device();
    identity::inside(device.size_bytes(), |buf, at| device.read_exact_at(buf, at))
}

fn unchecked(file_system: FileSystem) -> Finding {
    Finding::new(
        Code::NotChecked,
        format!("there is no checker for the device's {} file system", file_system.name),
        "whether it is sound in the end is not known",
    )
    .advise("--verify compares the content of both sides")
}
