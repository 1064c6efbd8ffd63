//! Files and databases as lines.

use crate::report::browse::{FileReport, StoreReport};
use crate::report::finding::printable;
use crate::report::human;

/// A name or path from an image, made safe for a terminal.
pub fn name(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// A file as `ls -l` has it: what it is and its mode, links, owner and group by number, size, when it changed (UTC), and
/// its name as `shown`.
pub fn long(file: &FileReport, shown: &str) -> String {
    let size = match file.device {
        Some([major, minor]) => format!("{major}, {minor}"),
        None => file.size_bytes.to_string(),
    };
    let modified = file.modified.map_or_else(
        || "?".to_owned(),
        |at| at.to_string().chars().take(19).collect::<String>().replace('T', " "),
    );
    let target = file.target.as_ref().map(|to| format!(" -> {}", printable(to))).unwrap_or_default();
    format!(
        "{}{} {:>3} {:>6} {:>6} {size:>10} {modified:>19} {shown}{target}\n",
        letter(file.kind),
        permissions(&file.mode),
        file.links,
        file.uid,
        file.gid
    )
}

/// A database: what it is, version, size, and where.
pub fn store(store: &StoreReport) -> String {
    let version = store.version.as_deref().unwrap_or("-");
    let size = store.size_bytes.map_or_else(|| "-".to_owned(), human::bytes);
    format!("{:<16} {:<28} {size:>10} {}\n", store.name, printable(version), printable(&store.path))
}

fn letter(kind: &str) -> char {
    match kind {
        "directory" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "character" => 'c',
        "block" => 'b',
        _ => '-',
    }
}

/// `rwxr-xr-x`, with `s`, `S`, `t` and `T` as `ls` has them.
fn permissions(octal: &str) -> String {
    let mode = u32::from_str_radix(octal, 8).unwrap_or_default();
    let mut text = String::with_capacity(9);
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => mark,
            (false, true) => mark.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn permissions_as_ls_has_them() {
        assert_eq!(permissions("0644"), "rw-r--r--");
        assert_eq!(permissions("4755"), "rwsr-xr-x");
        assert_eq!(permissions("1776"), "rwxrwxrwT");
        assert_eq!(permissions("2070"), "---rws---");
        assert_eq!(permissions("2060"), "---rwS---");
    }
}
