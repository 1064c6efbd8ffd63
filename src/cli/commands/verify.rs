//! `lhrecover verify`: is a replica what it should be?

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::args::{SourceArgs, UnwrittenArg};
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::engine::pipeline::default_workers;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::format::layer_sums::FILE_SUFFIX;
use crate::model::finding::Finding;
use crate::replica::ReplicaDir;
use crate::report::json;
use crate::report::verify::{
    self as report, ChecksumReport, DigestsReport, ImageReport, SiblingReport, VerifyReport,
};
use crate::sink::Sink;
use crate::sink::file::{FileOptions, OutputFile};
use crate::workflow::verify::image::{ImageOptions, against_image};
use crate::workflow::verify::sibling::against_sibling;
use crate::workflow::verify::sums::against_checksums;
use crate::workflow::verify::{digests, layers_named};

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without an image or another option, the layers are verified against the checksums that the engine has recorded of \
snapshots. Nothing is recorded of a head.")]
pub struct Args {
    /// The replica directory: the one that holds volume.meta and the .img files
    replica_dir: PathBuf,
    /// An image, a file or a block device, to prove to be what the replica holds
    #[arg(conflicts_with_all = ["sibling", "checksums_write", "checksums_check", "layers"])]
    image: Option<PathBuf>,
    /// Compare the snapshots with those of this other replica of the volume, and name the places that differ
    #[arg(long, value_name = "DIR", conflicts_with_all = ["checksums_write", "checksums_check"])]
    sibling: Option<PathBuf>,
    /// Record digests of all layers, the head too, in a file in this directory, to compare with later
    #[arg(long, value_name = "DIR", conflicts_with = "checksums_check")]
    checksums_write: Option<PathBuf>,
    /// Compare the layers with the digests that were recorded in this file
    #[arg(long, value_name = "FILE")]
    checksums_check: Option<PathBuf>,
    /// Only this layer: a snapshot's name, a file name, or a unique beginning of either (repeatable)
    #[arg(long = "layer", value_name = "NAME")]
    layers: Vec<String>,
    /// How many threads read and hash
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Replace the file that digests are recorded in
    #[arg(long, requires = "checksums_write")]
    force: bool,
    #[command(flatten)]
    source: SourceArgs,
}

/// Verifies.
///
/// # Errors
/// When it could not be done; what it finds is in the outcome.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    args.check_usage()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let replica = ReplicaDir::open(&args.replica_dir)?;
    let report = args.verify(&replica, &run)?;
    if !ui.json {
        ui.findings(&report.findings);
    }
    ui.result(&report, &report::text(&report))?;
    Ok(Outcome::of(report.findings.iter().map(|f| f.severity).max()))
}

impl Args {
    /// What says which state of the volume is meant, means nothing without an image.
    fn check_usage(&self) -> Result<()> {
        let volume = &self.source.volume;
        let of_image = self.source.at.is_some()
            || volume.head.is_some()
            || volume.size.is_some()
            || volume.backing_file.is_some()
            || volume.unwritten != UnwrittenArg::Zero
            || self.source.allow_rebuilding
            || self.source.accept_copy_damage;
        if of_image && self.image.is_none() {
            return Err(Error::usage(
                "--at, --head, --size, --backing-file, --unwritten, --allow-rebuilding and --accept-copy-damage say what \
                 an image is compared with, and none is named",
            )
            .with_hint("name the image after the replica directory; to verify one layer, name it with --layer"));
        }
        Ok(())
    }

    fn verify(&self, replica: &ReplicaDir, run: &Run<'_>) -> Result<VerifyReport> {
        if let Some(image) = &self.image {
            return self.image(replica, image, run);
        }
        let layers = layers_named(replica, &self.layers)?;
        let layers = layers.as_deref();
        match (&self.sibling, &self.checksums_check) {
            (Some(sibling), _) => self.sibling(replica, sibling, layers, run),
            (None, Some(file)) => self.digests(replica, file, layers, run),
            (None, None) => self.checksums(replica, layers, run),
        }
    }

    fn image(&self, replica: &ReplicaDir, image: &Path, run: &Run<'_>) -> Result<VerifyReport> {
        let started = Instant::now();
        let options = ImageOptions {
            source: self.source.options(),
            accept_copy_damage: self.source.accept_copy_damage,
            unwritten: self.source.volume.unwritten(),
            workers: self.workers(),
        };
        let verified = against_image(replica, &options, image, run)?;
        let image = Some(ImageReport::new(image, &verified));
        Ok(VerifyReport { image, ..self.report(verified.findings, started) })
    }

    fn sibling(
        &self,
        replica: &ReplicaDir,
        sibling: &Path,
        layers: Option<&[String]>,
        run: &Run<'_>,
    ) -> Result<VerifyReport> {
        let started = Instant::now();
        let other = ReplicaDir::open(sibling)?;
        let mut compared = against_sibling(replica, &other, layers, self.workers(), run)?;
        let findings = std::mem::take(&mut compared.findings);
        let sibling = Some(SiblingReport::new(sibling, &compared));
        Ok(VerifyReport { sibling, ..self.report(findings, started) })
    }

    fn digests(
        &self,
        replica: &ReplicaDir,
        file: &Path,
        layers: Option<&[String]>,
        run: &Run<'_>,
    ) -> Result<VerifyReport> {
        let started = Instant::now();
        let recorded = digests::read(file)?;
        let now = digests::take(replica, layers, self.source.allow_live, self.workers(), run)?;
        let (checks, findings) = digests::compare(&recorded, &now, layers);
        let digests = Some(DigestsReport::compared(file, &recorded, &checks));
        Ok(VerifyReport { digests, ..self.report(findings, started) })
    }

    fn checksums(
        &self,
        replica: &ReplicaDir,
        layers: Option<&[String]>,
        run: &Run<'_>,
    ) -> Result<VerifyReport> {
        let started = Instant::now();
        let record = self.checksums_write.as_deref().map(|dir| self.record(replica, dir)).transpose()?;
        let (sums, findings) = against_checksums(replica, layers, self.workers(), run)?;
        let digests = match record {
            None => None,
            Some(record) => {
                let taken = digests::take(replica, layers, self.source.allow_live, self.workers(), run)?;
                record.write_at(json::text(&taken)?.as_bytes(), 0)?;
                Some(DigestsReport::written(&record.finish(run)?, &taken))
            }
        };
        let checksums = Some(sums.iter().map(ChecksumReport::from).collect());
        Ok(VerifyReport { checksums, digests, ..self.report(findings, started) })
    }

    /// The file for digests, under its temporary name: a place that cannot be written to is found before the work.
    fn record(&self, replica: &ReplicaDir, dir: &Path) -> Result<OutputFile> {
        let path = dir.join(format!("{}{FILE_SUFFIX}", digests::name(replica)));
        let options = FileOptions { force: self.force, sync: true, fill: false };
        OutputFile::create(&path, 0, options, &replica.identity())
    }

    fn workers(&self) -> usize {
        self.threads.map_or_else(default_workers, usize::from)
    }

    fn report(&self, findings: Vec<Finding>, started: Instant) -> VerifyReport {
        report::new(&self.replica_dir, findings, started.elapsed())
    }
}
