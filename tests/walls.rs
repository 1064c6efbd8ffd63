//! Holds the walls of the floor plan: who may import whom, who may print, write, or be `unsafe`.
//!
//! The rules are about source text, because that is what a reviewer sees. Comments do not count, and neither do
//! unit tests where a rule is about what the program does.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor plan: a folder (or file) directly under `src/`, and what it may import of the crate besides itself.
const MAY_IMPORT: [(&str, &[&str]); 17] = [
    ("error", &[]),
    ("event", &["error"]),
    ("format", &["error"]),
    ("model", &["error", "format"]),
    ("sys", &["error", "event", "format", "model"]),
    ("node", &["error", "event"]),
    ("view", &["error", "event", "format", "model", "sys"]),
    ("guest", &["error", "event", "format", "model", "view"]),
    ("replica", &["error", "event", "format", "model", "sys", "view"]),
    ("sink", &["error", "event", "format", "model", "sys", "guest"]),
    ("engine", &["error", "event", "format", "model", "sys", "guest", "view", "replica", "sink"]),
    ("access", &["error", "event", "format", "model", "sys", "guest", "view", "replica", "sink", "engine"]),
    (
        "workflow",
        &[
            "error", "event", "format", "model", "sys", "guest", "node", "view", "replica", "sink", "engine",
            "access",
        ],
    ),
    (
        "report",
        &[
            "error", "event", "format", "model", "guest", "node", "view", "replica", "sink", "engine",
            "access", "workflow",
        ],
    ),
    (
        "cli",
        &[
            "error", "event", "format", "model", "node", "replica", "sink", "engine", "access", "workflow",
            "report",
        ],
    ),
    ("lib", &[]),
    ("main", &[]),
];

/// One file under `src/`, without comments.
struct Source {
    path: PathBuf,
    /// The folder, or the file's stem, directly under `src/`.
    top: String,
    /// Everything but comments.
    code: String,
    /// The same without unit tests.
    shipped: String,
}

impl Source {
    fn read(path: PathBuf, root: &Path) -> Source {
        let text = fs::read_to_string(&path).unwrap();
        let inside = path.strip_prefix(root).unwrap();
        let top = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let top = top.strip_suffix(".rs").unwrap_or(top).to_owned();
        let code = without_comments(&text);
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "fake");
        let shipped = if is_test { String::new() } else { without_tests(&code) };
        Source { path, top, code, shipped }
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.contains(&self.top.as_str())
    }
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| match line.find("//") {
            // A URL in a string is no comment.
            Some(at) if !line[..at].ends_with(':') => &line[..at],
            _ => line,
        })
        .fold(String::new(), |code, line| code + line + "\n")
}

/// By the house's habit unit tests are the last item of a file: `#[cfg(test)]` and a `mod` with a body.
fn without_tests(code: &str) -> String {
    let tests = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let rest = code[at + mark.len()..].trim_start();
        rest.strip_prefix("mod ").and_then(|rest| rest.split_once(['{', ';'])).is_some()
    });
    tests.map_or(code, |(at, _)| &code[..at]).to_owned()
}

/// Every file under `src/`.
fn sources() -> Vec<Source> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(Source::read(path, root));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    found
}

/// The first names after each `crate::`, with `crate::{a, b::c}` opened up.
fn imports(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(word(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut names_next = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names_next = true,
                        c if names_next && !c.is_whitespace() => {
                            names.insert(word(&group[i..]));
                            names_next = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

/// Fails with every place in `sources` whose text, as `of` picks it, has one of `words`.
fn forbid<'a>(
    rule: &str,
    words: &[&str],
    sources: impl Iterator<Item = &'a Source>,
    of: impl Fn(&Source) -> &str,
) {
    let mut looked_at = 0;
    let mut broken = Vec::new();
    for source in sources {
        looked_at += 1;
        for (number, line) in of(source).lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                broken.push(format!("{}:{}: {word}", source.path.display(), number + 1));
            }
        }
    }
    assert!(looked_at > 0, "{rule}: no file was looked at");
    assert!(broken.is_empty(), "{rule}:\n{}", broken.join("\n"));
}

/// Whether `line` has `word` and not only as the end of a longer one: `eprintln!` is no `println!`.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn a_floor_imports_only_what_the_plan_allows() {
    let mut broken = Vec::new();
    for source in sources() {
        let (_, allowed) = MAY_IMPORT
            .iter()
            .find(|(top, _)| *top == source.top)
            .unwrap_or_else(|| panic!("src/{} has no place in the floor plan", source.top));
        for name in imports(&source.code) {
            if name != source.top && !allowed.contains(&name.as_str()) {
                broken.push(format!("{} imports crate::{name}", source.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_plan_has_no_way_back_up() {
    let floor = |name: &str| MAY_IMPORT.iter().position(|(top, _)| *top == name);
    for (top, allowed) in MAY_IMPORT {
        for below in allowed {
            assert!(
                floor(below).unwrap() < floor(top).unwrap(),
                "{top} may import {below}, which is not below it"
            );
        }
    }
}

#[test]
fn only_the_command_line_prints() {
    let words =
        ["println!", "print!", "eprintln!", "eprint!", "dbg!", "stdout()", "stderr()", "process::exit"];
    let core: Vec<_> = sources().into_iter().filter(|s| !s.is_in(&["cli"])).collect();
    forbid("only src/cli prints", &words, core.iter(), |s| &s.shipped);
}

#[test]
fn only_the_kernel_edge_is_unsafe_and_calls_ioctl() {
    let words = [
        "unsafe {",
        "unsafe fn",
        "unsafe impl",
        "unsafe extern",
        "extern \"C\"",
        "allow(unsafe_code)",
        "ioctl_",
        "libc::ioctl",
    ];
    let others: Vec<_> = sources().into_iter().filter(|s| !s.is_in(&["sys"])).collect();
    forbid("unsafe and ioctl live in src/sys", &words, others.iter(), |s| &s.code);
}

#[test]
fn the_first_floor_is_pure() {
    let words = [
        "std::fs",
        "std::net",
        "std::os",
        "std::process",
        "std::thread",
        "std::env",
        "std::time",
        "Instant",
        "SystemTime",
        "File::",
        "nix::",
        "rayon::",
    ];
    let pure: Vec<_> = sources().into_iter().filter(|s| s.is_in(&["format", "model"])).collect();
    forbid("src/format and src/model: no files, no clock, no threads", &words, pure.iter(), |s| &s.shipped);
}

#[test]
fn what_reads_a_source_has_no_means_to_write() {
    let words = [
        "File::create",
        "File::options",
        "OpenOptions",
        "O_RDWR",
        "O_WRONLY",
        "O_CREAT",
        "O_TRUNC",
        "fs::write",
        "fs::remove_file",
        "fs::remove_dir",
        "fs::rename",
        "fs::hard_link",
        "fs::copy",
        "fs::create_dir",
        "fs::set_permissions",
        "set_len(",
        "set_times(",
        "set_modified(",
        "write_at(",
        "write_all(",
        "write_all_at(",
        "fallocate",
        "ftruncate",
        "unlink",
        "flock",
        "Flock",
    ];
    let readers: Vec<_> = sources()
        .into_iter()
        .filter(|s| s.is_in(&["replica", "view"]) || s.path.ends_with("src/engine/sweep.rs"))
        .collect();
    assert!(readers.iter().any(|s| s.path.ends_with("src/engine/sweep.rs")));
    forbid("a source is never written", &words, readers.iter(), |s| &s.shipped);
}

#[test]
fn the_test_sees_what_it_should() {
    let code = without_comments(
        "use crate::{a, b::{c, d}, e};\nuse crate::f::g; // crate::h\n/// [`i`](crate::i)\n",
    );
    assert_eq!(imports(&code).into_iter().collect::<Vec<_>>(), ["a", "b", "e", "f"]);
    assert_eq!(
        without_tests("x\n#[cfg(test)]\nfn y() {}\n#[cfg(test)]\nmod tests {\n}\n"),
        "x\n#[cfg(test)]\nfn y() {}\n"
    );
    assert!(has_word("  println!()", "println!") && !has_word("eprintln!()", "println!"));
}
