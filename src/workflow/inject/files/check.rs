//! The file system on the device, checked by its own tool once all is there.

use crate::error::Result;
use crate::event::{Event, Run};
use crate::workflow::inject::files::target::TargetDevice;
use crate::workflow::tool::{Tool, Tools};

/// By the kernel's names: who checks, how, and what exit code means damage (e2fsck(8), xfs_repair(8), btrfs-check(8)).
const CHECKERS: [(&str, Tool, &[&str], fn(i32) -> bool); 3] = [
    ("ext4", Tool { program: "e2fsck", package: "e2fsprogs" }, &["-f", "-n"], |code| code & !0b111 == 0),
    ("xfs", Tool { program: "xfs_repair", package: "xfsprogs" }, &["-n"], |code| code == 1),
    ("btrfs", Tool { program: "btrfs", package: "btrfs-progs" }, &["check", "--readonly"], |code| code == 1),
];

/// What the checker came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What was run; `None` when nothing was.
    pub command: Option<String>,
    /// Whether it found nothing wrong; `None` when it could not tell.
    pub is_sound: Option<bool>,
    /// The first lines of what it said.
    pub lines: Vec<String>,
    /// Why it could not tell.
    pub why: Option<String>,
}

/// Checks the device's file system, which is not mounted. Nothing is written.
///
/// # Errors
/// As [`TargetDevice::hold`]; when the tool cannot be run; when stopped.
pub fn check(device: &TargetDevice, file_system: &str, tools: &Tools, run: &Run<'_>) -> Result<Checked> {
    let unchecked =
        |why: String| Ok(Checked { command: None, is_sound: None, lines: Vec::new(), why: Some(why) });
    let Some((_, tool, args, is_damage)) = CHECKERS.into_iter().find(|(name, ..)| *name == file_system)
    else {
        return unchecked(format!("there is no checker for {file_system}"));
    };
    if tools.find(tool.program).is_none() {
        return unchecked(format!("{} is not installed: apt-get install {}", tool.program, tool.package));
    }
    drop(device.hold()?);
    run.event(Event::Phase { name: &format!("checking with {}", tool.program), total_bytes: None });
    let mut call = tool.call(args.iter().copied());
    call.args.push(device.path().into());
    let ran = tools.call(&call, run, |_| {})?;
    run.event(Event::PhaseDone);
    let is_sound = match ran.exit_code {
        Some(0) => Some(true),
        Some(code) if is_damage(code) => Some(false),
        _ => None,
    };
    let ended = || {
        format!(
            "{} ended with {}",
            tool.program,
            ran.exit_code.map_or("a signal".to_owned(), |c| format!("exit code {c}"))
        )
    };
    let why = is_sound.is_none().then(ended);
    Ok(Checked { command: Some(ran.command), is_sound, lines: ran.lines, why })
}
