//! What is sent to a node's shells.
//!
//! The login shell of a node may be anything: fish and csh disagree with POSIX about what stands in quotes. It only
//! ever sees one fixed line with a number in it, which starts a POSIX shell that takes the script from standard input.
//! All that comes from the user, paths above all, is in that script, quoted the one way POSIX leaves no doubt about.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Error, Result};

/// The part that is always the same.
const BODY: &str = include_str!("remote.sh");

/// The script that runs `lhrecover ARGS` of this `version` on a node, each line of its own beginning with `mark`.
///
/// # Errors
/// Usage, when an argument holds a NUL byte: no program can be given that.
pub fn script(mark: &str, version: &str, args: &[OsString]) -> Result<Vec<u8>> {
    let mut script = Vec::from("mark=");
    quote(OsStr::new(mark), &mut script);
    script.extend(b" version=");
    quote(OsStr::new(version), &mut script);
    script.extend(b"\nset --");
    for arg in args {
        if arg.as_bytes().contains(&0) {
            return Err(Error::usage(format!("{:?} holds a NUL byte", arg.to_string_lossy())));
        }
        script.push(b' ');
        quote(arg, &mut script);
    }
    script.push(b'\n');
    script.extend(BODY.as_bytes());
    Ok(script)
}

/// The line for the login shell: takes so many bytes of script, and runs them; as root with `sudo`.
pub fn login_line(script_bytes: usize, sudo: bool) -> String {
    // In plain words, so that we know what a failure of sudo's means.
    let sudo = if sudo { "env LC_ALL=C sudo -n -- " } else { "" };
    format!("exec {sudo}sh -c 'eval \"$(head -c {script_bytes})\"'")
}

/// Appends `word` as one word of a POSIX shell: nothing has a meaning in single quotes but the quote that ends them.
fn quote(word: &OsStr, to: &mut Vec<u8>) {
    to.push(b'\'');
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => to.extend(b"'\\''"),
            byte => to.push(byte),
        }
    }
    to.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_shell_reads_a_quoted_word_back(
            word in prop_oneof![
                proptest::collection::vec(1..=255u8, 0..40),
                "['\"\\\\$`!\n ~*(){};&|#-]{0,20}".prop_map(String::into_bytes),
            ]
        ) {
            let mut command = Vec::from("printf %s ");
            quote(OsStr::from_bytes(&word), &mut command);
            let output = Command::new("sh").arg("-c").arg(OsString::from_vec(command)).output().unwrap();
            prop_assert!(output.status.success());
            prop_assert_eq!(output.stdout, word);
        }
    }

    #[test]
    fn a_login_shell_sees_nothing_that_shells_disagree_about() {
        for sudo in [false, true] {
            let line = login_line(12345, sudo);
            assert!(!line.contains(['\\', '!', '\n', '%']), "{line}");
            assert_eq!(line.matches('\'').count(), 2, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_an_argument_is_refused() {
        assert!(script("m", "1", &["a\0b".into()]).is_err());
    }
}
