//! What tools work on: the volume as a file or as a mounted file system, with a throw-away copy on top that takes what
//! they write.
//!
//! It is `mount` that puts it up, at a place of its own. Whichever way this process ends, the one that serves takes all of
//! it down.

use std::path::{Path, PathBuf};

use crate::access::scratch::ScratchSpace;
use crate::access::volume::VolumeOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::sys::mount::unmount_at;
use crate::workflow::mount::state::of_overlay;
use crate::workflow::mount::teardown::{self, TakenDown};
use crate::workflow::mount::{Journal, MountOptions, Mounted, mount_apart};

/// Where the volume comes from, and where what is written goes.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The replica directory or image.
    pub source: PathBuf,
    /// Which state of it.
    pub volume: VolumeOptions,
    /// The throw-away copy.
    pub overlay: ScratchSpace,
}

/// Something put up. It comes down when it is dropped, too; what goes wrong then is for `umount --stale`.
pub struct Stage {
    mounted: Option<Mounted>,
}

impl Stage {
    /// The image of the volume, or of that partition, as a file that can be written to.
    ///
    /// # Errors
    /// As [`mount`].
    pub fn image(ground: &Ground, partition: Option<u32>, run: &Run<'_>) -> Result<Self> {
        Self::put_up(ground, partition, true, run)
    }

    /// The file system, its journal replayed, mounted for reading. Needs root.
    ///
    /// # Errors
    /// As [`mount`].
    pub fn file_system(ground: &Ground, partition: Option<u32>, run: &Run<'_>) -> Result<Self> {
        Self::put_up(ground, partition, false, run)
    }

    fn put_up(ground: &Ground, partition: Option<u32>, image_only: bool, run: &Run<'_>) -> Result<Self> {
        let options = MountOptions {
            volume: ground.volume.clone(),
            partition,
            image_only,
            journal: Journal::Replay,
            overlay: ground.overlay.clone(),
            ..MountOptions::default()
        };
        Ok(Stage { mounted: Some(mount_apart(&ground.source, &options, run)?) })
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        self.mounted.as_ref().map_or(Path::new(""), |mounted| &mounted.state.mountpoint)
    }

    /// The image file.
    pub fn image_file(&self) -> PathBuf {
        self.mounted.as_ref().map(Mounted::image).unwrap_or_default()
    }

    /// Why the throw-away copy took no more, if it did not: what shows then is neither old nor new.
    pub fn overlay_trouble(&self) -> Option<String> {
        let trouble = self.mounted.as_ref().map(|mounted| mounted.entry.trouble()).unwrap_or_default();
        trouble.iter().find_map(|line| of_overlay(line)).map(str::to_owned)
    }

    /// Unmounts the file system, and leaves the image.
    ///
    /// # Errors
    /// `External` when it cannot be unmounted.
    pub fn unmount_file_system(&self) -> Result<()> {
        teardown::retried(|| unmount_at(self.place())).map_err(|e| {
            Error::new(ErrorKind::External, "cannot unmount the file system that was checked")
                .with_path(self.place())
                .caused_by(e)
        })
    }

    /// Takes it down. What the server could not read meanwhile is in what it returns.
    ///
    /// # Errors
    /// As [`teardown::of`].
    pub fn take_down(mut self) -> Result<TakenDown> {
        let taken_down = self.mounted.as_ref().map(|mounted| teardown::of(&mounted.entry));
        self.mounted = None;
        taken_down.unwrap_or_else(|| Err(Error::usage("nothing is mounted")))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mounted) = &self.mounted {
            let _ = teardown::of(&mounted.entry);
        }
    }
}
