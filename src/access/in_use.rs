//! Whether somebody writes to an image while it is read.
//!
//! Of a replica the engine is looked for. An image has no engine, but it may be attached and mounted, or be the disk of
//! a virtual machine that runs.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::model::finding::{Code, Finding};
use crate::sys::device::{DeviceNumber, Host};
use crate::sys::dir::FileId;
use crate::sys::process;

/// Refuses an image, a file or a block device, that is being written to, unless there is leave; then it is a finding.
///
/// # Errors
/// `Refused` without leave; `Usage` when what the kernel knows cannot be read.
pub(super) fn refuse_live(path: &Path, image: &Metadata, leave: bool) -> Result<Option<Finding>> {
    let Some(who) = writer(path, image)? else { return Ok(None) };
    if !leave {
        return Err(Error::refused(format!("the image is in use: {who}")).with_path(path).with_hint(
            "unmount it, or stop what writes to it, first; to read it while it changes: --allow-live",
        ));
    }
    let finding = Finding::new(
        Code::LiveHead,
        format!("the image is in use: {who}"),
        "it can change while it is read: the result would be a mix of different moments",
    );
    Ok(Some(finding.advise("unmount it, or stop what writes to it, and read it again")))
}

/// Who writes to it, in words.
fn writer(path: &Path, image: &Metadata) -> Result<Option<String>> {
    let host = Host::default();
    if image.file_type().is_block_device() {
        return writer_of_device(&host, DeviceNumber::from_raw(image.rdev()));
    }
    let of_loops = host.loops_over_file(image).into_iter().map(|(_, device)| writer_of_device(&host, device));
    if let Some(who) = of_loops.collect::<Result<Vec<_>>>()?.into_iter().flatten().next() {
        return Ok(Some(who));
    }
    let id = FileId { dev: image.dev(), ino: image.ino() };
    let holders = process::holders_of_file(path, id).found;
    let writer =
        holders.into_iter().find_map(|holder| Some((holder.pid.filter(|_| holder.writes)?, holder.command)));
    Ok(writer.map(|(pid, command)| format!("process {pid} ({command}) has it open for writing")))
}

fn writer_of_device(host: &Host, device: DeviceNumber) -> Result<Option<String>> {
    let relatives: Vec<_> = host.relatives(device)?;
    let mounts = host.mounts()?;
    for relative in &relatives {
        if let Some(mount) = mounts.iter().find(|mount| mount.is_writable && mount.is_on(relative.number)) {
            return Ok(Some(format!(
                "{} is mounted for writing at {}",
                relative.name,
                mount.point.display()
            )));
        }
    }
    let numbers: Vec<_> = relatives.iter().map(|relative| relative.number).collect();
    let (writer, _) = host.writer(&numbers);
    Ok(writer.map(|opener| format!("process {} ({}) has it open for writing", opener.pid, opener.program)))
}
