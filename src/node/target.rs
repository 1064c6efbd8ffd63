//! Which node, and what on it: `[USER@]HOST[:PATH]`.
//!
//! ssh hands host and user names to shells (`ProxyCommand`, `Match exec`), so only characters that mean nothing to
//! any shell are taken; whatever else a node may be called, ssh's configuration can give it a plain alias. A path
//! never goes through such hands, and may hold anything.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How long a host or user name may be; DNS allows 253 characters.
const NAME_MAX_BYTES: usize = 255;
/// How long a file of nodes may be: far more than a cluster has, and far less than a mistaken path.
const NODE_FILE_MAX_BYTES: u64 = 1 << 20;

/// A node, and what to look at on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    user: Option<String>,
    host: String,
    path: Option<PathBuf>,
}

impl Target {
    /// Reads `[USER@]HOST[:PATH]`. An IPv6 address stands in brackets; PATH is absolute.
    ///
    /// # Errors
    /// Usage, when it is anything else, or a name is empty, begins with `-`, or holds what a shell could take for
    /// more than a name.
    pub fn parse(text: &OsStr) -> Result<Self> {
        let refuse = |why: &str| Error::usage(format!("{:?} names no node: {why}", text.to_string_lossy()));
        if text.as_bytes().starts_with(b"ssh://") {
            return Err(
                refuse("it is a URL").with_hint("write [USER@]HOST[:PATH]; a port goes into ~/.ssh/config")
            );
        }
        let (authority, path) = split(text.as_bytes()).ok_or_else(|| refuse("the bracket is not closed"))?;
        let authority = std::str::from_utf8(authority).map_err(|_| refuse("the name is not UTF-8"))?;
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            check(user, "+@").map_err(|why| refuse(&format!("the user {why}")).with_hint(ALIAS))?;
        }
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) if is_ipv6(address) => address,
            Some(_) => return Err(refuse("what stands in brackets is no IPv6 address")),
            None => {
                check(host, "").map_err(|why| refuse(&format!("the host {why}")).with_hint(ALIAS))?;
                host
            }
        };
        let path = path.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
        match &path {
            Some(path) if !path.has_root() => Err(refuse("what follows the colon is no absolute path")
                .with_hint("an IPv6 address is written in brackets; a port goes into ~/.ssh/config")),
            Some(path) if path.as_os_str().as_bytes().contains(&0) => {
                Err(refuse("its path holds a NUL byte"))
            }
            _ => Ok(Target { user: user.map(str::to_owned), host: host.to_owned(), path }),
        }
    }

    /// What ssh is told to connect to: `USER@HOST`, or `HOST`. Never begins with `-`.
    pub fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// The host: a name, an alias of ssh's configuration, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What to look at, if it was said.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Display for Target {
    /// `[USER@]HOST[:PATH]`, which [`Target::parse`] reads again if the path is UTF-8.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') { write!(f, "[{}]", self.host) } else { f.write_str(&self.host) }?;
        self.path.as_ref().map_or(Ok(()), |path| write!(f, ":{}", path.display()))
    }
}

/// What to do about a name that is not taken.
const ALIAS: &str = "names are of letters, digits, '.', '_' and '-'; give the node such an alias in ~/.ssh/config, with \
     HostName and User";

/// At the colon that ends the authority, and is not within brackets; `None` when a bracket is not closed.
fn split(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut from = 0;
    if let Some(open) = text.iter().position(|&b| b == b'[' || b == b':').filter(|&at| text[at] == b'[') {
        from = open + text[open..].iter().position(|&b| b == b']')?;
    }
    let colon = text[from..].iter().position(|&b| b == b':').map(|at| from + at);
    Some(colon.map_or((text, None), |colon| (&text[..colon], Some(&text[colon + 1..]))))
}

/// What is wrong with a name, if anything is; `more` are characters it may have besides the usual ones.
fn check(name: &str, more: &str) -> std::result::Result<(), String> {
    let usual = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
    if name.is_empty() {
        Err("has no name".to_owned())
    } else if name.starts_with('-') {
        Err("begins with '-', as an option does".to_owned())
    } else if name.len() > NAME_MAX_BYTES {
        Err(format!("has a name of more than {NAME_MAX_BYTES} bytes"))
    } else {
        name.chars().find(|&c| !usual(c)).map_or(Ok(()), |c| Err(format!("has {c:?} in its name")))
    }
}

/// Whether this is an IPv6 address, with a zone or without.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "lo"));
    address.parse::<Ipv6Addr>().is_ok() && check(zone, "").is_ok()
}

/// Reads a file of nodes: one to a line, as [`Target::parse`] takes them, white space around it left out. Empty
/// lines and lines that begin with `#` do not count.
///
/// # Errors
/// Usage, when it cannot be read, is absurdly large, or a line names no node; the message has its number.
pub fn read_node_file(path: &Path) -> Result<Vec<Target>> {
    let fail = |e| Error::usage("cannot read the list of nodes").with_path(path).caused_by(e);
    let mut text = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(NODE_FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 > NODE_FILE_MAX_BYTES {
        return Err(Error::usage("the list of nodes is larger than 1 MiB").with_path(path));
    }
    parse_list(&text).map_err(|(line, e)| {
        let hint = e.hint().unwrap_or("one node to a line: [USER@]HOST[:PATH]").to_owned();
        Error::usage(format!("line {line} of the list of nodes: {e}")).with_path(path).with_hint(hint)
    })
}

/// The nodes of a list; when a line names none, its number (from 1) and why.
fn parse_list(text: &[u8]) -> std::result::Result<Vec<Target>, (usize, Error)> {
    text.split(|&b| b == b'\n')
        .map(<[u8]>::trim_ascii)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
        .map(|(at, line)| Target::parse(OsStr::from_bytes(line)).map_err(|e| (at + 1, e)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Target> {
        Target::parse(OsStr::new(text))
    }

    #[test]
    fn nodes_with_and_without_user_and_path() {
        let cases = [
            ("pi4", "pi4", None),
            ("root@pi4.lan", "root@pi4.lan", None),
            ("pi4:/var/lib/longhorn", "pi4", Some("/var/lib/longhorn")),
            (
                "a.b+c@10.0.0.7:/x y/'\"$(touch z)\n@[1]:2",
                "a.b+c@10.0.0.7",
                Some("/x y/'\"$(touch z)\n@[1]:2"),
            ),
            ("user@domain@node_1:/x", "user@domain@node_1", Some("/x")),
            ("[::1]", "::1", None),
            ("root@[fe80::1%eth0]:/data", "root@fe80::1%eth0", Some("/data")),
        ];
        for (text, destination, path) in cases {
            let target = parse(text).unwrap();
            assert_eq!(target.destination(), destination, "{text}");
            assert_eq!(target.path(), path.map(Path::new), "{text}");
            assert_eq!(target.to_string(), text);
        }
        let odd = Target::parse(OsStr::from_bytes(b"pi4:/\xff")).unwrap();
        assert_eq!(odd.path().unwrap().as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn what_is_no_node_is_refused() {
        let all = [
            "",
            ":",
            ":/x",
            "@pi4",
            "user@",
            "user@:/x",
            "-oProxyCommand=x",
            "-l@pi4",
            "u@-pi4",
            "a b",
            "a\tb",
            "a\nb",
            "a\0",
            "pi4:/x\0",
            "pi4:",
            "pi4:x",
            "pi4:22",
            "fe80::1",
            "::1",
            "[::1",
            "[::1]x",
            "[pi4]",
            "[]",
            "u[::1]",
            "[::1%-x]",
            "[::1%a b]",
            "$(x)",
            "`x`",
            "a;b",
            "a|b",
            "a'b",
            "a\"b",
            "a\\b",
            "u$x@pi4",
            "ssh://pi4",
            "ssh://pi4:22/x",
            "/var/lib/longhorn",
            "ä",
            "\u{1b}[2J",
            "%h",
        ];
        for text in all {
            assert_eq!(parse(text).unwrap_err().kind(), crate::error::ErrorKind::Usage, "{text:?}");
        }
        assert!(parse(&"x".repeat(256)).is_err());
        assert!(Target::parse(OsStr::from_bytes(b"\xff")).is_err());
    }

    #[test]
    fn a_list_has_comments_and_says_where_it_is_wrong() {
        let list = b"# all of them\n\n  root@a:/x y  \r\n\t# b\nb\n";
        let names: Vec<_> = parse_list(list).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["root@a:/x y", "b"]);
        assert_eq!(parse_list(b"a\n\nb # c\n").unwrap_err().0, 3);
        let tmp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(tmp.path(), "a\n-b\n").unwrap();
        let e = read_node_file(tmp.path()).unwrap_err().to_string();
        assert!(e.contains("line 2") && e.contains("\"-b\""), "{e}");
        assert!(read_node_file(Path::new("/nowhere")).is_err());
        assert!(read_node_file(Path::new("/dev/zero")).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_plain_and_reads_back(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..24),
                "[-a@:./%\\[\\] $';\n]{0,16}".prop_map(String::into_bytes),
                "([a-z.+@-]{0,6}@)?([a-z0-9._-]{1,8}|\\[[0-9a-f:%]{2,9}\\])(:/\\PC{0,12})?".prop_map(String::into_bytes),
            ]
        ) {
            let Ok(target) = Target::parse(OsStr::from_bytes(&bytes)) else { return Ok(()) };
            let destination = target.destination();
            prop_assert!(!destination.is_empty() && !destination.starts_with('-') && !target.host().starts_with('-'));
            prop_assert!(destination.chars().all(|c| c.is_ascii_alphanumeric() || "._-+@:%".contains(c)));
            prop_assert!(target.path().is_none_or(Path::is_absolute));
            // The zone is the only place for a percent sign, as ssh would expand it elsewhere.
            prop_assert!(!destination.contains('%') || destination.contains(':'));
            if let Ok(text) = std::str::from_utf8(&bytes) {
                prop_assert_eq!(target.to_string(), text);
            }
        }
    }
}
