//! What must be so before anything is put up.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::file_system::FileSystem;
use super::{MountOptions, btrfs, luks, teardown};
use crate::access::inside::{self, Inside};
use crate::access::volume::Volume;
use crate::error::{Error, Result};
use crate::guest::{Guest, GuestKind};
use crate::sys::device::Host;
use crate::sys::source_identity::SourceIdentity;
use crate::view::disk::Disk;

/// What a mount point must be: an empty directory with nothing mounted on it.
pub(super) fn mountpoint(point: &Path, source: &Path) -> Result<PathBuf> {
    let fail = |what: &str| Error::usage(what).with_path(point);
    let real = point.canonicalize().map_err(|e| {
        let hint = match e.raw_os_error() {
            Some(nix::libc::ENOTCONN) => "a server that served it has died: lhrecover umount --stale",
            _ => "the mount point must be there: mkdir -p",
        };
        fail("cannot find the mount point").caused_by(e).with_hint(hint)
    })?;
    if real.to_str().is_none() {
        return Err(fail("the mount point's name is not UTF-8"));
    }
    if let Some((_, state)) = teardown::known()?.into_iter().find(|(_, state)| state.mountpoint == real) {
        return Err(Error::refused("a volume is mounted there already").with_path(&real).with_hint(format!(
            "it is that of {}; lhrecover umount takes it down, also what a crash has left",
            state.source
        )));
    }
    if Host::default().own_mounts()?.iter().any(|mount| mount.point == real) {
        return Err(Error::refused("something is mounted there already")
            .with_path(&real)
            .with_hint("name another directory"));
    }
    refuse_inside(&real, source, "the mount point")?;
    let mut names = fs::read_dir(&real).map_err(|e| fail("the mount point is no directory").caused_by(e))?;
    if names.next().is_some() {
        return Err(Error::refused(
            "the mount point is not empty: what is in it would not show while it is in use",
        )
        .with_path(&real)
        .with_hint("name an empty directory"));
    }
    Ok(real)
}

/// What is to be mounted; `None` when that is the whole volume as an image, whatever it holds.
pub(super) fn look_inside(
    volume: &Volume,
    source: &Path,
    mountpoint: &Path,
    options: &MountOptions,
) -> Result<Option<Inside>> {
    if options.image_only {
        return options.partition.map(|number| inside::partition(volume.whole(), number)).transpose();
    }
    if !geteuid().is_root() {
        return Err(Error::usage("mounting a file system takes root").with_hint(
            "try again with sudo; without root: lhrecover ls, cat and extract, or --image-only for the image alone",
        ));
    }
    let inside = inside::look(volume.whole(), options.partition)?;
    match inside.guest {
        Some(Guest { kind: GuestKind::Luks, .. }) if options.key_file.is_none() => {
            return Err(luks::by_hand(source, mountpoint, options));
        }
        Some(Guest { kind: GuestKind::Luks, .. }) => luks::check_available()?,
        guest => {
            file_system(guest, &*inside.disk, None)?;
        }
    }
    Ok(Some(inside))
}

/// The file system that was recognised, if it can be mounted now. The device that it is on is no twin of itself.
pub(super) fn file_system(guest: Option<Guest>, disk: &dyn Disk, own: Option<&Path>) -> Result<FileSystem> {
    let known = FileSystem::of(guest).ok_or_else(|| match guest {
        Some(guest) => Error::source(format!("the volume holds {}, which cannot be mounted as it is", guest.name))
            .with_hint(by_image(guest.name)),
        None => Error::source("no file system was recognised in the volume").with_hint(
            "is it the right state (--at)? lhrecover check and inspect tell more; other tools can look at the image: \
             lhrecover mount --image-only",
        ),
    })?;
    if known.name == "btrfs" {
        btrfs::refuse_twins(disk, own)?;
    }
    Ok(known)
}

/// How to go on with what is no file system.
fn by_image(name: &str) -> String {
    let steps = match name {
        "an LVM physical volume" => {
            "`losetup --find --show --read-only POINT/volume.img`, `vgscan`, `vgchange --activate y --readonly GROUP`, and mount \
             the logical volumes with -o ro,noload"
        }
        "a Linux RAID member" => {
            "`losetup --find --show --read-only POINT/volume.img`, `mdadm --assemble --readonly --run /dev/md/recovered LOOP`"
        }
        _ => "look at POINT/volume.img with the tools for it",
    };
    format!("other tools can take the image: `lhrecover mount --image-only SOURCE POINT`, then {steps}")
}

/// Fails when `path` is in the directory `source`: a source is never touched.
pub(in crate::workflow) fn refuse_inside(path: &Path, source: &Path, what: &str) -> Result<()> {
    if SourceIdentity::at(source).holds(&path.join("x")) {
        return Err(Error::refused(format!("{what} is inside the replica directory"))
            .with_path(path)
            .with_hint("a source is never touched: name a directory elsewhere"));
    }
    Ok(())
}
