//! The device while it is not held: made, mounted, unmounted, checked, by others and by the kernel.
//!
//! Whoever makes a file system or mounts one needs the device for itself, so our own hold has to be let go. It is looked
//! at by the same guard again each time it comes back.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::rsync::TEMPORARY;
use crate::error::{Error, Result};
use crate::sink::guard::{self, DeviceLeave, GuardedDevice, SourceIdentity};
use crate::sys::device::{DeviceNumber, Host};
use crate::sys::mount::{mount_for_writing, mount_read_only, sync_file_system};
use crate::workflow::mount::file_system::{FileSystem, Journal};
use crate::workflow::mount::state::{Entry, State};
use crate::workflow::mount::teardown;

/// A device that is looked at again and again.
#[derive(Debug)]
pub struct TargetDevice {
    path: PathBuf,
    number: DeviceNumber,
    needed_bytes: u64,
    source: SourceIdentity,
    any_device: bool,
}

/// How it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Nothing is written, not even a journal played back.
    Looking,
    /// Files are written.
    Writing,
}

impl TargetDevice {
    /// Takes hold of the device at `path`. Whether what it carries may be overwritten is for the caller to judge.
    ///
    /// # Errors
    /// As [`guard::check`].
    pub fn take(
        path: &Path,
        needed_bytes: u64,
        source: &SourceIdentity,
        any_device: bool,
    ) -> Result<(Self, GuardedDevice)> {
        let held = guard::check(path, needed_bytes, source, DeviceLeave { overwrite: true, any_device })?;
        let number = held.device().number();
        let (path, source) = (path.to_path_buf(), source.clone());
        Ok((TargetDevice { path, number, needed_bytes, source, any_device }, held))
    }

    /// Looks again, and takes hold again.
    ///
    /// # Errors
    /// As [`guard::check`], and `Refused` when the path has come to mean another device.
    pub fn hold(&self) -> Result<GuardedDevice> {
        let leave = DeviceLeave { overwrite: true, any_device: self.any_device };
        let held = guard::check(&self.path, self.needed_bytes, &self.source, leave)?;
        if held.device().number() == self.number { Ok(held) } else { Err(self.became_another()) }
    }

    /// Its path, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Mounts it in the entry's own place, once it has been looked at again.
    ///
    /// # Errors
    /// As [`hold`](Self::hold); `Output` when it cannot be mounted; `Refused` when somebody else has mounted it, too.
    pub fn mount(&self, entry: &Entry, file_system: FileSystem, purpose: For) -> Result<MountedTarget> {
        drop(self.hold()?);
        let point = entry.target_dir();
        match purpose {
            For::Looking => {
                mount_read_only(&self.path, &point, file_system.name, &file_system.options(Journal::Skip))
            }
            For::Writing => {
                mount_for_writing(&self.path, &point, file_system.name, file_system.options_for_writing())
            }
        }
        .map_err(|e| {
            Error::output(format!("the kernel cannot mount the device's {} file system", file_system.name))
                .with_path(&self.path)
                .with_hint(not_mounted(e.raw_os_error(), file_system.name))
                .caused_by(e)
        })?;
        let mounted = MountedTarget { entry: entry.clone(), device: self.path.clone(), is_mounted: true };
        self.look_at_mounts(&point)?;
        Ok(mounted)
    }

    /// Does `work` where it is mounted for writing, in an entry of its own.
    ///
    /// # Errors
    /// As [`mount`](Self::mount), and what `work` fails with.
    pub fn mounted_apart(&self, file_system: FileSystem, work: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let (entry, lock) = Entry::create()?;
        entry.write(&State::apart(self.path.display().to_string(), &entry))?;
        let done = self.mount(&entry, file_system, For::Writing).and_then(|mounted| {
            work(&mounted.point())?;
            mounted.finish()
        });
        let taken_down = teardown::take_down(&entry);
        drop(lock);
        done.and(taken_down.map(drop))
    }

    /// What is mounted at our place is our device, and it is mounted nowhere else.
    fn look_at_mounts(&self, point: &Path) -> Result<()> {
        let mounts = Host::default().mounts()?;
        let ours = mounts.iter().rev().find(|mount| mount.point == point);
        if !ours.is_some_and(|mount| mount.is_on(self.number)) {
            return Err(self.became_another());
        }
        // Seen from another mount namespace, our place has another beginning.
        let place: PathBuf = point.components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
        let other = mounts.iter().find(|mount| mount.is_on(self.number) && !mount.point.ends_with(&place));
        other.map_or(Ok(()), |other| {
            Err(Error::refused("somebody else mounted the device meanwhile")
                .with_path(&other.point)
                .with_hint("stop what uses it (a pod, perhaps), unmount it, and inject again; no flag overrides this"))
        })
    }

    fn became_another(&self) -> Error {
        Error::refused("the path came to mean another device while it was worked on")
            .with_path(&self.path)
            .with_hint("something attaches or detaches devices just now: try again when it has settled")
    }
}

/// What to do about a file system that the kernel does not mount.
fn not_mounted(error: Option<i32>, name: &str) -> String {
    let is_damage = [libc::EUCLEAN, libc::EBADMSG, libc::EIO].map(Some).contains(&error);
    let first = match (is_damage, name) {
        (true, "ext4") => "it is damaged: `e2fsck -f` repairs it, or says why not",
        (true, "xfs") => "it is damaged: `xfs_repair` repairs it, or says why not",
        (true, _) => "it is damaged, or the disk is; `dmesg` says which",
        (false, _) => {
            "`dmesg` says why: if it has a feature that this machine's kernel lacks, make one without it by hand (mkfs), which is kept, \
             or inject on a machine that has it"
        }
    };
    format!(
        "{first}; if nothing on it is needed, remove its signature (wipefs --all) and inject again: a new one is made"
    )
}

/// A device that is mounted, until this is dropped.
#[derive(Debug)]
pub struct MountedTarget {
    entry: Entry,
    device: PathBuf,
    is_mounted: bool,
}

impl MountedTarget {
    /// Where.
    pub fn point(&self) -> PathBuf {
        self.entry.target_dir()
    }

    /// Whether it has any files but those that every file system has, and what a run of ours may have left.
    ///
    /// # Errors
    /// `Output` when its root cannot be read.
    pub fn has_files(&self) -> Result<bool> {
        let fail = |e| self.failed("cannot look what is on the device", e);
        for entry in fs::read_dir(self.point()).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if name != "lost+found" && name != TEMPORARY {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A new directory for temporary files; one that a crash has left is removed.
    ///
    /// # Errors
    /// `Output` when it cannot be made.
    pub fn make_temporary(&self) -> Result<()> {
        self.remove_temporary()?;
        let path = self.point().join(TEMPORARY);
        DirBuilder::new().mode(0o700).create(path).map_err(|e| self.failed("cannot write to the device", e))
    }

    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// `Output` when that fails.
    pub fn remove_temporary(&self) -> Result<()> {
        let path = self.point().join(TEMPORARY);
        let removed = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("cannot remove the temporary files", e))
            }
            _ => Ok(()),
        }
    }

    /// Gives its root the time of the directory `like`: what comes and goes there changes it.
    pub fn set_time_of_root(&self, like: &Path) {
        // It is a matter of beauty.
        let _ = fs::metadata(like).and_then(|meta| {
            let times = FileTimes::new().set_modified(meta.modified()?);
            File::open(self.point())?.set_times(times)
        });
    }

    /// Waits until everything is on stable storage, and unmounts it.
    ///
    /// # Errors
    /// `Output` when the device failed to store something; as [`teardown::unmount_target`].
    pub fn finish(mut self) -> Result<()> {
        sync_file_system(&self.point()).map_err(|e| {
            self.failed("the device failed to store what was written", e)
                .and("what it holds now is not complete; see dmesg for what the disk said")
        })?;
        self.unmount()
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// As [`teardown::unmount_target`].
    pub fn unmount(&mut self) -> Result<()> {
        teardown::unmount_target(&self.entry, &mut Vec::new())?;
        self.is_mounted = false;
        Ok(())
    }

    fn failed(&self, what: &str, e: io::Error) -> Error {
        Error::output(what).with_path(&self.device).caused_by(e)
    }
}

impl Drop for MountedTarget {
    fn drop(&mut self) {
        if self.is_mounted {
            // On the way out of an error, which is what is told. The entry stays, and `umount --stale` finds it.
            let _ = self.remove_temporary();
            let _ = self.unmount();
        }
    }
}
