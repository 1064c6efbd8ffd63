//! `lhrecover merge`: a replica directory in, an image out.

use std::fs::{self, FileType};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::Outcome;
use crate::cli::args::{DeviceArgs, SourceArgs};
use crate::cli::report_file::ReportFile;
use crate::cli::signals::cancel_on_signals;
use crate::cli::stream::{exit_when_stuck, stdout};
use crate::cli::ui::Ui;
use crate::engine::digest::Algorithm;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::replica::ReplicaDir;
use crate::report::merge as report;
use crate::sink::file::{FileOptions, collide};
use crate::workflow::merge::{MergeOptions, Output, Sparse, merge};

/// Arguments of `merge`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The replica directory: the one that holds volume.meta and the .img files
    replica_dir: PathBuf,
    /// Where the image goes: a file, a block device, or `-` for standard output
    output: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Replace the output file if it exists
    #[arg(long)]
    force: bool,
    /// How many threads read and write; more than cores is good, as they mostly wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Share blocks with the source instead of copying them, where the file system can (XFS, btrfs)
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    clone: CloneArg,
    /// Which zeros become holes: what no layer wrote, every sector of zeros, or none
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    sparse: SparseArg,
    /// Do not wait until the output is on the medium
    #[arg(long)]
    no_sync: bool,
    /// Read the finished output back from the medium, and compare it with what was copied
    #[arg(long)]
    verify: bool,
    /// Take a digest of the whole image
    #[arg(long, value_name = "ALGORITHM", default_value = "none")]
    digest: DigestArg,
    /// Keep the report, as JSON, in this file
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

/// Whether blocks may be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CloneArg {
    /// Where the file system can.
    Auto,
    /// Never.
    Never,
}

/// Which zeros become holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SparseArg {
    /// What no layer wrote.
    Auto,
    /// Every sector of zeros.
    Always,
    /// None.
    Never,
}

/// Which digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DigestArg {
    /// None.
    None,
    /// BLAKE3, on all cores.
    Blake3,
    /// SHA-256, on one core.
    Sha256,
}

/// Merges.
///
/// # Errors
/// As [`merge`]; and bad usage.
pub fn run(args: Args, ui: &Ui) -> Result<Outcome> {
    let to_stdout = args.output == Path::new("-");
    check_usage(&args, ui, to_stdout)?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let replica = ReplicaDir::open(&args.replica_dir)?;
    let manifest = args.manifest.as_deref().map(|path| args.manifest_file(path, &replica)).transpose()?;
    let options = args.options();
    let merged = if to_stdout {
        let mut out = stdout()?;
        exit_when_stuck(&cancel, manifest.as_ref().map(|manifest| manifest.partial_path().to_path_buf()));
        merge(&replica, &options, Output::Stream(&mut out), &run)?
    } else if is_device(&args.output) {
        args.say_what_a_device_ignores(ui);
        merge(&replica, &options, Output::Device(args.output.clone(), args.device.leave()), &run)?
    } else {
        merge(&replica, &options, Output::File(args.output.clone()), &run)?
    };
    let report = report::build(&args.replica_dir, &merged);
    if !ui.json {
        ui.findings(&report.findings);
    }
    let text = report::text(&report);
    let shown = if to_stdout {
        ui.note(&text);
        Ok(())
    } else {
        ui.result(&report, &text)
    };
    if let Some(manifest) = manifest {
        manifest.finish(&report, &run)?;
    }
    shown?;
    Ok(Outcome::of(report.findings.iter().map(|f| f.severity).max()))
}

impl Args {
    fn manifest_file(&self, path: &Path, replica: &ReplicaDir) -> Result<ReportFile> {
        let options = FileOptions { force: self.force, sync: !self.no_sync, fill: false };
        ReportFile::create(path, &replica.identity(), options)
    }

    fn say_what_a_device_ignores(&self, ui: &Ui) {
        if self.sparse != SparseArg::Auto {
            ui.note("note: --sparse is for files: a device has no holes, and gets zeros where no layer has data\n");
        }
        if self.force {
            ui.note("note: --force is for files: what gives leave to write over a device is --overwrite\n");
        }
    }

    fn options(&self) -> MergeOptions {
        MergeOptions {
            source: self.source.options(),
            accept_copy_damage: self.source.accept_copy_damage,
            unwritten: self.source.volume.unwritten(),
            force: self.force,
            workers: self.threads.map(usize::from),
            clone: self.clone == CloneArg::Auto,
            sparse: match self.sparse {
                SparseArg::Auto => Sparse::Auto,
                SparseArg::Always => Sparse::Always,
                SparseArg::Never => Sparse::Never,
            },
            sync: !self.no_sync,
            verify: self.verify,
            digest: match self.digest {
                DigestArg::None => None,
                DigestArg::Blake3 => Some(Algorithm::Blake3),
                DigestArg::Sha256 => Some(Algorithm::Sha256),
            },
            also_written: self.manifest.iter().cloned().collect(),
        }
    }
}

fn check_usage(args: &Args, ui: &Ui, to_stdout: bool) -> Result<()> {
    if let Some(manifest) = &args.manifest {
        if manifest == Path::new("-") {
            return Err(Error::usage("the manifest is a file, and cannot go to standard output")
                .with_hint("--json prints the same there; for a file of this name: --manifest ./-"));
        }
        if !to_stdout && collide(manifest, &args.output) {
            return Err(Error::usage(
                "the manifest and the image would have the same name, at the end or on the way",
            )
            .with_path(manifest)
            .with_hint("choose another name for the manifest, which does not end in .partial"));
        }
    }
    if !to_stdout {
        return refuse_stream(&args.output);
    }
    if ui.json {
        return Err(Error::usage("--json and an image cannot both go to standard output")
            .with_hint("keep the report in a file: --manifest FILE"));
    }
    if args.verify {
        return Err(Error::usage("a stream cannot be read back to verify it")
            .with_hint("take a digest instead (--digest blake3), and compare it where the stream ends"));
    }
    Ok(())
}

/// Refuses an output that can only be written from its beginning to its end, by another name than `-`.
fn refuse_stream(output: &Path) -> Result<()> {
    let written_in_order = |kind: FileType| kind.is_fifo() || kind.is_char_device() || kind.is_socket();
    match fs::metadata(output) {
        Ok(m) if written_in_order(m.file_type()) => {
            Err(Error::usage("the output is a pipe or a character device, which takes only a stream")
                .with_path(output)
                .with_hint("name - as the output, and redirect standard output to it"))
        }
        _ => Ok(()),
    }
}

/// Whether the output is for the device guard: a block device, or anything else under `/dev`, where a name that is
/// not there must not become a file.
fn is_device(output: &Path) -> bool {
    match fs::metadata(output) {
        Ok(m) => m.file_type().is_block_device(),
        Err(_) => output.starts_with("/dev") && !output.starts_with("/dev/shm"),
    }
}
