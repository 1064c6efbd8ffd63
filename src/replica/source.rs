//! From options to open layers: the view, its size, its chain, the guards, the files.
//!
//! The order matters to whoever reads the error. What cannot be had at all comes first (broken chain, missing
//! data), the guards come last: a flag is only named when it would help.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::format::layer_meta::LayerMeta;
use crate::format::names::DiskKind;
use crate::format::volume_meta;
use crate::model::chain::Chain;
use crate::model::finding::{Code, Finding};
use crate::model::units::SECTOR_BYTES;
use crate::replica::decide::short;
use crate::replica::doctor::{self, Subject};
use crate::replica::inventory::{Disk, Inventory, Times};
use crate::replica::live::Live;
use crate::replica::{ReplicaDir, backing};
use crate::sys::dir::{Dir, FileStat};
use crate::sys::source_identity::SourceIdentity;
use crate::view::LayerImage;
use crate::view::backing::open_backing;
use crate::view::blank::Blank;
use crate::view::layer_file::LayerFile;
use crate::view::layers::Layers;

/// Which state of the volume to open, and what to do without.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// As of this snapshot: its name, its file name, or a unique beginning. The head without it.
    pub at: Option<String>,
    /// The head's file name, whatever `volume.meta` says.
    pub head: Option<String>,
    /// The volume's size in bytes, whatever `volume.meta` says.
    pub size_bytes: Option<u64>,
    /// Where the backing image is now.
    pub backing_file: Option<PathBuf>,
    /// Go on though the replica is being rebuilt.
    pub allow_rebuilding: bool,
    /// Go on though another process writes to the head.
    pub allow_live: bool,
}

/// The state of the volume that a source shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// As it stood last, through this head.
    Head(String),
    /// As of this snapshot.
    Snapshot(String),
}

impl View {
    /// The file name of the top layer.
    pub fn file(&self) -> &str {
        match self {
            View::Head(file) | View::Snapshot(file) => file,
        }
    }
}

/// What a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// The backing image below all layers.
    Backing,
    /// A snapshot, or another layer that no longer changes.
    Snapshot,
    /// The writable layer.
    Head,
}

/// What is known of one layer of a source.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    /// The file name; of a backing image, its path.
    pub file: String,
    /// What it is.
    pub kind: LayerKind,
    /// When it was taken, or the head began, as its metadata says (RFC 3339); empty when it does not.
    pub created: String,
    /// Deleted and not purged yet: its data counts, its own view may not be right.
    pub removed: bool,
    /// Taken by a user rather than by the system.
    pub user_created: bool,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// What the file system says of its file; `None` when the file is not there and holds nothing that counts.
    pub stat: Option<FileStat>,
}

/// The open layers of one state of a volume.
pub struct Source {
    /// Which state.
    pub view: View,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// What is known of each layer, lowest first; one entry for each of `layers`.
    pub chain: Vec<LayerInfo>,
    /// The images, lowest first; the backing image, if there is one, is the first.
    pub layers: Arc<Layers>,
    /// Whether the first layer is a backing image.
    pub has_backing: bool,
    /// What is doubtful about it.
    pub findings: Vec<Finding>,
    /// Whether another process writes to the replica.
    pub live: Live,
    dir: Dir,
    replica: SourceIdentity,
    followed: Chain,
    head_by_volume_meta: bool,
    backing_seen: Option<(File, FileStat)>,
}

impl ReplicaDir {
    /// Resolves the chain, opens the layers, and applies the guards.
    ///
    /// # Errors
    /// [`ErrorKind::Source`](crate::error::ErrorKind::Source) when the state asked for cannot be had from this
    /// directory; [`ErrorKind::Refused`](crate::error::ErrorKind::Refused) when it can, and a guard wants to be
    /// told that it may go on (the hint names the flag); [`ErrorKind::Usage`](crate::error::ErrorKind::Usage)
    /// when no layer of that name is there.
    pub fn open_source(&self, options: &SourceOptions) -> Result<Source> {
        let mut decision = self.decide(options)?;
        let top = decision.view.file();
        let chain = self.chain_from(top);
        if let Some(fault) = &chain.fault {
            return Err(self.broken(fault));
        }
        let mut infos = Vec::new();
        let mut layers: Vec<Box<dyn LayerImage>> = Vec::new();
        let mut backing_seen = None;
        if let Some((path, file)) = self.find_backing(options)? {
            let unrecorded =
                self.inventory().volume_meta.good().is_some_and(|m| m.backing_file_path.is_empty());
            decision.findings.extend(unrecorded.then(|| unrecorded_backing(&path)));
            let stat = FileStat::of(&file).map_err(|e| cannot_look(&path, e))?;
            let again = file.try_clone().map_err(|e| cannot_look(&path, e))?;
            infos.push(LayerInfo::backing(&path, stat));
            let image = open_backing(path.display().to_string(), file)?;
            let excess_bytes = image.size_bytes().saturating_sub(decision.volume_bytes);
            decision.findings.extend((excess_bytes > 0).then(|| larger_backing(&path, excess_bytes)));
            layers.push(image);
            backing_seen = Some((again, stat));
        }
        for name in chain.layers.iter().rev() {
            let (info, image) = self.open_layer(name)?;
            infos.push(info);
            layers.push(image);
        }
        let live = Live::look(self.inventory());
        decision.findings.extend(self.examine_view(&decision.view, &chain));
        let mut source = Source {
            view: decision.view,
            volume_bytes: decision.volume_bytes,
            chain: infos,
            layers: layers.into(),
            has_backing: backing_seen.is_some(),
            findings: decision.findings,
            live,
            dir: Dir::open(self.path()).map_err(|e| cannot_look(self.path(), e))?,
            replica: self.identity(),
            followed: chain,
            head_by_volume_meta: decision.head_by_volume_meta,
            backing_seen,
        };
        source.guard(options, self.inventory().told().is_some_and(|meta| meta.rebuilding))?;
        source.say_what_is_doubtful();
        Ok(source)
    }

    /// What the doctor says of a view that was opened: what is unknown about `volume.meta` was given by hand.
    fn examine_view(&self, view: &View, chain: &Chain) -> Vec<Finding> {
        let head = match view {
            View::Head(head) => Some(head.as_str()),
            View::Snapshot(_) => None,
        };
        let by_hand = self.inventory().volume_meta.good().is_none();
        let given = |f: &Finding| by_hand && f.files.iter().any(|file| file == volume_meta::FILE_NAME);
        let mut findings = doctor::examine(self.inventory(), Subject { head, chain });
        // The size in use, which may be another one than volume.meta's, is judged when the source is complete.
        let on_size = |f: &Finding| matches!(f.code, Code::SizeInvalid | Code::SizeUnaligned);
        findings.retain(|finding| !given(finding) && !on_size(finding));
        findings
    }

    /// Finds and opens the backing image: the one given by hand, else the one that `volume.meta` records.
    ///
    /// # Errors
    /// When there should be one and it cannot be opened.
    pub fn find_backing(&self, options: &SourceOptions) -> Result<Option<(PathBuf, File)>> {
        let recorded = self.inventory().told().map_or("", |meta| meta.backing_file_path.as_str());
        match &options.backing_file {
            Some(path) => backing::open_by_hand(path).map(Some),
            None if recorded.is_empty() => Ok(None),
            None => backing::open_recorded(&self.dir, recorded).map(Some),
        }
    }

    /// Opens the data of one layer, on the chain or off it.
    ///
    /// # Errors
    /// When it is not there, is not a regular file, or may not be read.
    pub fn open_image(&self, name: &str) -> Result<LayerFile> {
        let file = self.dir.open_file(name).map_err(|e| {
            Error::source("cannot open the layer")
                .with_path(self.path())
                .in_layer(name)
                .with_hint(match e.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE) => {
                        "each layer is an open file: allow more of them (ulimit -n)"
                    }
                    _ => "layers belong to root: run as root",
                })
                .caused_by(e)
        })?;
        LayerFile::new(name.to_owned(), file)
    }

    /// Opens one layer of the chain. Its metadata is good, or it would not be on it.
    fn open_layer(&self, name: &str) -> Result<(LayerInfo, Box<dyn LayerImage>)> {
        let missing = |what: &str| Error::source(what).with_path(self.path()).in_layer(name);
        let disk = self.inventory().disks.get(name).ok_or_else(|| missing("the layer is not there"))?;
        let mut info = LayerInfo::of(disk);
        match disk.image {
            Some(image) if !image.regular => Err(missing("the layer is not a regular file")
                .with_hint("links are not followed: name the directory that holds the files themselves")),
            // An empty one that an engine made in the place of a lost one is read as the engine reads it; the doctor tells.
            Some(_) => {
                let image = self.open_image(name)?;
                info.stat =
                    Some(FileStat::of(image.file()).map_err(|e| cannot_look(&self.path().join(name), e))?);
                Ok((info, Box::new(image)))
            }
            None if is_dispensable(self.inventory(), disk) => Ok((info, Box::new(Blank::new(name)))),
            None => Err(self.lost_layer(disk)),
        }
    }

    /// A layer whose image is not there.
    fn lost_layer(&self, disk: &Disk) -> Error {
        let below = disk.meta.good().map_or("", |meta| meta.parent.as_str());
        let head = disk.kind == DiskKind::Head;
        let what = if head { "the head's data is missing" } else { "the layer's data is missing" };
        let error = Error::source(what).with_path(self.path()).in_layer(&disk.name);
        let at = if below.is_empty() { "NAME" } else { short(below) };
        if head {
            return error.with_hint(format!(
                "do not let the engine open this replica: it would make an empty head and serve old data; try another \
                 replica, or the last snapshot: --at {at}"
            ));
        }
        let error = match below {
            "" => error.with_hint("another replica may have it"),
            _ => error.with_hint(format!(
                "another replica may have it; what is below it can be had with --at {at}"
            )),
        };
        let parent = self.inventory().disks.get(below).filter(|parent| parent.is_removed());
        match parent {
            Some(parent) => error.and(&format!(
                "a purge may have folded it into {}, but the times of the files do not show that, as when nothing was \
                 written in its time, or when they were copied without their times",
                short(&parent.name)
            )),
            None => error,
        }
    }
}

/// Whether a layer's image is not there, or is an empty one that an engine made in its place, and that is a loss.
pub(crate) fn is_lost(inventory: &Inventory, disk: &Disk) -> bool {
    disk.kept_image().is_none() && !is_dispensable(inventory, disk)
}

/// Whether a missing image is no loss, because a purge was cut short (longhorn-engine `pkg/replica/replica.go`).
///
/// A purge folds a layer into its Removed parent, removes it, and links the parent's file under its name: cut
/// short in between, everything is in the parent. And a Removed layer that nothing stands on loses its image
/// before its metadata.
pub(crate) fn is_dispensable(inventory: &Inventory, disk: &Disk) -> bool {
    let folded = disk.kind == DiskKind::Snapshot && folded_into(inventory, disk).is_some();
    folded || is_purged(inventory, disk)
}

/// Whether a layer is on its way out, with nothing that stands on it.
pub(crate) fn is_purged(inventory: &Inventory, disk: &Disk) -> bool {
    disk.kind == DiskKind::Snapshot && disk.is_removed() && inventory.children(&disk.name).next().is_none()
}

/// The Removed parent that a purge has folded a layer into whose image is missing or was made anew, if that is what
/// happened: a parent with several children is never folded, and one that has not changed since the layer was taken
/// has not been. Where other snapshots seem to have changed, too, since they were taken, as in a copy that has not kept
/// the times, it must be the last one that did. There, and where nothing shows whether the times were kept, it must also have
/// changed no earlier than its metadata, in which it was marked as Removed before it was folded.
pub(crate) fn folded_into<'a>(inventory: &'a Inventory, disk: &Disk) -> Option<&'a Disk> {
    let meta = disk.meta.good()?;
    let parent = inventory.disks.get(&meta.parent).filter(|p| p.is_removed())?;
    let image = parent.kept_image()?;
    let modified = image.modified;
    let only_child = inventory.children(&parent.name).nth(1).is_none();
    let since = disk.taken().is_some_and(|taken| modified.0 >= taken);
    let after_mark = parent.meta_file.is_none_or(|meta| modified >= meta.modified);
    let last = match inventory.times() {
        Times::Kept => true,
        Times::Unknown => after_mark,
        Times::ChangedLate(latest) => modified >= latest && after_mark,
    };
    (only_child && since && last).then_some(parent)
}

fn unrecorded_backing(path: &Path) -> Finding {
    Finding::new(
        Code::BackingUnrecorded,
        "a backing image is given by hand, and volume.meta names none",
        "if the volume has none, whatever was never written shows the image instead of zeros",
    )
    .on(path.display().to_string())
}

fn larger_backing(path: &Path, excess_bytes: u64) -> Finding {
    Finding::new(
        Code::BackingLarger,
        format!("the backing image is {excess_bytes} bytes longer than the volume"),
        "the engine takes none that is, so this is another image, or the volume's size is wrong",
    )
    .on(path.display().to_string())
    .advise("compare its checksum with the one in the BackingImage resource, or with the other nodes' copies")
}

fn cannot_look(path: &Path, e: std::io::Error) -> Error {
    Error::source("cannot look at the file").with_path(path).caused_by(e)
}

impl LayerInfo {
    /// What the inventory knows of a layer.
    pub fn of(disk: &Disk) -> Self {
        let meta = disk.meta.good().cloned().unwrap_or_else(LayerMeta::default);
        LayerInfo {
            file: disk.name.clone(),
            kind: if disk.kind == DiskKind::Head { LayerKind::Head } else { LayerKind::Snapshot },
            created: meta.created,
            removed: meta.removed,
            user_created: meta.user_created,
            labels: meta.labels,
            stat: disk.image,
        }
    }

    fn backing(path: &Path, stat: FileStat) -> Self {
        LayerInfo {
            file: path.display().to_string(),
            kind: LayerKind::Backing,
            created: String::new(),
            removed: false,
            user_created: false,
            labels: Vec::new(),
            stat: Some(stat),
        }
    }
}

impl Source {
    /// What the source is made of: the replica directory, all that is in it, its backing image.
    pub fn identity(&self) -> SourceIdentity {
        let mut identity = self.replica.clone();
        self.backing_seen.iter().for_each(|(_, stat)| identity.add_file(stat.id));
        identity
    }

    /// Refuses what needs leave.
    fn guard(&self, options: &SourceOptions, rebuilding: bool) -> Result<()> {
        if rebuilding && !options.allow_rebuilding {
            return Err(Error::refused(
                "this replica was being rebuilt from another one: what it holds is not the volume, however \
                 complete it looks",
            )
            .with_path(self.dir.path())
            .with_hint("use another replica; to read this one all the same: --allow-rebuilding"));
        }
        if self.live.is_live() && matches!(self.view, View::Head(_)) && !options.allow_live {
            return Err(Error::refused(format!(
                "the replica is in use: {} has it open for writing",
                self.live.who()
            ))
            .with_path(self.dir.path())
            .with_hint(
                "detach the volume first, or read a snapshot (--at); to read the head while it changes: --allow-live",
            ));
        }
        Ok(())
    }

    fn say_what_is_doubtful(&mut self) {
        let mut findings = Vec::new();
        let live = self.live.findings();
        let harmless = |f: &Finding| f.code == Code::LiveHead && matches!(self.view, View::Snapshot(_));
        findings.extend(live.into_iter().filter(|f| !harmless(f)));
        if !self.volume_bytes.is_multiple_of(SECTOR_BYTES) {
            findings.push(Finding::new(
                Code::SizeUnaligned,
                format!(
                    "the volume's size, {} bytes, is not a multiple of {SECTOR_BYTES}",
                    self.volume_bytes
                ),
                "the engine cannot write the last, incomplete sector, so the size may be wrong",
            ));
        }
        if let (View::Snapshot(file), Some(top)) = (&self.view, self.chain.last()) {
            if top.removed {
                let what = match top.stat {
                    Some(_) => format!("snapshot {} is marked as removed", short(file)),
                    None => format!("snapshot {} is removed, and its data is purged already", short(file)),
                };
                findings.push(
                    Finding::new(
                        Code::RemovedView,
                        what,
                        "a purge or an unmap may have changed it already: its own view need not be what it was",
                    )
                    .on(file)
                    .advise("use a snapshot that is not removed, or the head"),
                );
            }
        }
        self.findings.extend(findings);
        doctor::sort(&mut self.findings);
    }

    /// Looks again at what was read: the chain and the files must be what they were when they were opened. Call
    /// it when the reading is done. The head of a live replica, read by leave, may have changed; nothing else.
    ///
    /// # Errors
    /// What changed, as [`ErrorKind::Source`](crate::error::ErrorKind::Source).
    pub fn recheck(&self) -> Result<()> {
        let changed = |what: String| {
            Error::source(format!("the replica changed while it was read: {what}"))
                .with_path(self.dir.path())
                .with_hint(
                    "what was read is a mix of two states: stop what uses the replica, and start again",
                )
        };
        let now = Inventory::read(&self.dir)?;
        if self.head_by_volume_meta {
            let head = now.volume_meta.good().map_or("", |meta| meta.head.as_str());
            if head != self.view.file() {
                return Err(changed(format!("its head is now {head:?}")));
            }
        }
        if now.chain_from(self.view.file()) != self.followed {
            return Err(changed("its chain is another one".to_owned()));
        }
        let live_head = self.live.is_live().then_some(self.view.file());
        for info in self.chain.iter().filter(|info| info.kind != LayerKind::Backing) {
            let then = info.stat;
            let stat = now.disks.get(&info.file).and_then(|disk| disk.image);
            let same_file = then.map(|s| s.id) == stat.map(|s| s.id);
            let same_data =
                then.map(|s| (s.size_bytes, s.modified)) == stat.map(|s| (s.size_bytes, s.modified));
            let may_change = info.kind == LayerKind::Head && live_head == Some(info.file.as_str());
            if !same_file || !(same_data || may_change) {
                return Err(changed(format!("{} is not what it was", info.file)));
            }
        }
        if let Some((file, then)) = &self.backing_seen {
            let stat = FileStat::of(file).map_err(|e| cannot_look(self.dir.path(), e))?;
            if (stat.size_bytes, stat.modified) != (then.size_bytes, then.modified) {
                return Err(changed("the backing image is not what it was".to_owned()));
            }
        }
        Ok(())
    }
}
