//! The digests of a replica's layers: taken to be kept elsewhere, and compared with what was kept.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;

use crate::engine::checksum::data_bytes;
use crate::engine::layer_digest::layer_digests;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::format::layer_sums::{self, LayerSums, MAX_BYTES, RecordedDigest, SCHEMA_VERSION};
use crate::format::names::DiskKind;
use crate::model::finding::{Code, Finding};
use crate::replica::ReplicaDir;
use crate::sys::dir::FileStat;
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;
use crate::workflow::verify::refuse_live;

/// How many layers are held open at a time.
const OPEN_LAYERS: usize = 128;

/// Takes the digests of all layers of `replica` that have a file, or of those with the given file names.
///
/// # Errors
/// `Refused` when the head is to be read and somebody writes to it, without leave; `Source` when a layer cannot be read
/// or changed meanwhile; interrupted when the run is cancelled.
pub fn take(
    replica: &ReplicaDir,
    layers: Option<&[String]>,
    allow_live: bool,
    workers: usize,
    run: &Run<'_>,
) -> Result<LayerSums> {
    let disks = replica.inventory().disks.values();
    let wanted: Vec<_> = disks
        .filter(|disk| disk.image.is_some() && layers.is_none_or(|layers| layers.contains(&disk.name)))
        .collect();
    if wanted.iter().any(|disk| disk.kind == DiskKind::Head) {
        refuse_live(replica, allow_live)?;
    }
    let mut total_bytes = 0;
    for disk in &wanted {
        total_bytes += data_bytes(&replica.open_image(&disk.name)?)?;
    }
    run.event(Event::Phase { name: "hashing", total_bytes: Some(total_bytes) });
    let mut sums = LayerSums {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION").to_owned(),
        replica: name(replica),
        taken_at: Timestamp::now(),
        tells_unwritten: true,
        layers: Vec::new(),
    };
    for some in wanted.chunks(OPEN_LAYERS) {
        let images = some.iter().map(|disk| replica.open_image(&disk.name)).collect::<Result<Vec<_>>>()?;
        let before = images.iter().map(stat).collect::<Result<Vec<_>>>()?;
        let by_ref: Vec<_> = images.iter().map(|image| image as &dyn LayerImage).collect();
        let found = layer_digests(&by_ref, workers, run)?;
        for ((image, before), digest) in images.iter().zip(before).zip(found) {
            let after = stat(image)?;
            if (after.size_bytes, after.modified) != (before.size_bytes, before.modified) && !allow_live {
                return Err(changed(replica, image.name()));
            }
            sums.tells_unwritten &= image.tells_unwritten();
            sums.layers.push(RecordedDigest {
                file: image.name().to_owned(),
                size_bytes: digest.size_bytes,
                data_bytes: digest.content.data_bytes,
                unwritten_bytes: digest.content.unwritten_bytes,
                blake3: digest.digest.to_hex().to_string(),
            });
        }
    }
    run.event(Event::PhaseDone);
    Ok(sums)
}

/// The name of the replica directory itself, however it was named.
pub fn name(replica: &ReplicaDir) -> String {
    let real = fs::canonicalize(replica.path()).unwrap_or_else(|_| replica.path().to_path_buf());
    real.file_name().map_or_else(|| "replica".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn stat(image: &LayerFile) -> Result<FileStat> {
    FileStat::of(image.file())
        .map_err(|e| Error::source("cannot look at the layer file").in_layer(image.name()).caused_by(e))
}

fn changed(replica: &ReplicaDir, layer: &str) -> Error {
    Error::source("the layer changed while it was read")
        .with_path(replica.path())
        .in_layer(layer)
        .with_hint("stop what uses the replica, and start again")
}

/// How a layer stands to what was recorded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestCheck {
    /// The file name.
    pub file: String,
    /// What was recorded; `None` of a layer that is new.
    pub recorded: Option<RecordedDigest>,
    /// What it is now; `None` of a layer that is gone.
    pub now: Option<RecordedDigest>,
}

impl DigestCheck {
    /// Whether it is what was recorded.
    pub fn is_same(&self) -> bool {
        self.recorded == self.now
    }
}

/// Compares what was recorded with what is there `now`, in which only `layers` count where some are named.
pub fn compare(
    recorded: &LayerSums,
    now: &LayerSums,
    layers: Option<&[String]>,
) -> (Vec<DigestCheck>, Vec<Finding>) {
    let mut checks = BTreeMap::<&str, DigestCheck>::new();
    let wanted = |digest: &&RecordedDigest| layers.is_none_or(|layers| layers.contains(&digest.file));
    fn entry<'a, 'b>(checks: &'b mut BTreeMap<&'a str, DigestCheck>, file: &'a str) -> &'b mut DigestCheck {
        checks.entry(file).or_insert_with(|| DigestCheck { file: file.to_owned(), recorded: None, now: None })
    }
    for digest in recorded.layers.iter().filter(wanted) {
        entry(&mut checks, &digest.file).recorded = Some(digest.clone());
    }
    for digest in now.layers.iter().filter(wanted) {
        entry(&mut checks, &digest.file).now = Some(digest.clone());
    }
    let checks: Vec<_> = checks.into_values().collect();
    let told_alike = recorded.tells_unwritten == now.tells_unwritten;
    let findings = checks.iter().filter_map(|check| finding(check, told_alike)).collect();
    (checks, findings)
}

fn finding(check: &DigestCheck, told_alike: bool) -> Option<Finding> {
    let file = &check.file;
    let what = match (&check.recorded, &check.now) {
        (Some(_), None) => format!("{file} is gone"),
        (Some(then), Some(now)) if then.size_bytes != now.size_bytes => {
            format!("{file} has {} bytes, and had {}", now.size_bytes, then.size_bytes)
        }
        (Some(then), Some(now)) if then != now => match then.data_bytes == now.data_bytes {
            true => format!("{file} holds other data than before"),
            false => format!("{file} has {} bytes of data, and had {}", now.data_bytes, then.data_bytes),
        },
        _ => return None,
    };
    let unwritten =
        [&check.recorded, &check.now].into_iter().flatten().any(|digest| digest.unwritten_bytes > 0);
    let meaning = if unwritten && !told_alike {
        "only one of the two file systems tells preallocated, never written room from holes, so it may be the same all \
         the same"
    } else {
        "it is not what was recorded: the volume was in use since, or a snapshot purged; or the file was damaged, or copied \
         in a way that turns holes into data or zeros into holes"
    };
    Some(
        Finding::new(Code::LayerChanged, what, meaning).on(file).advise(
            "if nobody used the volume since, take another replica or the copy that the record is of",
        ),
    )
}

/// Reads the digests that were kept in the file at `path`.
///
/// # Errors
/// `Usage` when it cannot be read, or is something else.
pub fn read(path: &Path) -> Result<LayerSums> {
    let fail = |e| Error::usage("cannot read the recorded digests").with_path(path).caused_by(e);
    let not_ours = |why: String| {
        Error::usage(format!("the file {why}"))
            .with_path(path)
            .with_hint("name a file that `lhrecover verify --checksums-write` has made")
    };
    // Merely opening a pipe would wait for somebody who writes to it.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        return Err(not_ours("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(fail)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(not_ours("is far too large".to_owned()));
    }
    layer_sums::parse(&bytes).map_err(not_ours)
}
