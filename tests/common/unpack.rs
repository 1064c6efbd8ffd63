//! Unpacks a bundled fixture: zstd in-process, then GNU tar, which keeps holes and explicit zeros apart.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The fixtures are compressed with a long window; the decoder must allow it.
const WINDOW_LOG_MAX: u32 = 27;

/// Where the bundled fixtures are.
pub fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Unpacks `tests/fixtures/<case>.tar.zst` into the existing directory `into`.
pub fn unpack(case: &str, into: &Path) -> io::Result<()> {
    let archive = fixtures_dir().join(format!("{case}.tar.zst"));
    let mut decoder = zstd::Decoder::new(File::open(&archive)?)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    let mut tar =
        Command::new("tar").args(["-x", "-f", "-", "-C"]).arg(into).stdin(Stdio::piped()).spawn()?;
    let mut pipe = tar.stdin.take().ok_or_else(|| io::Error::other("tar has no standard input"))?;
    let copied = io::copy(&mut decoder, &mut pipe);
    drop(pipe);
    let status = tar.wait()?;
    copied?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("tar: {status}"))) }
}
