//! The file system on the device, checked by its own tool once all is there.

use crate::error::Result;
use crate::event::{Event, Run};
use crate::workflow::inject::files::target::TargetDevice;
use crate::workflow::tool::{Tool, Tools};

/// Who checks a file system, and how.
struct Checker {
    /// The kernel's name of the file system.
    file_system: &'static str,
    tool: Tool,
    args: &'static [&'static str],
    /// Whether an exit code means damage, rather than that all is well or that it could not be told.
    is_damage: fn(i32) -> bool,
}

/// What exit codes mean: e2fsck(8), xfs_repair(8), btrfs-check(8).
const CHECKERS: [Checker; 3] = [
    Checker {
        file_system: "ext4",
        tool: Tool { program: "e2fsck", package: "e2fsprogs" },
        args: &["-f", "-n"],
        is_damage: |code| code & !0b111 == 0,
    },
    Checker {
        file_system: "xfs",
        tool: Tool { program: "xfs_repair", package: "xfsprogs" },
        args: &["-n"],
        is_damage: |code| code == 1,
    },
    Checker {
        file_system: "btrfs",
        tool: Tool { program: "btrfs", package: "btrfs-progs" },
        args: &["check", "--readonly"],
        is_damage: |code| code == 1,
    },
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
    let Some(checker) = CHECKERS.into_iter().find(|checker| checker.file_system == file_system) else {
        return unchecked(format!("there is no checker for {file_system}"));
    };
    let Checker { tool, args, is_damage, .. } = checker;
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
