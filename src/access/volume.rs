//! A volume that is to be looked into: from a replica directory, or from an image of it.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::in_use;
use crate::access::inside;
use crate::engine::judge;
use crate::error::{Error, Result};
use crate::format::qcow2;
use crate::model::finding::Finding;
use crate::model::overlay::Unwritten;
use crate::replica::{LayerKind, ReplicaDir, Source, SourceOptions, View, backing};
use crate::sys::device::{Access, BlockDevice};
use crate::sys::dir::FileStat;
use crate::sys::source_identity::SourceIdentity;
use crate::view::LayerImage;
use crate::view::backing::open_flat;
use crate::view::device_image::DeviceImage;
use crate::view::disk::Disk;
use crate::view::merged::MergedView;

/// Which state of the volume, and what leave there is to read it.
#[derive(Clone, Debug, Default)]
pub struct VolumeOptions {
    /// Of a replica directory. Means nothing for an image, and is refused there.
    pub source: SourceOptions,
    /// Go on though every layer is fully allocated.
    pub accept_copy_damage: bool,
    /// What unwritten extents mean.
    pub unwritten: Unwritten,
}

/// An open volume. Opening it takes as long whatever its size: nothing of the data is looked at.
pub struct Volume {
    /// The volume as a disk.
    pub view: Arc<MergedView>,
    /// Where it comes from; `None` for an image.
    pub source: Option<Source>,
    /// Its path, as it was named.
    pub path: PathBuf,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// What its files take on the disk, in bytes: about as much as it has data.
    pub allocated_bytes: u64,
    /// The image file as it was when it was opened.
    image_seen: Option<(File, FileStat)>,
    /// Whether it is an image file that is the volume byte for byte.
    is_plain_file: bool,
}

impl Volume {
    /// Opens the replica directory, image file or block device at `path`.
    ///
    /// # Errors
    /// As [`ReplicaDir::open_source`]; `Source` when an image cannot be read; `Usage` when options are given that an image
    /// has no use for; `Refused` when an image is being written to, and there is no leave to read it all the same.
    pub fn open(path: &Path, options: &VolumeOptions) -> Result<Self> {
        let meta = fs::metadata(path)
            .map_err(|e| Error::usage("cannot open the volume").with_path(path).caused_by(e))?;
        if meta.is_dir() {
            return Self::of_replica(&ReplicaDir::open(path)?, options);
        }
        let SourceOptions { at, head, size_bytes, backing_file, .. } = &options.source;
        if at.is_some() || head.is_some() || size_bytes.is_some() || backing_file.is_some() {
            return Err(Error::usage("an image is one state of a volume: --at, --head, --size and --backing-file are for replica directories")
                .with_path(path));
        }
        Self::of_image(path, &meta, options)
    }

    fn of_image(path: &Path, meta: &Metadata, options: &VolumeOptions) -> Result<Self> {
        let mut image_seen = None;
        let mut is_plain_file = false;
        let image: Box<dyn LayerImage> = if meta.file_type().is_block_device() {
            Box::new(DeviceImage::new(BlockDevice::open(path, Access::Look)?))
        } else {
            let (path, file) = backing::open_by_hand(path)?;
            let fail = |e| Error::source("cannot look at the image").with_path(&path).caused_by(e);
            let stat = FileStat::of(&file).map_err(fail)?;
            image_seen = Some((file.try_clone().map_err(fail)?, stat));
            let mut magic = [0; qcow2::MAGIC.len()];
            is_plain_file = file.read_exact_at(&mut magic, 0).is_ok() && magic != qcow2::MAGIC;
            open_flat(path.display().to_string(), file)?
        };
        let volume_bytes = image.size_bytes();
        if volume_bytes == 0 {
            return Err(Error::source("the image is empty").with_path(path).with_hint(
                "it holds no volume; if it was to be merged to, that has failed: merge it again, or name the replica directory",
            ));
        }
        let in_use = in_use::refuse_live(path, meta, options.source.allow_live)?;
        // Whoever gave leave knows that it changes.
        let image_seen = image_seen.filter(|_| in_use.is_none());
        let view = Arc::new(MergedView::new(Arc::new([image]), volume_bytes, options.unwritten));
        let allocated_bytes = if meta.is_file() { meta.blocks().saturating_mul(512) } else { volume_bytes };
        let findings = in_use.into_iter().collect();
        let path = path.to_path_buf();
        Ok(Volume { view, source: None, path, findings, allocated_bytes, image_seen, is_plain_file })
    }

    /// Opens a state of a replica.
    ///
    /// # Errors
    /// As [`ReplicaDir::open_source`], and `Refused` where a copy has turned holes into data and there is no leave.
    pub fn of_replica(replica: &ReplicaDir, options: &VolumeOptions) -> Result<Self> {
        let source = replica.open_source(&options.source)?;
        if !options.accept_copy_damage && looks_fully_allocated(&source) {
            return Err(judge::refuse_copy_damage().with_path(replica.path()));
        }
        let view =
            Arc::new(MergedView::new(Arc::clone(&source.layers), source.volume_bytes, options.unwritten));
        let findings = source.findings.clone();
        let stats = source.chain.iter().filter_map(|layer| layer.stat);
        let allocated_bytes = stats.fold(0, |sum: u64, stat| sum.saturating_add(stat.allocated_bytes));
        Ok(Volume {
            view,
            source: Some(source),
            path: replica.path().to_path_buf(),
            findings,
            allocated_bytes,
            image_seen: None,
            is_plain_file: false,
        })
    }

    /// The volume as a disk.
    pub fn whole(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.view) as Arc<dyn Disk>
    }

    /// The volume as a disk, or the partition of that number.
    ///
    /// # Errors
    /// When there is no such partition.
    pub fn disk(&self, partition: Option<u32>) -> Result<Arc<dyn Disk>> {
        match partition {
            None => Ok(self.whole()),
            Some(number) => Ok(inside::partition(self.whole(), number)?.disk),
        }
    }

    /// The state that is shown, by its file's name; `None` for an image.
    pub fn state(&self) -> Option<&View> {
        self.source.as_ref().map(|source| &source.view)
    }

    /// The image file, where tools can read the volume from it as it is.
    pub fn plain_file(&self) -> Option<PathBuf> {
        self.is_plain_file.then(|| self.path.canonicalize().ok()).flatten()
    }

    /// What it is made of: the replica directory with all in it and the backing image, or the image. For those who write
    /// elsewhere, and must not write to any of it.
    pub fn identity(&self) -> SourceIdentity {
        self.source.as_ref().map_or_else(|| SourceIdentity::at(&self.path), Source::identity)
    }

    /// Looks whether the source is still what it was when it was opened. Call it when the reading is done.
    ///
    /// # Errors
    /// As [`Source::recheck`]; of an image file, when it is longer, shorter or younger than it was.
    pub fn recheck(&self) -> Result<()> {
        if let Some(source) = &self.source {
            return source.recheck();
        }
        let Some((file, then)) = &self.image_seen else { return Ok(()) };
        let now = FileStat::of(file).ok().map(|now| (now.size_bytes, now.modified));
        if now == Some((then.size_bytes, then.modified)) {
            return Ok(());
        }
        Err(Error::source("the image changed while it was read")
            .with_path(&self.path)
            .with_hint("what was read is a mix of two states: stop what writes to it, and start again"))
    }
}

/// What [`judge::every_layer_is_full`] says of a survey, from what the files take on the disk: the survey takes as long as the
/// volume is large.
fn looks_fully_allocated(source: &Source) -> bool {
    let own = source.chain.iter().filter(|layer| layer.kind != LayerKind::Backing);
    let stats: Vec<_> = own.filter_map(|layer| layer.stat).filter(|stat| stat.size_bytes > 0).collect();
    stats.len() >= 2 && stats.iter().all(|stat| stat.allocated_bytes >= stat.size_bytes)
}
