//! Parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lhrecover::cli::run(std::env::args_os())
}
