//! What went wrong on the way to a node, in words, and what to do about it.

use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::node::target::Target;

/// How many of the last lines are repeated in a message.
const LINES: usize = 3;
/// How much of one line.
const LINE_CHARS: usize = 300;

/// What in ssh's or sudo's words shows which trouble it is, and what helps. The first that fits counts; `{ssh}` stands
/// for the command that does by hand what we do.
const CAUSES: [(&str, &str); 16] = [
    (
        "IDENTIFICATION HAS CHANGED",
        "the node shows another key than the one known: find out why before anything else (a reinstall makes a new one); \
         then remove the old one with ssh-keygen -R",
    ),
    (
        "Host key verification failed",
        "the node's key is not known here, and is never accepted unseen: connect once by hand and compare it: {ssh}",
    ),
    (
        "Permission denied (",
        "ssh-add the key, or name it in ~/.ssh/config; nobody is asked for a password. To try: {ssh} true",
    ),
    ("Too many authentication failures", "name the right key in ~/.ssh/config, with IdentitiesOnly yes"),
    (
        "Could not resolve hostname",
        "is the name right? an address, or a name of ~/.ssh/config, works as well",
    ),
    (
        "Connection refused",
        "the machine is there and no sshd answers: is it running, and on which port (~/.ssh/config)?",
    ),
    ("timed out", "is the node up, and reachable from here? To try: {ssh}"),
    ("No route to host", "is the node up, and in this network?"),
    ("Network is unreachable", "is this machine's network up?"),
    (
        "a password is required",
        "let the user run sudo without a password there (NOPASSWD), or log in as root",
    ),
    ("not in the sudoers", "log in as root, or as a user who may use sudo"),
    (
        "not allowed to execute",
        "the user may use sudo, and not for this: it has to run sh; or log in as root",
    ),
    ("'sudo': No such file", "there is no sudo on the node: log in as root"),
    ("\u{2018}sudo\u{2019}: No such file", "there is no sudo on the node: log in as root"),
    ("not responding", "the node stopped answering: is it up, and reachable from here? To try: {ssh}"),
    ("onfiguration option", "ssh does not take its configuration: correct it, or name another one"),
];

/// The command that connects by hand.
pub fn by_hand(target: &Target, config: Option<&Path>) -> String {
    let config = config.map(|path| format!("-F {} ", path.display())).unwrap_or_default();
    format!("ssh {config}{}", target.destination())
}

/// An error about a node: `what` happened, what was `said` on standard error, and what to do.
pub fn failed(target: &Target, config: Option<&Path>, what: &str, said: &[u8]) -> Error {
    let ssh = by_hand(target, config);
    let said = String::from_utf8_lossy(said);
    let hint =
        CAUSES.iter().find(|(sign, _)| said.contains(sign)).map(|(_, hint)| hint.replace("{ssh}", &ssh));
    let last = last_lines(&said);
    let colon = if last.is_empty() { "" } else { ": " };
    Error::new(ErrorKind::External, format!("node {}: {what}{colon}{last}", target.destination()))
        .with_hint(hint.unwrap_or_else(|| format!("try by hand: {ssh}")))
}

/// The last lines of what was said, on one line, control characters shown and not obeyed.
pub fn last_lines(said: &str) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    last.iter().map(|line| printable(line)).collect::<Vec<_>>().join("; ")
}

fn printable(line: &str) -> String {
    let show = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    line.chars().take(LINE_CHARS).map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn what_ssh_says_becomes_one_line_and_a_hint() {
        let target = Target::parse(OsStr::new("root@pi4:/x")).unwrap();
        let said = b"one\n@@@\n\x1b[2Jtwo\r\n\nHost key verification failed.\r\n";
        let e = failed(&target, Some(Path::new("/c")), "no connection", said);
        assert_eq!(
            e.to_string(),
            "node root@pi4: no connection: @@@; \\u{1b}[2Jtwo; Host key verification failed."
        );
        assert!(e.hint().unwrap().ends_with("compare it: ssh -F /c root@pi4"), "{:?}", e.hint());
        let e = failed(&target, None, "no answer", b"");
        assert_eq!(
            (e.to_string().as_str(), e.hint()),
            ("node root@pi4: no answer", Some("try by hand: ssh root@pi4"))
        );
    }
}
