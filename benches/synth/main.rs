//! Makes synthetic replica directories for benchmarks, and knows what they merge into.
//!
//! ```text
//! synth-chain DIR --layers 40 --volume 16G --data 2G --write 64K --flat FLAT
//! synth-chain --layers 40 --volume 16G --data 2G --write 64K --check OUTPUT
//! ```
//!
//! A helper of `scripts/bench-peers`, built as an example so that it is never installed.

mod disk;
mod recipe;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use recipe::{Layout, Recipe};

/// Make a synthetic replica directory, its flat image, or check an image against it.
#[derive(Parser)]
struct Args {
    /// The replica directory to make; must not exist
    dir: Option<PathBuf>,
    /// Write the merged image here (sparse; must not exist)
    #[arg(long, value_name = "FILE")]
    flat: Option<PathBuf>,
    /// Write as much to the same places of this file (must not exist), from memory; print how many seconds the writes took
    #[arg(long, value_name = "FILE")]
    bare: Option<PathBuf>,
    /// Compare this image with what the volume merges into; exit 1 if it differs
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Layers, the head included
    #[arg(long, default_value_t = 1)]
    layers: u64,
    /// Volume size (suffixes K, M, G, T: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    volume: u64,
    /// Data in the merged volume
    #[arg(long, value_name = "BYTES", value_parser = bytes, required_unless_present = "extents", conflicts_with = "extents")]
    data: Option<u64>,
    /// The same as a number of writes
    #[arg(long, value_name = "N")]
    extents: Option<u64>,
    /// Size of one write
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "64K")]
    write: u64,
    /// How much in a hundred of what is written is zeros, in runs of 64 KiB
    #[arg(long, value_name = "PERCENT", default_value_t = 3)]
    zero_percent: u64,
    /// Writes in a hundred that lie over an older one in a lower layer; 0 leaves every write visible, whatever
    /// the number of layers
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    overlap: u64,
    /// Another seed, other places and bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{e}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".into())
}

/// Does what was asked; whether a checked image was right.
fn run(args: &Args) -> Result<bool, String> {
    let layout = Layout::new(Recipe {
        volume_bytes: args.volume,
        layers: args.layers,
        writes: args.extents.or(args.data.map(|data| data / args.write.max(1))).unwrap_or(0),
        write_bytes: args.write,
        zero_percent: args.zero_percent,
        overlap_percent: args.overlap,
        seed: args.seed,
    })?;
    if let Some(dir) = &args.dir {
        disk::write_replica(&layout, dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    if let Some(flat) = &args.flat {
        disk::write_flat(&layout, flat).map_err(|e| format!("{}: {e}", flat.display()))?;
    }
    if let Some(path) = &args.bare {
        let took = disk::write_bare(&layout, path).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}", took.as_secs_f64());
    }
    let Some(image) = &args.check else { return Ok(true) };
    let difference = disk::check(&layout, image).map_err(|e| format!("{}: {e}", image.display()))?;
    if let Some(difference) = &difference {
        eprintln!("{}: {difference}", image.display());
    }
    Ok(difference.is_none())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
