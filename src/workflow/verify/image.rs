//! An image, in a file or on a device, against the view of a volume that it should be.

use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::engine::compare::{self, Comparison};
use crate::engine::medium::{Medium, Words};
use crate::engine::plan::Plan;
use crate::engine::sweep;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::finding::{Code, Finding};
use crate::model::overlay::Unwritten;
use crate::model::units::sector_floor;
use crate::replica::{ReplicaDir, Source, SourceOptions, View};
use crate::sys::dir::FileId;
use crate::workflow::merge;

/// What is said when the image cannot be read.
const IMAGE: Words = Words {
    cannot_read: "cannot read the image",
    hint: "the disk it is on may be failing: look at the kernel log, and write the image somewhere else",
};

/// How an image is compared.
#[derive(Clone, Debug)]
pub struct ImageOptions {
    /// Which state of the volume, and what leave there is to read it.
    pub source: SourceOptions,
    /// Go on though every layer is fully allocated.
    pub accept_copy_damage: bool,
    /// What unwritten extents mean.
    pub unwritten: Unwritten,
    /// How many threads work.
    pub workers: usize,
}

/// What a comparison with an image found.
#[derive(Clone, Debug)]
pub struct ImageVerified {
    /// The state that it was compared with.
    pub view: View,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// The file names of the layers, lowest first; of a backing image, its path.
    pub layers: Vec<String>,
    /// Whether it is a block device.
    pub is_device: bool,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// Whether the cache was bypassed for certain.
    pub direct: bool,
    /// Bytes of the volume that were compared: all, unless the image is too short.
    pub compared_bytes: u64,
    /// What was found.
    pub comparison: Comparison,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
}

/// Compares the image at `path` with the state of `replica` that `options` name.
///
/// # Errors
/// `Source` when the state cannot be had or a layer cannot be read, `Output` when the image cannot; `Refused` by a guard,
/// or when the image is a file of the source; `Usage` when it is no image.
pub fn against_image(
    replica: &ReplicaDir,
    options: &ImageOptions,
    path: &Path,
    run: &Run<'_>,
) -> Result<ImageVerified> {
    let (medium, is_device) = open(replica, path)?;
    let image_bytes = medium
        .file()
        .seek(SeekFrom::End(0))
        .map_err(|e| Error::output(IMAGE.cannot_read).with_path(path).caused_by(e).with_hint(IMAGE.hint))?;
    let source = replica.open_source(&options.source)?;
    merge::refuse_changing_head(
        &source,
        replica,
        "detach the volume first, or compare a snapshot's image with --at",
    )?;
    refuse_backing(&source, path)?;
    run.event(Event::Phase { name: "surveying", total_bytes: None });
    let survey = sweep::survey(&source.layers, source.volume_bytes, options.unwritten, run)?;
    run.event(Event::PhaseDone);
    let mut findings =
        merge::judge_source(&source, &survey, options.unwritten, options.accept_copy_damage, run)?;
    let volume_bytes = source.volume_bytes;
    let plan = Plan::new(&source.layers, volume_bytes, options.unwritten);
    let (plan, compared_bytes) = match image_bytes < volume_bytes {
        false => (plan.surveyed(&survey), volume_bytes),
        true => {
            let whole_sectors = sector_floor(image_bytes);
            (Plan::new(&source.layers, whole_sectors, options.unwritten), whole_sectors)
        }
    };
    run.event(Event::Phase { name: "comparing", total_bytes: Some(survey.data_bytes) });
    let comparison = compare::compare(&plan, &medium, options.workers, run)?;
    run.event(Event::PhaseDone);
    source.recheck()?;
    let mut verified = ImageVerified {
        view: source.view.clone(),
        volume_bytes,
        layers: source.chain.iter().map(|layer| layer.file.clone()).collect(),
        is_device,
        image_bytes,
        direct: medium.is_direct(),
        compared_bytes,
        comparison,
        findings: Vec::new(),
    };
    findings.extend(verified.length());
    findings.extend(verified.differences());
    verified.findings = findings;
    Ok(verified)
}

/// Opens the image, which must be a file or a block device, and none of the replica's files.
fn open(replica: &ReplicaDir, path: &Path) -> Result<(Medium, bool)> {
    let meta =
        fs::metadata(path).map_err(|e| Error::usage("cannot open the image").with_path(path).caused_by(e))?;
    let is_device = meta.file_type().is_block_device();
    if !is_device && !meta.is_file() {
        return Err(Error::usage("the image is neither a file nor a block device")
            .with_path(path)
            .with_hint("name the file or device that the replica was merged to"));
    }
    let id = FileId { dev: meta.dev(), ino: meta.ino() };
    if replica.inventory().files.iter().any(|(_, stat)| stat.id == id) {
        return Err(is_source(path));
    }
    Ok((Medium::open(path, &IMAGE)?, is_device))
}

/// Refuses an image that is the backing image.
fn refuse_backing(source: &Source, path: &Path) -> Result<()> {
    if source.identity().is_at(path) { Err(is_source(path)) } else { Ok(()) }
}

fn is_source(path: &Path) -> Error {
    Error::refused("the image is a file of the source")
        .with_path(path)
        .with_hint("name the file or device that the replica was merged to")
}

impl ImageVerified {
    /// Whether it is the view, byte for byte; only a device may be longer.
    pub fn is_same(&self) -> bool {
        let right_length = match self.is_device {
            true => self.image_bytes >= self.volume_bytes,
            false => self.image_bytes == self.volume_bytes,
        };
        right_length && self.comparison.differing_bytes == 0
    }

    /// What the image's length says.
    fn length(&self) -> Option<Finding> {
        let (volume, image) = (self.volume_bytes, self.image_bytes);
        if image < volume {
            let what = format!("the image has {image} bytes, and the volume {volume}");
            let meaning = "the end of the volume is not in it";
            return Some(Finding::new(Code::ImageDiffers, what, meaning).advise("merge again"));
        }
        if image == volume {
            return None;
        }
        let what = format!("the image is {} bytes longer than the volume", image - volume);
        Some(if self.is_device {
            Finding::new(Code::DeviceLarger, what, "what is past the end of the volume was not compared")
        } else {
            Finding::new(Code::ImageDiffers, what, "the image is not of this volume, or was extended since")
                .advise(
                    "merge again, or, if it was extended on purpose, cut a copy of it to the volume's size",
                )
        })
    }

    /// What the places that differ say.
    fn differences(&self) -> Option<Finding> {
        let first = self.comparison.differences.first()?;
        let served = match self.layer(first.between) {
            Some(layer) => format!("served by {layer}"),
            None => "where no layer has data, and zeros should be".to_owned(),
        };
        let mut finding = Finding::new(
            Code::ImageDiffers,
            format!(
                "the image is not what the replica holds: {} bytes differ (in whole sectors), first at offset {}, {served}",
                self.comparison.differing_bytes, first.first_bytes
            ),
            "it was written from another state or replica, or was changed since, as by mounting it; or a disk has changed \
             what was written",
        )
        .at(self.comparison.differences.iter().map(|difference| difference.range).collect())
        .advise("merge again; if it was merged just now, verify the replica itself, and look at the kernel log");
        let mut files: Vec<_> = self
            .comparison
            .differences
            .iter()
            .filter_map(|d| self.layer(d.between))
            .map(str::to_owned)
            .collect();
        files.sort_unstable();
        files.dedup();
        finding.files = files;
        Some(finding)
    }

    /// The file name of the layer at this place.
    pub fn layer(&self, place: Option<u8>) -> Option<&str> {
        self.layers.get(usize::from(place?)).map(String::as_str)
    }
}
