//! What is on the device, and what that means: a file system is made, or the one that is there is kept.

use std::path::Path;

use super::target::TargetDevice;
use super::{FilesOptions, Origin};
use crate::access::volume::Volume;
use crate::error::{Error, Result};
use crate::guest::geometry;
use crate::guest::{self, Guest, GuestKind};
use crate::model::finding::{Code, Finding};
use crate::sink::contents::Contents;
use crate::sink::guard::GuardedDevice;
use crate::sys::device::Identity;
use crate::workflow::inject::grow::Growth;
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
        luks::refuse_mismatch(target, from.inside.guest, guest, is_mapping, options.allow_luks_mismatch)?;
        let plan = plan_for(target, held.contents(), guest, options)?;
        let size_bytes = geometry::of(&head).map(|geometry| geometry.size_bytes());
        let surplus_bytes = match (plan, size_bytes) {
            (Plan::Keep(_), Some(size_bytes)) => held.device().size_bytes().saturating_sub(size_bytes),
            _ => 0,
        };
        let place = Place {
            device,
            identity: held.identity().clone(),
            before: held.contents().to_string(),
            is_used: held.contents() != Contents::Nothing,
            plan,
            // Less than what a file system leaves at its end in any case does not count.
            surplus_bytes: if surplus_bytes < MIN_SURPLUS_BYTES { 0 } else { surplus_bytes },
            // That the device is larger than the volume matters where the volume is copied to it.
            findings: held.findings().into_iter().filter(|f| f.code != Code::DeviceLarger).collect(),
        };
        if let (true, Some(growth)) = (options.grow && place.surplus_bytes > 0, place.growth()) {
            growth.check_available(&options.tools)?;
        }
        Ok(place)
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
