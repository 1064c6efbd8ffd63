//! A file system that is smaller than its device is made to take all of it.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::workflow::tool::{Call, Tool, ToolRun, Tools};

const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };
const RESIZE2FS: Tool = Tool { program: "resize2fs", package: "e2fsprogs" };
const XFS_GROWFS: Tool = Tool { program: "xfs_growfs", package: "xfsprogs" };

/// Where a file system grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// ext: on the device, which is not mounted.
    Unmounted,
    /// XFS: where it is mounted.
    Mounted,
}

impl Growth {
    /// How one of this kind, by the kernel's name, grows; `None` when it cannot be grown here.
    pub fn of(file_system: &str) -> Option<Self> {
        match file_system {
            "ext4" => Some(Growth::Unmounted),
            "xfs" => Some(Growth::Mounted),
            _ => None,
        }
    }

    /// Makes sure that what it takes is there, before anything is written.
    ///
    /// # Errors
    /// `Usage` when it is not installed.
    pub fn check_available(self, tools: &Tools) -> Result<()> {
        match self {
            Growth::Unmounted => tools.must_have(E2FSCK).and_then(|_| tools.must_have(RESIZE2FS)).map(drop),
            Growth::Mounted => tools.must_have(XFS_GROWFS).map(drop),
        }
    }
}

/// Grows the ext file system on `device`, its journal played back and checked before, as resize2fs wants it.
///
/// # Errors
/// `External` when the file system is damaged, or cannot be grown.
pub fn ext(device: &Path, tools: &Tools, run: &Run<'_>) -> Result<()> {
    run.check()?;
    run.event(Event::Phase { name: "growing the file system", total_bytes: None });
    let check = E2FSCK.call(["-f", "-p"]);
    let checked = on(check, device, tools, run)?;
    // e2fsck(8), "EXIT CODE": up to 3, what was wrong was corrected.
    if !matches!(checked.exit_code, Some(0..=3)) {
        return Err(failed(&checked, device, "it is damaged: `e2fsck -f` repairs it; nothing was grown"));
    }
    let grown = on(RESIZE2FS.call(["-f"]), device, tools, run)?;
    run.event(Event::PhaseDone);
    match grown.exit_code {
        Some(0) => Ok(()),
        _ => Err(failed(&grown, device, "check it with `e2fsck -f`; then resize2fs can be tried by hand")),
    }
}

/// Grows the XFS file system that is mounted at `point`.
///
/// # Errors
/// `External` when it cannot be grown.
pub fn xfs(point: &Path, tools: &Tools, run: &Run<'_>) -> Result<()> {
    run.check()?;
    run.event(Event::Phase { name: "growing the file system", total_bytes: None });
    let grown = on(XFS_GROWFS.call(["-d"]), point, tools, run)?;
    run.event(Event::PhaseDone);
    match grown.exit_code {
        Some(0) => Ok(()),
        _ => Err(failed(&grown, point, "mount it, and try xfs_growfs by hand")),
    }
}

fn on(call: Call, path: &Path, tools: &Tools, run: &Run<'_>) -> Result<ToolRun> {
    let mut call = call.to_the_end();
    call.args.push(path.into());
    tools.call(&call, run, |_| {})
}

fn failed(ran: &ToolRun, path: &Path, hint: &str) -> Error {
    Error::new(
        ErrorKind::External,
        format!("the file system could not be grown: {}: {}", ran.command, ran.words()),
    )
    .with_path(path)
    .with_hint(hint)
}
