//! strace(1) as a fault injector: it makes system calls on one file fail, lie, or take their time.

use std::path::Path;

use super::cli::Lhrecover;
use super::loopdev::skipped;

/// Every call that brings data of an open file into memory, or elsewhere.
pub const READS: &str = "pread64,preadv,preadv2,copy_file_range,splice,sendfile";
/// Every call that puts data into an open file.
pub const WRITES: &str = "pwrite64,pwritev,pwritev2,copy_file_range";

/// Whether strace is here and may trace. If not, says on stderr that the test was skipped, and why.
pub fn available(test: &str) -> bool {
    let traced = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    let why = match traced {
        Ok(output) if output.status.success() => return true,
        Ok(_) => "strace may not trace here",
        Err(_) => "strace is not installed (package strace)",
    };
    skipped(test, why);
    false
}

/// The program with these arguments, its calls on `file` tampered with: each of `injections` is what follows
/// `-e inject=` (see strace(1)). `file` need not exist yet. Signals and the exit code are the program's own.
pub fn tampered(file: &Path, injections: &[String], args: &[&str]) -> Lhrecover {
    let directory = file.parent().unwrap().canonicalize().unwrap();
    let file = directory.join(file.file_name().unwrap());
    let mut wrapper = vec!["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", super::text(&file)];
    wrapper.extend(injections.iter().flat_map(|injection| ["--inject", injection]));
    Lhrecover::under(&wrapper, args)
}

/// The program, slowed down to `milliseconds` for each write to `file`.
pub fn slowed(file: &Path, milliseconds: u32, args: &[&str]) -> Lhrecover {
    tampered(file, &[format!("{WRITES}:delay_enter={milliseconds}000")], args)
}
