//! A file system's own checker, before and after its journal is replayed.
//!
//! A checker that only reads ignores the journal, so what it finds wrong before the replay need not be wrong: nearly every
//! replica of a volume that was in use has a journal that waits. What counts is the state after it.

use std::path::Path;

use crate::error::Result;
use crate::event::{Event, Run};
use crate::guest::facts::Kind;
use crate::workflow::tool::{Tool, ToolRun, Tools};

/// What a checker came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It found nothing wrong.
    Sound,
    /// It found something wrong.
    Damaged,
    /// It could not tell.
    Unchecked,
}

/// A look of a checker at a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What came of it.
    pub state: State,
    /// The tool's own words; `None` when it did not run.
    pub run: Option<ToolRun>,
    /// Why it could not tell.
    pub why: Option<String>,
}

impl Look {
    /// It was not looked at.
    pub fn not_done(why: impl Into<String>) -> Self {
        Look { state: State::Unchecked, run: None, why: Some(why.into()) }
    }

    /// The same look, which proves nothing.
    pub fn doubted(self, why: impl Into<String>) -> Self {
        Look { state: State::Unchecked, why: Some(why.into()), ..self }
    }
}

const E2FSCK: Tool = Tool { program: "e2fsck", package: "e2fsprogs" };
const XFS_REPAIR: Tool = Tool { program: "xfs_repair", package: "xfsprogs" };
const BTRFS: Tool = Tool { program: "btrfs", package: "btrfs-progs" };

/// Has the file system in the file `image` checked. Nothing is written.
///
/// # Errors
/// When the tool cannot be run, or it is stopped.
pub fn look(kind: Kind, image: &Path, tools: &Tools, run: &Run<'_>) -> Result<Look> {
    let (tool, args, state): (_, &[&str], fn(i32) -> State) = match kind {
        Kind::Ext => (E2FSCK, &["-f", "-n"], e2fsck_state),
        Kind::Xfs => (XFS_REPAIR, &["-n", "-f"], xfs_repair_state),
        Kind::Btrfs => (BTRFS, &["check", "--readonly"], btrfs_state),
        _ => return Ok(Look::not_done("there is no checker for it")),
    };
    run.event(Event::Phase { name: &format!("checking with {}", tool.program), total_bytes: None });
    let ran = tools.run(tool, args, image, run)?;
    run.event(Event::PhaseDone);
    let Some(mut ran) = ran else { return Ok(Look::not_done(missing(tool))) };
    // Where the image is served for the tool tells nobody anything.
    for line in &mut ran.lines {
        *line = line.replace(&*image.to_string_lossy(), "IMAGE");
    }
    let (state, why) = match ran.exit_code.map(|code| (code, state(code))) {
        Some((code, State::Unchecked)) => {
            (State::Unchecked, Some(format!("{} ended with exit code {code}", tool.program)))
        }
        Some((_, state)) => (state, None),
        None => (State::Unchecked, Some(format!("{} was ended before it was done", tool.program))),
    };
    Ok(Look { state, run: Some(ran), why })
}

/// Replays the journal of the ext file system in the file `image`, which is written to. Says why when that fails.
///
/// # Errors
/// As [`look`].
pub fn replay_ext(image: &Path, tools: &Tools, run: &Run<'_>) -> Result<std::result::Result<ToolRun, Look>> {
    run.event(Event::Phase { name: "replaying the journal on a throw-away copy", total_bytes: None });
    let ran = tools.run(E2FSCK, &["-p", "-E", "journal_only"], image, run)?;
    run.event(Event::PhaseDone);
    let Some(ran) = ran else { return Ok(Err(Look::not_done(missing(E2FSCK)))) };
    // 1 says that something was corrected, which it was.
    Ok(match ran.exit_code {
        Some(0 | 1) => Ok(ran),
        _ => Err(Look {
            state: State::Unchecked,
            run: Some(ran),
            why: Some("e2fsck could not replay the journal".to_owned()),
        }),
    })
}

fn missing(tool: Tool) -> String {
    format!("{} is not installed: apt-get install {}", tool.program, tool.package)
}

/// e2fsck(8), "EXIT CODE": a sum of bits, of which 4 says that errors were left, and those above that it did not work.
fn e2fsck_state(code: i32) -> State {
    match code {
        0 => State::Sound,
        code if code & !0b111 == 0 => State::Damaged,
        _ => State::Unchecked,
    }
}

/// xfs_repair(8), "EXIT STATUS": 1 says that something is corrupt, when it was told not to modify anything.
fn xfs_repair_state(code: i32) -> State {
    match code {
        0 => State::Sound,
        1 => State::Damaged,
        _ => State::Unchecked,
    }
}

/// btrfs-check(8), "EXIT STATUS": 1 says that something is wrong.
fn btrfs_state(code: i32) -> State {
    xfs_repair_state(code)
}
