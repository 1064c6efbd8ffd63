//! `cargo run --example unpack-fixture -- <case> <directory>`: a bundled replica, unpacked with its holes.

mod unpack;

use std::path::PathBuf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [case, directory] = args.as_slice() else {
        eprintln!("usage: unpack-fixture <case, such as 16-ext4-sqlite> <directory>");
        std::process::exit(2);
    };
    let directory = PathBuf::from(directory);
    if let Err(e) = std::fs::create_dir_all(&directory).and_then(|()| unpack::unpack(case, &directory)) {
        eprintln!("unpack-fixture: {case}: {e}");
        std::process::exit(1);
    }
}
