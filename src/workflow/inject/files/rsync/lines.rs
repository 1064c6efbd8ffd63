//! What rsync writes, line by line: what it sent, how far it is, and what it is in trouble about.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::TEMPORARY;

/// How long a line may be, in bytes.
const MAX_LINE_BYTES: usize = 8 << 10;

/// A regular file that was sent, and its length: `>f+++++++++ 60000 d0/file 3`. After a line of trouble it follows on one of
/// progress.
pub(super) fn sent(line: &str) -> Option<(u64, PathBuf)> {
    let (before, item) = line.split_once(">f")?;
    if !before.is_empty() && progress(before).is_none() {
        return None;
    }
    let (_, rest) = item.split_once(' ')?;
    let (bytes, path) = rest.trim_start().split_once(' ')?;
    Some((bytes.parse().ok()?, path_of(path)))
}

/// The bytes of a line of progress: `   3000003 100%  238.42MB/s    0:00:01 (xfr#1, to-chk=2/4)`.
pub(super) fn progress(line: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    let bytes = words.next()?.parse().ok()?;
    words.next().filter(|word| word.ends_with('%')).map(|_| bytes)
}

/// A path as rsync writes it: whatever is no plain character is `\#` and three octal digits (`rwrite` in its `log.c`).
fn path_of(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match bytes.get(at..at + 5).and_then(escaped) {
            Some(byte) => {
                path.push(byte);
                at += 5;
            }
            None => {
                path.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(path).into()
}

fn escaped(bytes: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(bytes.strip_prefix(b"\\#")?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// What a line of trouble is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A file, by its path in the volume.
    File(PathBuf),
    /// A temporary file, by the name of the file that it is for.
    Temporary(OsString),
    /// A file that a directory is in the way of.
    InTheWay(PathBuf),
}

/// What a line of trouble is about, and what it says: `rsync: [sender] read errors mapping "/x/a": Input/output error (5)`,
/// or `ERROR: a failed verification -- update discarded.`
pub(super) fn failure(line: &str, roots: &[&Path; 2]) -> Option<(About, String)> {
    if let Some((path, _)) =
        line.strip_prefix("ERROR: ").and_then(|rest| rest.rsplit_once(" failed verification"))
    {
        let reason = "it was read otherwise the second time, or could not be".to_owned();
        return Some((About::File(path_of(path)), reason));
    }
    if let Some((_, path)) =
        line.strip_prefix("could not make way for new ").and_then(|rest| rest.split_once(": "))
    {
        return Some((About::InTheWay(path_of(path)), String::new()));
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
    let path = match path.split_once("\",\"") {
        // The name of an attribute follows.
        Some((path, _)) if before.ends_with("xattr(") => path,
        // A temporary file that was to get its name: that is the one it was about.
        _ => path.rsplit_once("\" -> \"").map_or(path, |(_, path)| path),
    };
    let what = before.trim_start_matches("rsync: ");
    let what = what.split_once("] ").map_or(what, |(_, what)| what).trim_end_matches([' ', '(', ':']);
    let reason = reason.trim_start_matches([')', ':', ' ']);
    let reason = [what, reason].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    Some((about(path_of(path), roots), reason))
}

fn about(path: PathBuf, roots: &[&Path; 2]) -> About {
    let path = roots.iter().find_map(|root| path.strip_prefix(root).ok()).unwrap_or(&path);
    if let Ok(name) = path.strip_prefix(TEMPORARY) {
        // With a full stop and six characters at its end.
        let name = name.as_os_str().as_bytes();
        if let Some(name) =
            name.len().checked_sub(7).and_then(|len| name.get(..len)).filter(|name| !name.is_empty())
        {
            return About::Temporary(OsStr::from_bytes(name).to_owned());
        }
    }
    About::File(if path.as_os_str().is_empty() { ".".into() } else { path.to_path_buf() })
}

/// Text cut into lines, which end with a carriage return, too.
#[derive(Default)]
pub(super) struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// What is complete with these bytes.
    pub(super) fn cut(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if matches!(byte, b'\n' | b'\r') {
                let line = String::from_utf8_lossy(&self.open);
                if !line.trim().is_empty() {
                    lines.push(line.into_owned());
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
    fn names_are_what_they_are_in_the_volume() {
        let cases: [(&str, &[u8]); 4] = [
            ("a b", b"a b"),
            ("n\\#012l\\#377x", b"n\nl\xffx"),
            ("\\#134#012", b"\\#012"),
            ("\\#9 \\#77", b"\\#9 \\#77"),
        ];
        for (text, bytes) in cases {
            assert_eq!(path_of(text).as_os_str().as_bytes(), bytes, "{text}");
        }
        assert_eq!(sent(">f+++++++++ 60000 d0/ file 3"), Some((60_000, "d0/ file 3".into())));
        let after_progress = "  300000  25%   50.97MB/s    0:00:00 (xfr#5, to-chk=15/24)>f+++++++++ 7 a";
        assert_eq!(sent(after_progress), Some((7, "a".into())));
        assert_eq!((sent("cd+++++++++ 4096 d/"), sent("cd+++++++++ 4096 d>f 1 2/")), (None, None));
    }

    #[test]
    fn files_that_failed_are_named_as_they_are_in_the_volume() {
        let roots = [Path::new("/run/x/view"), Path::new("/run/x/target")];
        let of = |line: &str| failure(line, &roots);
        let file = |path: &str, reason: &str| Some((About::File(path.into()), reason.to_owned()));
        let io = "Input/output error (5)";
        assert_eq!(
            of(&format!("rsync: [sender] read errors mapping \"/run/x/view/d/a \"b\"\": {io}")),
            file("d/a \"b\"", &format!("read errors mapping: {io}"))
        );
        assert_eq!(
            of(&format!("rsync: [sender] readdir(\"/run/x/view/d\"): {io}")),
            file("d", &format!("readdir: {io}"))
        );
        assert_eq!(
            of(
                "rsync: [generator] rsync_xal_set: lsetxattr(\"/run/x/target/d\",\"user.big\") failed: No space left on device (28)"
            ),
            file("d", "rsync_xal_set: lsetxattr: failed: No space left on device (28)")
        );
        let temporary = "rsync: [receiver] rsync_xal_set: lsetxattr(\"/run/x/target/.lhrecover-temporary/a.e41wrR\",\"user.big\") failed: x";
        assert_eq!(of(temporary).map(|(about, _)| about), Some(About::Temporary("a".into())));
        let in_the_way = of("could not make way for new regular file: d/n\\#012l: x");
        assert_eq!(in_the_way.map(|(about, _)| about), Some(About::InTheWay("d/n\nl: x".into())));
        let twice = of("ERROR: a failed verification -- update discarded.");
        assert_eq!(twice.map(|(about, _)| about), Some(About::File("a".into())));
        assert_eq!(of("rsync error: some files/attrs were not transferred (code 23)"), None);
    }
}
