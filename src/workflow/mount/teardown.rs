//! Takes down what was put up: target, file system, decrypted device, loop device, image, server, in this order.
//!
//! Each step looks whether there is anything to do, so a teardown can begin anywhere and be repeated: after a crash, after a
//! part of it was refused, or when somebody has unmounted by hand. What is not ours is left alone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use super::luks;
use super::state::{Entry, State, entries};
use crate::access::fuse::SOURCE_NAME;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::busy::{self, User};
use crate::sys::daemon::Identity;
use crate::sys::device::attach::detach;
use crate::sys::device::{DeviceNumber, Host};
use crate::sys::mount::unmount_at;

/// How long a server may take to end once its image is unmounted.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How often what is in use for a moment is tried again: whoever looks at every mount or device holds it as long.
const TRIES: u32 = 10;
const BETWEEN_TRIES: Duration = Duration::from_millis(30);

/// What was taken down.
#[derive(Clone, Debug)]
pub struct TakenDown {
    /// Its name.
    pub id: String,
    /// The replica directory or image.
    pub source: String,
    /// Where it was mounted.
    pub mountpoint: PathBuf,
    /// What was done, in words.
    pub steps: Vec<String>,
    /// What the server could not read while it served, and other trouble it had.
    pub trouble: Vec<String>,
}

/// Takes down what is mounted at `mountpoint`.
///
/// # Errors
/// `Refused` when it is in use, with who uses it, or was not mounted by us.
pub fn at(mountpoint: &Path) -> Result<TakenDown> {
    let known = known()?;
    let wanted = places(mountpoint);
    let found = known.into_iter().find(|(_, state)| wanted.contains(&state.mountpoint));
    let Some((entry, _)) = found else {
        return Err(Error::refused("this was not mounted by lhrecover mount").with_path(mountpoint).with_hint(
            "lhrecover umount --list shows what was; for anything else there is umount(8); who mounted as root unmounts as root",
        ));
    };
    of(&entry)
}

/// Takes down this mount, once nobody else is at work on it.
///
/// # Errors
/// As [`at`], and `Usage` when somebody else has taken it down meanwhile.
pub fn of(entry: &Entry) -> Result<TakenDown> {
    let _lock = entry.lock()?;
    take_down(entry)
}

/// The places that a path may mean: with a dead image at its end it cannot be resolved, but its parent can.
fn places(path: &Path) -> Vec<PathBuf> {
    let by_parent = || {
        let absolute = std::path::absolute(path).ok()?;
        Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
    };
    path.canonicalize().ok().into_iter().chain(by_parent()).collect()
}

/// All mounts that are known, with their states.
///
/// # Errors
/// When the run directory cannot be read.
pub fn known() -> Result<Vec<(Entry, State)>> {
    let mut known = Vec::new();
    for entry in entries()? {
        // What is being made or removed has no state, and what cannot be read is for `--stale` to complain about.
        if let Ok(Some(state)) = entry.state() {
            known.push((entry, state));
        }
    }
    Ok(known)
}

/// Whether all of it is still there: the server, and what it is for.
pub fn is_whole(entry: &Entry, state: &State) -> bool {
    if state.owner.is_some_and(|owner| !owner.is_alive()) {
        return false;
    }
    let served = state.server.is_some_and(|server| server.is_alive());
    let mounted = if state.image_only {
        image_is_mounted(entry, state)
    } else {
        file_systems(entry, state).map(|points| !points.is_empty())
    };
    served && mounted.unwrap_or(false)
}

/// Takes down whatever crashes have left, and what came of each.
///
/// # Errors
/// When the run directory cannot be read.
pub fn stale() -> Result<Vec<Result<TakenDown>>> {
    let mut done = Vec::new();
    for entry in entries()? {
        // Whoever holds the lock is at work on it.
        let Some(_lock) = entry.try_lock()? else { continue };
        match entry.state() {
            Ok(Some(state)) if is_whole(&entry, &state) => {}
            Ok(_) => done.push(take_down(&entry)),
            Err(e) => done.push(Err(e)),
        }
    }
    Ok(done)
}

/// Takes down what a crash has left at `mountpoint`; `None` when nothing has, or something still uses it.
///
/// # Errors
/// When the run directory cannot be read.
pub fn stale_at(mountpoint: &Path) -> Result<Option<TakenDown>> {
    let wanted = places(mountpoint);
    let Some((entry, _)) = known()?.into_iter().find(|(_, state)| wanted.contains(&state.mountpoint)) else {
        return Ok(None);
    };
    let Some(_lock) = entry.try_lock()? else { return Ok(None) };
    match entry.state()? {
        // What uses it is said by whoever is asked to take it down.
        Some(state) if !is_whole(&entry, &state) => Ok(take_down(&entry).ok()),
        _ => Ok(None),
    }
}

/// Takes down one mount, whose lock the caller holds.
///
/// # Errors
/// `Refused` when it is in use, with who uses it.
pub fn take_down(entry: &Entry) -> Result<TakenDown> {
    let state = entry.state()?;
    if let Some(state) = &state {
        refuse_elsewhere(entry, state)?;
    }
    let mut steps = Vec::new();
    unmount_target(entry, &mut steps)?;
    if let Some(state) = &state {
        unmount_file_system(entry, state, &mut steps)?;
        close_mapper(state, &mut steps)?;
        detach_loops(entry, state, &mut steps)?;
        unmount_image(entry, state, &mut steps)?;
        end_server(state.server, &mut steps);
        // One that was killed as it began may have left an image all the same.
        unmount_image(entry, state, &mut steps)?;
    }
    let trouble = entry.trouble();
    entry.remove()?;
    let (source, mountpoint) = state.map_or_else(Default::default, |state| (state.source, state.mountpoint));
    Ok(TakenDown { id: entry.id(), source, mountpoint, steps, trouble })
}

/// Unmounts the device that what the volume holds went to, if there is one.
///
/// # Errors
/// `Refused` when it is in use, with who uses it; `Output` when it cannot be unmounted.
pub fn unmount_target(entry: &Entry, steps: &mut Vec<String>) -> Result<()> {
    let point = entry.target_dir();
    // The directory is ours alone: so is whatever is mounted there.
    while Host::default().own_mounts()?.iter().any(|mount| mount.point == point) {
        retried(|| unmount_at(&point)).map_err(|e| in_use(e, "the target", &point))?;
        steps.push(format!("unmounted the target at {}", point.display()));
    }
    Ok(())
}

/// Fails when somebody has mounted the file system in another place, too: it could not come down as a whole.
fn refuse_elsewhere(entry: &Entry, state: &State) -> Result<()> {
    // Where its journal is replayed is a place of ours alone.
    let ours = [&state.mountpoint, &entry.target_dir()];
    let elsewhere = file_systems(entry, state)?.into_iter().find(|point| !ours.contains(&point));
    elsewhere.map_or(Ok(()), |other| {
        Err(Error::refused("the file system is mounted in another place, too")
            .with_path(other)
            .with_hint("umount it there, then try again; until then all of it stays as it is"))
    })
}

fn unmount_file_system(entry: &Entry, state: &State, steps: &mut Vec<String>) -> Result<()> {
    let point = &state.mountpoint;
    // Mounted over each other, should somebody have done that, they come off one by one.
    while file_systems(entry, state)?.iter().any(|mounted| mounted == point) {
        retried(|| unmount_at(point)).map_err(|e| in_use(e, "the file system", point))?;
        steps.push(format!("unmounted the file system at {}", point.display()));
    }
    // Somebody may have done so meanwhile.
    refuse_elsewhere(entry, state)
}

/// Where the file systems on our devices are mounted.
fn file_systems(entry: &Entry, state: &State) -> Result<Vec<PathBuf>> {
    let loops = loops(entry, state).into_iter().map(|name| PathBuf::from("/dev").join(name));
    let mapper = state.mapper.as_ref().map(|name| luks::node(name));
    let devices: Vec<_> = loops.chain(mapper).filter_map(|node| DeviceNumber::of_path(&node)).collect();
    let mounts = Host::default().own_mounts()?.into_iter();
    let ours = mounts.filter(|mount| devices.iter().any(|&device| mount.is_on(device)));
    Ok(ours.map(|mount| mount.point).collect())
}

/// Loop devices over our image, by name. Those that somebody else put on an image that is all there is are not ours.
fn loops(entry: &Entry, state: &State) -> Vec<String> {
    if state.image_only { Vec::new() } else { busy::loops_on(&state.image(entry)) }
}

fn close_mapper(state: &State, steps: &mut Vec<String>) -> Result<()> {
    let Some(name) = state.mapper.as_ref().filter(|name| luks::is_open(name)) else { return Ok(()) };
    luks::close(name)?;
    steps.push(format!("closed the decrypted device {name}"));
    Ok(())
}

fn detach_loops(entry: &Entry, state: &State, steps: &mut Vec<String>) -> Result<()> {
    for name in loops(entry, state) {
        detach(&name, &state.image(entry)).map_err(|e| {
            let node = format!("/dev/{name}");
            Error::refused("a loop device is in use").with_path(node).caused_by(e).with_hint(
                "a process or a device mapper has it open: `lsblk` and `fuser` tell which; then try again",
            )
        })?;
        steps.push(format!("detached /dev/{name}"));
    }
    Ok(())
}

fn unmount_image(entry: &Entry, state: &State, steps: &mut Vec<String>) -> Result<()> {
    let dir = state.image_dir(entry);
    while image_is_mounted(entry, state)? {
        retried(|| unmount_image_at(&dir)).map_err(|e| in_use(e, "the image", &dir))?;
        steps.push(format!("unmounted the image at {}", dir.display()));
    }
    Ok(())
}

/// Whether our image's file system shows in its place.
pub fn image_is_mounted(entry: &Entry, state: &State) -> Result<bool> {
    let dir = state.image_dir(entry);
    let mounts = Host::default().own_mounts()?;
    let shows = mounts.iter().rev().find(|mount| mount.point == dir);
    Ok(shows.is_some_and(|mount| mount.kind.starts_with("fuse") && mount.name == Path::new(SOURCE_NAME)))
}

fn unmount_image_at(dir: &Path) -> io::Result<()> {
    match unmount_at(dir) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {}
        other => return other,
    }
    // Who is not root is helped by a program that is.
    for program in ["fusermount3", "fusermount"] {
        let output = Command::new(program).args(["-u", "--"]).arg(dir).stdin(Stdio::null()).output();
        match output {
            // It is not there, or a part of PATH cannot be looked into.
            Err(_) => {}
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => {
                return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
            }
        }
    }
    Err(io::Error::from_raw_os_error(libc::EPERM))
}

/// Waits for a server whose image is gone, and ends one that does not end.
fn end_server(server: Option<Identity>, steps: &mut Vec<String>) {
    let Some(server) = server else { return };
    let began = Instant::now();
    while server.is_alive() && began.elapsed() < MAX_WAIT {
        thread::sleep(Duration::from_millis(5));
    }
    if server.is_alive() {
        server.kill();
        steps.push(format!("ended the server, process {}", server.pid));
    }
}

/// Tries again what fails since something is in use, for a moment.
pub(in crate::workflow) fn retried(action: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match action() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < TRIES => tries += 1,
            other => return other,
        }
        thread::sleep(BETWEEN_TRIES);
    }
}

/// The most users of a file system that are named.
const MAX_NAMED: usize = 8;

fn in_use(e: io::Error, what: &str, point: &Path) -> Error {
    if e.raw_os_error() != Some(libc::EBUSY) {
        return Error::new(ErrorKind::Output, format!("cannot unmount {what}")).with_path(point).caused_by(e);
    }
    let users = busy::users_of(point);
    let who = match users.as_slice() {
        [] => "something that does not show: a process in another mount namespace, or swap".to_owned(),
        users => users.iter().take(MAX_NAMED).map(User::to_string).collect::<Vec<_>>().join(", "),
    };
    Error::refused(format!("{what} is in use by {who}"))
        .with_path(point)
        .with_hint("it goes on being served; end what uses it, then try again")
}
