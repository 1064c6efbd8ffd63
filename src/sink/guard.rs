//! The one guard that stands before every device this program writes to.
//!
//! Refusals come in two sorts. What would destroy data that somebody uses (mounted, held, the source itself, too
//! small) no flag overrides. What a person may well want (a device that carries data, one that is no Longhorn
//! volume) has its flag, and the message names it. The first sort is looked at first, so that nobody is told of a
//! flag that does not help.

use std::path::Path;

use nix::libc;

use super::contents::{self, Contents};
use crate::error::{Error, Result};
use crate::model::finding::{Code, Finding};
pub use crate::sys::device::Identity;
use crate::sys::device::{Access, BlockDevice, DeviceNumber, Host, Kind, Mount, Relation, Relative};
use crate::sys::dir::FileId;
pub use crate::sys::source_identity::SourceIdentity;

/// Said where no flag helps.
const NO_FLAG: &str = "no flag overrides this";

/// What the user gave leave for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceLeave {
    /// `--overwrite`: the device may carry data.
    pub overwrite: bool,
    /// `--any-device`: it need not be a Longhorn volume.
    pub any_device: bool,
}

/// A device that may be written to. As long as this lives, the kernel keeps others from mounting or mapping it.
#[derive(Debug)]
pub struct GuardedDevice {
    device: BlockDevice,
    identity: Identity,
    kind: Kind,
    leave: DeviceLeave,
    contents: Contents,
    needed_bytes: u64,
    source: SourceIdentity,
    host: Host,
    unseen_processes: usize,
}

/// Looks at the block device at `path` and, if `needed_bytes` of an image of `source` may be written to it, takes
/// hold of it.
///
/// # Errors
/// [`ErrorKind::Refused`](crate::error::ErrorKind::Refused) with what stands against it, and the flag that gives
/// leave if there is one; [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when the device is not there or
/// cannot be looked at.
pub fn check(
    path: &Path,
    needed_bytes: u64,
    source: &SourceIdentity,
    leave: DeviceLeave,
) -> Result<GuardedDevice> {
    check_on(&Host::default(), path, needed_bytes, source, leave)
}

/// [`check`] on a machine whose `/sys`, `/proc` and `/dev` are elsewhere.
///
/// # Errors
/// As [`check`].
pub fn check_on(
    host: &Host,
    path: &Path,
    needed_bytes: u64,
    source: &SourceIdentity,
    leave: DeviceLeave,
) -> Result<GuardedDevice> {
    let looked_at = BlockDevice::open(path, Access::Look)?;
    let target = Target::new(host, &looked_at)?;
    target.refuse_source(source)?;
    target.refuse_used()?;
    let unseen_processes = target.refuse_opened()?;
    refuse_unfit(&looked_at, needed_bytes)?;
    let device = take_hold(path, looked_at.number())?;
    // Whoever came between the look and the hold shows now; nobody in the kernel can come any more.
    Target::new(host, &device)?.refuse_used()?;
    refuse_unfit(&device, needed_bytes)?;
    if !leave.any_device && !host.is_longhorn(device.number()) {
        return Err(Error::refused(
            "the device is not a Longhorn volume (nothing under /dev/longhorn is this device)",
        )
        .with_path(path)
        .with_hint("make sure it is the right one, then give leave with --any-device"));
    }
    let contents = contents::look(device.size_bytes(), |buf, at| device.read_exact_at(buf, at))?;
    refuse_data(path, contents, leave)?;
    Ok(GuardedDevice {
        leave,
        identity: host.identity(&device)?,
        kind: host.kind(device.number())?,
        contents,
        needed_bytes,
        source: source.clone(),
        host: host.clone(),
        unseen_processes,
        device,
    })
}

impl GuardedDevice {
    /// The device, open for reading and writing.
    pub fn device(&self) -> &BlockDevice {
        &self.device
    }

    /// What it is called.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What kind it is, which decides how zeros are made.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is the mapping of an encrypted device.
    pub fn is_crypt_mapping(&self) -> bool {
        self.host.is_crypt(self.device.number())
    }

    /// What it carried when it was looked at.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Takes note of what was found when all of it was read.
    ///
    /// # Errors
    /// `Refused` when that is data, and there is no leave to overwrite it.
    pub fn found(&mut self, contents: Contents) -> Result<()> {
        self.contents = contents;
        refuse_data(self.device.path(), contents, self.leave)
    }

    /// How many bytes from its start the image takes.
    pub fn needed_bytes(&self) -> u64 {
        self.needed_bytes
    }

    /// How many bytes it has beyond the image; they are left as they are.
    pub fn surplus_bytes(&self) -> u64 {
        self.device.size_bytes().saturating_sub(self.needed_bytes)
    }

    /// What the user should know though nothing stands against writing.
    pub fn findings(&self) -> Vec<Finding> {
        let name = self.device.path().display();
        let mut findings = Vec::new();
        if self.surplus_bytes() > 0 {
            let (size, image) = (self.device.size_bytes(), self.needed_bytes);
            findings.push(Finding::new(
                Code::DeviceLarger,
                format!("{name} has {size} bytes, the image {image}"),
                format!("the last {} bytes of the device are left as they are", self.surplus_bytes()),
            ));
        }
        if self.unseen_processes > 0 {
            findings.push(
                Finding::new(
                    Code::DeviceUsersUnknown,
                    format!(
                        "{} processes could not be asked whether they have {name} open",
                        self.unseen_processes
                    ),
                    "one that writes to it meanwhile would spoil the result",
                )
                .advise("run as root on the host itself"),
            );
        }
        findings
    }

    /// Looks again whether anybody uses the device, and whether its path still means it.
    ///
    /// # Errors
    /// As [`check`], for everything that no flag overrides.
    pub fn recheck(&self) -> Result<()> {
        let path = self.device.path();
        let now = BlockDevice::open(path, Access::Look)?;
        if now.number() != self.device.number() {
            return Err(became_another(path));
        }
        let target = Target::new(&self.host, &now)?;
        target.refuse_source(&self.source)?;
        target.refuse_used()?;
        target.refuse_opened()?;
        refuse_unfit(&now, self.needed_bytes)
    }
}

fn refuse_data(path: &Path, contents: Contents, leave: DeviceLeave) -> Result<()> {
    if leave.overwrite || contents == Contents::Nothing {
        return Ok(());
    }
    Err(Error::refused(format!("the device carries data ({contents})"))
        .with_path(path)
        .with_hint("if all of it may be lost, give leave with --overwrite"))
}

/// Opens the device so that the kernel lets nobody else claim it.
fn take_hold(path: &Path, number: DeviceNumber) -> Result<BlockDevice> {
    let device = BlockDevice::open(path, Access::Exclusive).map_err(|e| {
        if e.io_cause().and_then(|cause| cause.raw_os_error()) != Some(libc::EBUSY) {
            return e;
        }
        Error::refused("something in the kernel or another program holds the device").with_path(path).with_hint(format!(
            "it may be mounted in a container, or part of a mapping; see lsblk and /proc/*/mountinfo; {NO_FLAG}"
        ))
    })?;
    if device.number() == number { Ok(device) } else { Err(became_another(path)) }
}

fn became_another(path: &Path) -> Error {
    Error::refused("the path came to mean another device while it was looked at")
        .with_path(path)
        .with_hint("something attaches or detaches devices just now: try again when it has settled")
}

/// Refuses a device that cannot take the image.
fn refuse_unfit(device: &BlockDevice, needed_bytes: u64) -> Result<()> {
    let size = device.size_bytes();
    if size < needed_bytes {
        return Err(Error::refused(format!(
            "the device is too small: it has {size} bytes, the image {needed_bytes}, {} more",
            needed_bytes - size
        ))
        .with_path(device.path())
        .with_hint(format!("expand the volume or choose a larger device; {NO_FLAG}")));
    }
    if device.is_read_only() {
        return Err(Error::refused("the device is read-only")
            .with_path(device.path())
            .with_hint(format!("attach it for writing (see blockdev --getro); {NO_FLAG}")));
    }
    Ok(())
}

/// A device and all that shares bytes with it.
struct Target<'a> {
    host: &'a Host,
    path: &'a Path,
    relatives: Vec<Relative>,
    mounts: Vec<Mount>,
}

impl<'a> Target<'a> {
    fn new(host: &'a Host, device: &'a BlockDevice) -> Result<Self> {
        let relatives = host.relatives(device.number())?;
        Ok(Target { host, path: device.path(), relatives, mounts: host.mounts()? })
    }

    fn refused(&self, what: String, hint: String) -> Error {
        Error::refused(what).with_path(self.path).with_hint(format!("{hint}; {NO_FLAG}"))
    }

    fn relative(&self, number: DeviceNumber) -> Option<&Relative> {
        self.relatives.iter().find(|relative| relative.number == number)
    }

    /// Refuses the source itself and what its file system lies on.
    fn refuse_source(&self, source: &SourceIdentity) -> Result<()> {
        let elsewhere = || "choose another device to write to".to_owned();
        if let Some(relative) = source.devices().find_map(|device| self.relative(device)) {
            return Err(self.refused(format!("{} is the source", described(relative)), elsewhere()));
        }
        for relative in &self.relatives {
            let Some(backing) = self.host.loop_backing(relative.number) else { continue };
            if source.has_file(FileId { dev: backing.file_system.as_raw(), ino: backing.inode }) {
                let what = format!("{} is a loop device over a file of the source", described(relative));
                return Err(self.refused(what, elsewhere()));
            }
        }
        // Where a file system makes its numbers up (btrfs), its mount tells, and that is looked at next.
        if let Some(relative) = source.file_systems().into_iter().find_map(|device| self.relative(device)) {
            let what = format!("{} holds the file system that the source is on", described(relative));
            return Err(self.refused(what, elsewhere()));
        }
        Ok(())
    }

    /// Refuses what is mounted, swapped on, or built upon.
    fn refuse_used(&self) -> Result<()> {
        for relative in &self.relatives {
            if let Some(mount) = self.mounts.iter().find(|mount| mount.is_on(relative.number)) {
                let point = mount.point.display();
                let what = format!("{} is mounted at {point}", described(relative));
                return Err(self.refused(what, format!("stop what uses it, then unmount it: umount {point}")));
            }
        }
        let swaps = self.host.swaps();
        if let Some(relative) = self.relatives.iter().find(|relative| swaps.contains(&relative.number)) {
            let what = format!("{} is used as swap space", described(relative));
            return Err(self.refused(what, "see swapoff(8)".to_owned()));
        }
        match self.relatives.iter().find_map(|relative| way_out(relative).map(|hint| (relative, hint))) {
            Some((relative, hint)) => {
                Err(self.refused(format!("the device is held: {} is set up", described(relative)), hint))
            }
            None => Ok(()),
        }
    }

    /// Refuses what another process has open for writing; tells how many processes could not be asked.
    fn refuse_opened(&self) -> Result<usize> {
        let numbers: Vec<_> = self.relatives.iter().map(|relative| relative.number).collect();
        let (writer, unseen) = self.host.writer(&numbers);
        let Some(writer) = writer else { return Ok(unseen) };
        let what = self.relative(writer.number).map_or_else(|| "the device".to_owned(), described);
        let what = format!("{what} is open for writing in process {} ({})", writer.pid, writer.program);
        Err(self.refused(what, "stop that process first".to_owned()))
    }
}

/// A relative in words that read well before "is mounted at".
fn described(relative: &Relative) -> String {
    let name = &relative.name;
    match relative.relation {
        Relation::Itself => "the device".to_owned(),
        Relation::Partition => format!("its partition {name}"),
        Relation::WholeDisk => format!("the disk {name} it is a part of"),
        Relation::Below => format!("the device {name} underneath it"),
        Relation::Holder | Relation::StackedLoop => format!("{name} on top of it"),
        Relation::SameBacking => format!("{name} over the same file"),
    }
}

/// How to take down what was built upon the device; `None` for relatives that merely exist.
fn way_out(relative: &Relative) -> Option<String> {
    let name = &relative.name;
    match relative.relation {
        Relation::Holder if relative.is_crypt => Some(format!(
            "what the encrypted volume holds is written to /dev/mapper/{name}; to replace all of it, close it \
             first: cryptsetup close {name}"
        )),
        Relation::Holder => Some(format!("take {name} down first (dmsetup, vgchange -an, mdadm --stop)")),
        Relation::StackedLoop | Relation::SameBacking => {
            Some(format!("detach it first: losetup -d /dev/{name}"))
        }
        Relation::Itself | Relation::Partition | Relation::WholeDisk | Relation::Below => None,
    }
}
