//! Goldens: all that a run said, kept in a file under `tests/goldens`.
//!
//! `BLESS=1 cargo test` writes them anew; what changed is then read with `git diff`, by a person.

use std::fs;
use std::path::Path;

use super::cli::Ran;
use super::text;

/// Compares exit code, standard output and standard error with the golden `name`. In it, `root` is `[DIR]`, and
/// what differs from run to run is left out.
#[track_caller]
pub fn assert_golden(name: &str, root: &Path, ran: &Ran) {
    let said = format!(
        "exit {}\n-- stdout\n{}-- stderr\n{}",
        ran.status.code().expect("no signal"),
        without_times(ran.text()),
        without_circumstances(&ran.stderr)
    );
    let said = said.replace(text(root), "[DIR]");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(format!("{name}.txt"));
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a directory")).expect("create directory");
        fs::write(&path, said).expect("write golden");
        return;
    }
    let golden =
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}; BLESS=1 writes it", path.display()));
    assert!(said == golden, "{name}: expected\n{golden}\nbut it is\n{said}");
}

/// How long it took is never the same.
fn without_times(text: &str) -> String {
    let line = |line: &str| match line.split_once(" in ") {
        Some((before, after)) if after.ends_with(" s") => format!("{before} in [TIME]\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Who is not root cannot look at all processes, and some file systems have no FIEMAP: it is told each time.
pub fn without_circumstances(text: &str) -> String {
    let mut skipping = false;
    let keep = |line: &&str| {
        let begins = ["[live-unknown]", "[unwritten-unknown]"].iter().any(|code| line.ends_with(code));
        skipping = begins || (skipping && line.starts_with(' '));
        !skipping
    };
    text.lines().filter(keep).map(|line| format!("{line}\n")).collect()
}
