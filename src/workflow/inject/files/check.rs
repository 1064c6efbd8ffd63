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
        // What it found counts, whether or not it could go on.
        is_damage: |code| code & 0b100 != 0 || code & !0b111 == 0,
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

/// Whether there is a checker for a file system of that name.
///
/// # Errors
/// `Usage` when there is, and it is not installed.
pub fn must_have(file_system: &str, tools: &Tools) -> Result<bool> {
    match CHECKERS.iter().find(|checker| checker.file_system == file_system) {
        Some(checker) => tools.must_have(checker.tool).map(|_| true),
        None => Ok(false),
    }
}

/// Checks the device's file system, which is not mounted. Nothing is written.
///
/// # Errors
/// As [`TargetDevice::hold`]; when the tool cannot be run; when stopped.
pub fn check(device: &TargetDevice, file_system: &str, tools: &Tools, run: &Run<'_>) -> Result<Checked> {
    let Some(checker) = CHECKERS.into_iter().find(|checker| checker.file_system == file_system) else {
        let why = Some(format!("there is no checker for {file_system}"));
        return Ok(Checked { command: None, is_sound: None, lines: Vec::new(), why });
    };
    let Checker { tool, args, is_damage, .. } = checker;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_from_not_knowing() {
        let [ext, xfs, btrfs] = CHECKERS.map(|checker| checker.is_damage);
        // 4: errors are left; 8: it could not go on; 32: it was stopped.
        assert_eq!([4, 12, 8, 16, 32].map(ext), [true, true, false, false, false]);
        assert_eq!(([1, 2].map(xfs), [1, 2].map(btrfs)), ([true, false], [true, false]));
    }
}
