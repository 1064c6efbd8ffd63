//! A mount in the making: each thing is written down before it is put up.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_system::Journal;
use super::server::{Order, Overlay, Released, Server};
use super::state::{Entry, Lock, OVERLAY_ADVICE, State, lock_claims, of_overlay};
use super::{MountOptions, checks, luks, teardown};
use crate::access::inside::Inside;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::guest::{Guest, GuestKind, on_disk};
use crate::sys::daemon::Identity;
use crate::sys::device::DeviceNumber;
use crate::sys::device::attach::Attached;
use crate::sys::mount::set_read_ahead;
use crate::view::disk::Disk;

/// How far the kernel reads ahead in the image, in KiB. Its own 128 leave a server idle between requests.
const READ_AHEAD_KIB: u32 = 1024;

/// A mount in the making.
pub(super) struct Site {
    pub entry: Entry,
    pub state: State,
    pub volume: Volume,
    pub notes: Vec<String>,
    source: PathBuf,
    options: MountOptions,
    server: Option<Server>,
    _lock: Lock,
}

/// What was put up.
pub(super) struct Up {
    pub server: Released,
    pub file_system: Option<(&'static str, String)>,
    pub partition: Option<u32>,
    pub loop_device: Option<PathBuf>,
}

/// A file system that was mounted: its name and options, and the loop device below it.
type FileSystemUp = ((&'static str, String), PathBuf);

impl Site {
    /// For the volume, opened from `source`, at a place of its own when none is named. Nothing is put up yet.
    pub fn new(
        source: PathBuf,
        mountpoint: Option<PathBuf>,
        options: MountOptions,
        volume: Volume,
    ) -> Result<Self> {
        let (entry, lock) = Entry::create()?;
        let mountpoint = mountpoint.unwrap_or_else(|| entry.view_dir());
        let state = State {
            schema_version: 1,
            source: source.display().to_string(),
            mountpoint,
            image_only: options.image_only,
            mapper: None,
            server: None,
            owner: options.hold.then(|| Identity::of(std::process::id())).flatten(),
        };
        Ok(Site { entry, state, volume, notes: Vec::new(), source, options, server: None, _lock: lock })
    }

    /// Puts everything up.
    pub fn put_up(&mut self, inside: Option<&Inside>, run: &Run<'_>) -> Result<Up> {
        self.claim()?;
        let partition = inside.and_then(|inside| Some(inside.partition.as_ref()?.number));
        let order = self.order(partition)?;
        let server = self.server.insert(Server::start(&self.entry)?);
        self.state.server = server.identity();
        self.entry.write(&self.state)?;
        server.order(&order, run)?;
        read_ahead(&self.state.image(&self.entry));
        let (mut file_system, mut loop_device) = (None, None);
        if let Some(inside) = inside.filter(|_| !self.options.image_only) {
            self.notes.extend(inside.note.clone());
            let (mounted, device) = self.put_up_file_system(inside, run)?;
            (file_system, loop_device) = (Some(mounted), Some(device));
        }
        run.check()?;
        let server = self.server.take().ok_or_else(|| Error::usage("there is no server"))?;
        let server = if self.options.hold { server.hold() } else { server.release()? };
        Ok(Up { server, file_system, partition, loop_device })
    }

    /// Writes down what is about to be mounted where, unless somebody else has done so since that was looked at.
    fn claim(&self) -> Result<()> {
        let _claims = lock_claims()?;
        if self.state.mountpoint != self.entry.view_dir() {
            checks::mountpoint(&self.state.mountpoint, &self.source)?;
        }
        self.entry.write(&self.state)
    }

    /// Takes down what was put up before `error`, and returns that.
    pub fn give_up(mut self, error: Error) -> Error {
        if let Some(server) = &mut self.server {
            server.give_up();
        }
        match teardown::take_down(&self.entry) {
            Ok(taken_down) => with_trouble(error, &taken_down.trouble),
            Err(e) => {
                error.and(&format!("not all of it could be taken down ({e}): lhrecover umount --stale"))
            }
        }
    }

    /// What the server is to serve.
    fn order(&self, partition: Option<u32>) -> Result<Order> {
        let mut order = Order::new(&self.source, &self.options.volume, &self.state.image_dir(&self.entry));
        order.partition = partition;
        if self.options.journal == Journal::Replay {
            let dir = self.options.overlay.real_dir()?;
            checks::refuse_inside(&dir, &self.source, "the throw-away copy")?;
            let max_bytes = self.options.overlay.max_bytes;
            order.overlay = Some(Overlay { dir: dir.into(), max_bytes });
        }
        Ok(order)
    }

    /// The loop device, what decrypts it, and the file system. A loop device that gets no user goes away by itself.
    fn put_up_file_system(&mut self, inside: &Inside, run: &Run<'_>) -> Result<FileSystemUp> {
        run.check()?;
        let journal = self.options.journal;
        let attached = Attached::over(&self.state.image(&self.entry), journal == Journal::Skip)?;
        run.check()?;
        let is_luks = matches!(inside.guest, Some(Guest { kind: GuestKind::Luks, .. }));
        let (device, disk) = match self.options.key_file.clone() {
            Some(key_file) if is_luks => self.decrypt(attached.path(), &key_file)?,
            _ => (attached.path().to_path_buf(), Arc::clone(&inside.disk)),
        };
        let own = is_luks.then_some(device.as_path());
        let file_system = checks::file_system(on_disk(&*disk)?, &*disk, own.or(Some(attached.path())))?;
        let dirty = file_system.journal_is_dirty(&*disk)?;
        if journal == Journal::Replay && file_system.may_have_fast_commits(&*disk)? {
            // Nobody but us sees it while it can be written to.
            file_system.replay(&device, &self.entry.target_dir())?;
        }
        file_system.mount(&device, &self.state.mountpoint, journal)?;
        if journal == Journal::Skip {
            self.notes.extend(unreplayed(dirty));
        }
        let up = (file_system.name, file_system.options(journal));
        Ok((up, attached.path().to_path_buf()))
    }

    /// Decrypts the loop device; the node, and the disk, that come of it.
    fn decrypt(&mut self, loop_device: &Path, key_file: &Path) -> Result<(PathBuf, Arc<dyn Disk>)> {
        let name = format!("lhrecover-{}", self.entry.id());
        self.state.mapper = Some(name.clone());
        self.entry.write(&self.state)?;
        let node = luks::open(loop_device, &name, key_file, self.options.journal == Journal::Replay)?;
        let disk = Volume::open(&node, &VolumeOptions::default())?.whole();
        Ok((node, disk))
    }
}

/// The error, and what the server said that may be behind it: the kernel only says that the image failed. Where the throw-away
/// copy took no more, that is what happened, and nothing is wrong with the volume.
fn with_trouble(error: Error, trouble: &[String]) -> Error {
    match (trouble.iter().find_map(|line| of_overlay(line)), trouble.first()) {
        (Some(full), _) if error.kind() != ErrorKind::Interrupted => {
            Error::output(full).caused_by(io::Error::other(error.to_string())).with_hint(OVERLAY_ADVICE)
        }
        (Some(_), _) => error,
        (None, Some(first)) => error.and(&format!("the server of the image says: {first}")),
        (None, None) => error,
    }
}

/// What is not seen of a journal that was left alone.
fn unreplayed(dirty: Option<bool>) -> Option<String> {
    let words = match dirty {
        Some(false) => return None,
        Some(true) => {
            "the file system's journal was not played back: the last writes before the volume stopped do not show"
        }
        None => {
            "the file system's log, if it holds anything, was not played back: the last writes before the volume stopped \
                 may not show"
        }
    };
    Some(format!("{words}. To see them, on a throw-away copy: --journal replay"))
}

fn read_ahead(image: &Path) {
    use std::os::unix::fs::MetadataExt;
    if let Ok(meta) = std::fs::metadata(image) {
        set_read_ahead(DeviceNumber::from_raw(meta.dev()), READ_AHEAD_KIB);
    }
}
