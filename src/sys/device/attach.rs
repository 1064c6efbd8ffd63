//! Loop devices of our own.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use loopdev::{LoopControl, LoopDevice};
use nix::libc;

use super::{Access, BlockDevice};
use crate::error::{Error, Result};
use crate::sys::busy::backing_file;

/// How often a free loop device that somebody else was quicker to take is replaced by another.
const MAX_TRIES: usize = 32;

/// How long the kernel may take to let a device go.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// A loop device that was just set up. The kernel takes it down once nobody has it open: neither this process nor what is
/// mounted from it.
#[derive(Debug)]
pub struct Attached {
    _device: LoopDevice,
    path: PathBuf,
}

impl Attached {
    /// Sets one up over `file`. If it is `read_only`, nothing can write to the file through it.
    ///
    /// # Errors
    /// `Usage` when loop devices cannot be had.
    pub fn over(file: &Path, read_only: bool) -> Result<Self> {
        let fail = |e: io::Error| {
            Error::usage("cannot set up a loop device").with_path(file).caused_by(e).with_hint(
                "it takes root and /dev/loop-control: `modprobe loop`, in a container `--privileged`; without \
                 either: lhrecover ls, extract, serve",
            )
        };
        let control = LoopControl::open().map_err(fail)?;
        let mut tries = 0;
        let device = loop {
            let device = control.next_free().map_err(fail)?;
            match device.with().read_only(read_only).autoclear(true).attach(file) {
                Ok(()) => break device,
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < MAX_TRIES => tries += 1,
                Err(e) => return Err(fail(e)),
            }
        };
        let path = device.path().ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        let attached = Attached { _device: device, path };
        if read_only && !BlockDevice::open(&attached.path, Access::Look)?.is_read_only() {
            return Err(Error::usage("the kernel made a loop device writable that must not be")
                .with_path(&attached.path)
                .with_hint("this should not happen: use lhrecover ls, extract or serve"));
        }
        Ok(attached)
    }

    /// Its node: `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name: `loop3`.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Takes the loop device of that name down, unless it is in use, and waits until it is gone. It is none of ours when it
/// stands on anything else than `file`, and left alone.
///
/// # Errors
/// `EBUSY` when something still uses it.
pub fn detach(name: &str, file: &Path) -> io::Result<()> {
    let is_there = || backing_file(name).is_some_and(|backing| backing == file);
    if !is_there() {
        return Ok(());
    }
    match LoopDevice::open(Path::new("/dev").join(name)).and_then(|device| device.detach()) {
        Err(e) if e.raw_os_error() != Some(libc::ENXIO) => return Err(e),
        _ => {}
    }
    let began = Instant::now();
    while is_there() {
        if began.elapsed() > MAX_WAIT {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
