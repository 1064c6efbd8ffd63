//! rsync: the copying, its progress, and what it could not copy.
//!
//! Deleting is a run of its own, after one that has copied everything: rsync deletes while it copies, and what it could
//! not read would be gone on both sides. `--ignore-errors` is never passed: it means to delete in spite of errors.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::workflow::tool::{Heard, Tool, ToolRun, Tools};

/// The tool.
pub const RSYNC: Tool = Tool { program: "rsync", package: "rsync" };
/// Where its temporary files go: a directory in the root of the target, removed in the end. Always the same, so that
/// one left by a crash is known.
pub const TEMPORARY: &str = ".lhrecover-temporary";

/// How many files that failed are named, and how long a reason or an unfinished line may be, in bytes.
const MAX_FAILED: usize = 1000;
const MAX_LINE_BYTES: usize = 8 << 10;

/// A file that was not copied, or not in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its path in the volume.
    pub path: String,
    /// What rsync says of it.
    pub reason: String,
}

/// What rsync did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was deleted: files, directories and all.
    pub deleted: u64,
    /// Files that failed, by path, the first of them.
    pub failed: Vec<Failed>,
    /// How many more there were.
    pub more_failed: u64,
    /// Whether not everything was copied.
    pub is_partial: bool,
}

/// What is copied where.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where the source is mounted.
    pub source: &'a Path,
    /// Where the target is.
    pub target: &'a Path,
    /// Whether files may be there already: then it is by their content that they are compared.
    pub compare: bool,
    /// What the source does not have is deleted.
    pub delete: bool,
    /// Nothing is done.
    pub dry_run: bool,
    /// How many bytes the source's files have.
    pub total_bytes: u64,
}

/// Copies.
///
/// # Errors
/// `Usage` when rsync is not installed; `Output` when the target fails or is full; `External` when rsync does; when
/// stopped.
pub fn copy(copy: Copy<'_>, tools: &Tools, run: &Run<'_>) -> Result<Copied> {
    let name = if copy.dry_run { "looking what rsync would copy" } else { "copying files with rsync" };
    run.event(Event::Phase { name, total_bytes: Some(copy.total_bytes).filter(|_| !copy.dry_run) });
    let mut copied = pass(copy, &["--force"], tools, run)?;
    run.event(Event::PhaseDone);
    if copy.delete && !copied.is_partial {
        run.event(Event::Phase { name: "deleting what the source does not have", total_bytes: None });
        let deleted = pass(copy, &["--delete", "--existing", "--ignore-existing"], tools, run)?;
        run.event(Event::PhaseDone);
        copied.deleted = copied.deleted.saturating_add(deleted.deleted);
        copied.is_partial = deleted.is_partial;
        copied.failed.extend(deleted.failed);
        copied.more_failed += deleted.more_failed;
    }
    Ok(copied)
}

fn pass(copy: Copy<'_>, more: &[&str], tools: &Tools, run: &Run<'_>) -> Result<Copied> {
    let mut call = RSYNC.call(["-aHAXS", "--numeric-ids", "--no-human-readable", "--stats", "--outbuf=N"]);
    // Times are told apart by their nanoseconds, too: what was written in the same second would keep a wrong one.
    let more_options = ["--info=progress2", "--modify-window=-1", "--exclude=/lost+found"];
    call.args.extend(more_options.map(OsString::from));
    // Neither copied nor deleted.
    call.args.push(format!("--exclude=/{TEMPORARY}").into());
    if copy.compare {
        call.args.push("--checksum".into());
    }
    call.args.push(if copy.dry_run { "--dry-run".into() } else { format!("--temp-dir={TEMPORARY}").into() });
    call.args.extend(more.iter().map(OsString::from));
    // With a slash at the end: what is in it.
    call.args.extend([copy.source.join(""), copy.target.join("")].map(PathBuf::into_os_string));
    let mut said = Said::new(copy, run);
    let ran = tools.call(&call, run, |heard| said.hear(heard))?;
    said.finish(&ran)
}

/// What rsync says, taken apart as it comes in.
struct Said<'a> {
    run: &'a Run<'a>,
    roots: [String; 2],
    output: Lines,
    errors: Lines,
    done_bytes: u64,
    failed: BTreeMap<String, String>,
    copied: Copied,
}

impl<'a> Said<'a> {
    fn new(copy: Copy<'_>, run: &'a Run<'a>) -> Self {
        let root = |path: &Path| path.join("").display().to_string();
        Said {
            run,
            roots: [root(copy.source), root(copy.target)],
            output: Lines::default(),
            errors: Lines::default(),
            done_bytes: 0,
            failed: BTreeMap::new(),
            copied: Copied::default(),
        }
    }

    fn hear(&mut self, heard: Heard<'_>) {
        let (lines, bytes) = match heard {
            Heard::Output(bytes) => (&mut self.output, bytes),
            Heard::Errors(bytes) => (&mut self.errors, bytes),
        };
        for line in lines.cut(bytes) {
            match heard {
                Heard::Output(_) => self.output_line(&line),
                Heard::Errors(_) => self.error_line(&line),
            }
        }
    }

    fn output_line(&mut self, line: &str) {
        if let Some(done_bytes) = progress(line) {
            self.run.event(Event::Advanced { bytes: done_bytes.saturating_sub(self.done_bytes) });
            self.done_bytes = self.done_bytes.max(done_bytes);
        }
        let number = |name: &str| {
            let rest = line.strip_prefix(name)?.trim_start();
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        if let Some(files) = number("Number of regular files transferred:") {
            self.copied.files = files;
        } else if let Some(bytes) = number("Total transferred file size:") {
            self.copied.bytes = bytes;
        } else if let Some(deleted) = number("Number of deleted files:") {
            self.copied.deleted = deleted;
        }
    }

    fn error_line(&mut self, line: &str) {
        let Some(Failed { path, reason }) = failure(line, &self.roots) else { return };
        if self.failed.contains_key(&path) {
            // The first reason is the cause, the others follow from it.
        } else if self.failed.len() < MAX_FAILED {
            self.failed.insert(path, reason);
        } else {
            self.copied.more_failed += 1;
        }
    }

    fn finish(mut self, ran: &ToolRun) -> Result<Copied> {
        self.copied.failed = self.failed.into_iter().map(|(path, reason)| Failed { path, reason }).collect();
        let error = |kind, what: &str| Err(Error::new(kind, format!("{what}: {}", ending(ran))));
        match ran.exit_code {
            Some(0) => Ok(self.copied),
            // Some of it was not copied; 24: since it vanished meanwhile.
            Some(23 | 24) => Ok(Copied { is_partial: true, ..self.copied }),
            Some(11) => error(ErrorKind::Output, "rsync cannot write to the target").map_err(|e: Error| {
                e.with_hint(
                    "is it full? lhrecover inject --dry-run says how much is to be copied; a larger device takes more; \
                     see dmesg for what the disk said",
                )
            }),
            _ => error(ErrorKind::External, "rsync failed").map_err(|e: Error| {
                e.with_hint(
                    "what was copied stays: run it again, with --overwrite --delete, and it goes on; `dmesg` says whether a \
                     disk failed",
                )
            }),
        }
    }
}

/// How it ended, in its own words: the last lines, which say why.
fn ending(ran: &ToolRun) -> String {
    let telling = |line: &&String| line.starts_with("rsync") || line.contains("error");
    let lines: Vec<_> = ran.lines.iter().filter(telling).take(3).map(String::as_str).collect();
    match (ran.exit_code, lines.is_empty()) {
        (Some(code), true) => format!("exit code {code}"),
        (None, true) => "a signal ended it".to_owned(),
        _ => lines.join("; "),
    }
}

/// The bytes of a line of progress: `   3000003 100%  238.42MB/s    0:00:01 (xfr#1, to-chk=2/4)`.
fn progress(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    let bytes = words.next()?.parse().ok()?;
    words.next().filter(|word| word.ends_with('%')).map(|_| bytes)
}

/// Which file a line of trouble is about, and what it says: `rsync: [sender] read errors mapping "/x/a": Input/output error
/// (5)`, or `ERROR: a failed verification -- update discarded.`
fn failure(line: &str, roots: &[String; 2]) -> Option<Failed> {
    if let Some(path) = line.strip_prefix("ERROR: ").and_then(|rest| rest.split_once(" failed verification"))
    {
        let reason = "it was read otherwise the second time, or could not be".to_owned();
        return Some(Failed { path: path.0.to_owned(), reason });
    }
    if !line.starts_with("rsync: ")
        && !line.starts_with("file has vanished: ")
        && !line.starts_with("cannot delete")
    {
        return None;
    }
    let (before, rest) = line.split_once('"')?;
    // A name may hold the same character: it ends where the last one is.
    let (path, reason) = rest.rsplit_once('"')?;
    // A temporary file that was to get its name: that is the one it was about.
    let path = path.rsplit_once("\" -> \"").map_or(path, |(_, path)| path);
    let path = roots.iter().find_map(|root| path.strip_prefix(root.as_str())).unwrap_or(path);
    let what = before.trim_start_matches("rsync: ");
    let what = what.split_once("] ").map_or(what, |(_, what)| what).trim_end_matches([' ', '(', ':']);
    let reason = reason.trim_start_matches([')', ':', ' ']);
    let reason = [what, reason].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    Some(Failed { path: if path.is_empty() { ".".to_owned() } else { path.to_owned() }, reason })
}

/// Text cut into lines, which end with a carriage return, too.
#[derive(Default)]
struct Lines {
    open: Vec<u8>,
}

impl Lines {
    fn cut(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                let line = String::from_utf8_lossy(&self.open);
                if !line.trim().is_empty() {
                    lines.push(line.trim_end().to_owned());
                }
                self.open.clear();
            } else if self.open.len() < MAX_LINE_BYTES {
                self.open.push(byte);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_progress_are_numbers() {
        assert_eq!(
            progress("        3000003 100%  238.42MB/s    0:00:00 (xfr#2, to-chk=1/4)"),
            Some(3_000_003)
        );
        assert_eq!(progress("Number of files: 4 (reg: 2, dir: 2)"), None);
        let mut lines = Lines::default();
        assert_eq!(lines.cut(b"\r  1 2%\r  3"), ["  1 2%"]);
        assert_eq!(lines.cut(b" 4%\n"), ["  3 4%"]);
    }

    #[test]
    fn files_that_failed_are_named_as_they_are_in_the_volume() {
        let roots = ["/run/x/view/".to_owned(), "/run/x/target/".to_owned()];
        let of = |line: &str| failure(line, &roots).map(|failed| (failed.path, failed.reason));
        let pair = |path: &str, reason: &str| Some((path.to_owned(), reason.to_owned()));
        let io = "Input/output error (5)";
        assert_eq!(
            of(&format!("rsync: [sender] read errors mapping \"/run/x/view/d/a \"b\"\": {io}")),
            pair("d/a \"b\"", &format!("read errors mapping: {io}"))
        );
        assert_eq!(
            of(&format!("rsync: [sender] readdir(\"/run/x/view/d\"): {io}")),
            pair("d", &format!("readdir: {io}"))
        );
        assert!(of("ERROR: a failed verification -- update discarded.").is_some_and(|(path, _)| path == "a"));
        assert_eq!(of("rsync error: some files/attrs were not transferred (code 23)"), None);
    }
}
