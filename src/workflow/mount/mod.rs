//! `lhrecover mount`: a volume's file system, or its image, in the machine's directory tree.
//!
//! Three things stand on each other: a process that serves the merged view as an image file (FUSE), a read-only loop device
//! over that file, and the file system on the loop device. What is about to be put up is written down before it is, and
//! taken down in the opposite order when anything fails.
//!
//! ```text
//!     replica ── image server (FUSE) ── volume.img ── loop device ── [cryptsetup] ── file system at the mount point
//! ```

mod btrfs;
mod checks;
pub mod file_system;
mod luks;
pub mod serve;
pub mod server;
mod site;
pub mod state;
pub mod teardown;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub(in crate::workflow) use checks::refuse_inside;
pub use file_system::Journal;
use server::Released;
use site::{Site, Up};
use state::{Entry, State};

use crate::access::scratch::ScratchSpace;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::{Error, Result};
use crate::event::Run;
use crate::replica::View;

/// How often a mount in the foreground looks whether it is to end.
const POLL: Duration = Duration::from_millis(50);

/// What is mounted, and how.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Which state of the volume.
    pub volume: VolumeOptions,
    /// Which partition; without one, the only one that can be mounted.
    pub partition: Option<u32>,
    /// Stop at the image.
    pub image_only: bool,
    /// What becomes of the journal.
    pub journal: Journal,
    /// The throw-away copy that a journal is played back on.
    pub overlay: ScratchSpace,
    /// The key of an encrypted volume.
    pub key_file: Option<PathBuf>,
    /// Take everything down when this process ends, however it does.
    pub hold: bool,
}

/// What was mounted.
pub struct Mounted {
    /// Its place in the run directory.
    pub entry: Entry,
    /// What was written down of it.
    pub state: State,
    /// The volume it is from. Its findings are to be shown.
    pub volume: Volume,
    /// The file system, and with what options; `None` with `image_only`.
    pub file_system: Option<(&'static str, String)>,
    /// The partition that was taken.
    pub partition: Option<u32>,
    /// The loop device; `None` with `image_only`.
    pub loop_device: Option<PathBuf>,
    /// What is to be said of it.
    pub notes: Vec<String>,
    server: Released,
}

impl Mounted {
    /// The image.
    pub fn image(&self) -> PathBuf {
        self.state.image(&self.entry)
    }

    /// The state that is shown; `None` for an image.
    pub fn view(&self) -> Option<&View> {
        self.volume.state()
    }
}

/// Mounts the volume in the replica directory or image `source` at `mountpoint`, and returns when it is there.
///
/// # Errors
/// As [`Volume::open`]; `Usage` when something it takes is missing here; `Refused` for a mount point that is in use, and for
/// an encrypted volume without a key; `Source` when the kernel cannot mount what is inside. Nothing is left mounted.
pub fn mount(source: &Path, mountpoint: &Path, options: &MountOptions, run: &Run<'_>) -> Result<Mounted> {
    let source = found(source)?;
    let left = teardown::stale_at(mountpoint)?;
    let mountpoint = checks::mountpoint(mountpoint, &source)?;
    let mut mounted = put_up(source, Some(mountpoint), options, run)?;
    let note =
        left.map(|left| format!("what a crash had left there of {} was taken down first", left.source));
    mounted.notes.splice(0..0, note);
    Ok(mounted)
}

/// The same at a place of its own in the run directory, as long as this process lives.
///
/// # Errors
/// As [`mount`].
pub fn mount_apart(source: &Path, options: &MountOptions, run: &Run<'_>) -> Result<Mounted> {
    put_up(found(source)?, None, &MountOptions { hold: true, ..options.clone() }, run)
}

fn found(source: &Path) -> Result<PathBuf> {
    fs::canonicalize(source)
        .map_err(|e| Error::usage("cannot open the volume").with_path(source).caused_by(e))
}

fn put_up(
    source: PathBuf,
    mountpoint: Option<PathBuf>,
    options: &MountOptions,
    run: &Run<'_>,
) -> Result<Mounted> {
    let mut options = options.clone();
    // The server works in another directory.
    if let Some(file) = &mut options.volume.source.backing_file {
        *file = std::path::absolute(&*file).unwrap_or_else(|_| file.clone());
    }
    let volume = Volume::open(&source, &options.volume)?;
    let named = mountpoint.as_deref().unwrap_or(Path::new("POINT"));
    let inside = checks::look_inside(&volume, &source, named, &options)?;
    run.check()?;
    let mut site = Site::new(source, mountpoint, options, volume)?;
    match site.put_up(inside.as_ref(), run) {
        Ok(Up { server, file_system, partition, loop_device }) => {
            let Site { entry, state, volume, notes, .. } = site;
            Ok(Mounted { entry, state, volume, file_system, partition, loop_device, notes, server })
        }
        Err(e) => Err(site.give_up(e)),
    }
}

/// Serves until somebody unmounts it, or `run` is cancelled and nothing uses it any more. `busy` hears who does.
///
/// # Errors
/// `Usage` when the server ended before that; whatever was left is taken down.
pub fn stay(
    mounted: &mut Mounted,
    run: &Run<'_>,
    busy: &mut dyn FnMut(&Error),
) -> Result<Option<teardown::TakenDown>> {
    loop {
        if let Some(status) = mounted.server.ended()? {
            // Whoever unmounts makes the server end. One that has died leaves a dead image.
            if teardown::image_is_mounted(&mounted.entry, &mounted.state)? {
                return Err(server_died(teardown::of(&mounted.entry)));
            }
            if !status.success() {
                return Err(Error::source(
                    "the source was changed while it was mounted: what was read may be neither old nor new",
                )
                .with_path(&mounted.state.source));
            }
            return Ok(None);
        }
        if run.cancel.is_cancelled() {
            match teardown::of(&mounted.entry) {
                Ok(taken_down) => return Ok(Some(taken_down)),
                Err(e) => {
                    busy(&e);
                    run.cancel.reset();
                }
            }
        }
        thread::sleep(POLL);
    }
}

fn server_died(taken_down: Result<teardown::TakenDown>) -> Error {
    let error = Error::usage("the process that served the image was ended: what was mounted is gone");
    match taken_down {
        Ok(_) => error.with_hint("nothing was lost: mount it again"),
        Err(e) => error.with_hint(format!("{e}; end what uses it, then: lhrecover umount --stale")),
    }
}
