//! The closer look: checksums of all snapshots on the live chain, how much data there is, and what is inside.
//!
//! Replicas are looked at one after the other, each with all threads: the disk is the limit. Snapshots without a recorded
//! checksum are hashed, too, since a sibling may have one of the same name.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::engine::checksum::crc64s;
use crate::engine::content;
use crate::engine::sweep;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::format::names;
use crate::model::evidence::{Evidence, SnapshotEvidence};
use crate::model::overlay::Unwritten;
use crate::replica::{ReplicaDir, SourceOptions};
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;

/// Completes the evidence of the replicas in `directories`, which are in the same order.
///
/// # Errors
/// When interrupted. What cannot be read is evidence.
pub(super) fn look(
    directories: &[PathBuf],
    replicas: &mut [Evidence],
    workers: usize,
    run: &Run<'_>,
) -> Result<()> {
    for (path, evidence) in directories.iter().zip(replicas) {
        let Ok(replica) = ReplicaDir::open(path) else { continue };
        run.event(Event::Phase { name: "checking", total_bytes: Some(evidence.allocated_bytes) });
        checksums(&replica, evidence, workers, run)?;
        content(&replica, evidence, run)?;
        run.event(Event::PhaseDone);
        evidence.deep = true;
    }
    Ok(())
}

/// How many layers are held open at a time.
const OPEN_LAYERS: usize = 128;

fn checksums(replica: &ReplicaDir, evidence: &mut Evidence, workers: usize, run: &Run<'_>) -> Result<()> {
    let mut trouble = Vec::new();
    let mut live: Vec<_> =
        evidence.snapshots.iter_mut().filter(|s| s.live && s.size_bytes.is_some()).collect();
    for some in live.chunks_mut(OPEN_LAYERS) {
        let mut opened: Vec<(&mut SnapshotEvidence, LayerFile)> = Vec::new();
        for snapshot in some {
            match replica.open_image(&names::snapshot_file(&snapshot.name)) {
                Ok(image) => opened.push((snapshot, image)),
                Err(e) => fail(snapshot, &e, &mut trouble),
            }
        }
        let images: Vec<_> = opened.iter().map(|(_, image)| image as &dyn LayerImage).collect();
        let sums = crc64s(&images, workers, run)?;
        for ((snapshot, _), sum) in opened.iter_mut().zip(sums) {
            match sum {
                Ok(sum) => snapshot.computed_crc64 = Some(format!("{sum:016x}")),
                Err(e) => fail(snapshot, &e, &mut trouble),
            }
        }
    }
    evidence.trouble.extend(trouble);
    Ok(())
}

/// A disk that cannot read is damage. Anything else (no descriptors left, no leave) says nothing of the data.
fn fail(snapshot: &mut SnapshotEvidence, error: &Error, trouble: &mut Vec<String>) {
    let damage = [Errno::EIO, Errno::EUCLEAN, Errno::EBADMSG].map(|errno| Some(errno as i32));
    if damage.contains(&error.io_cause().and_then(std::io::Error::raw_os_error)) {
        snapshot.unreadable = Some(error.to_string());
    } else {
        trouble.push(error.to_string());
    }
}

/// What the head's view holds, if it can be opened at all; all guards are for those who go on to use it.
fn content(replica: &ReplicaDir, evidence: &mut Evidence, run: &Run<'_>) -> Result<()> {
    let options = SourceOptions { allow_rebuilding: true, allow_live: true, ..SourceOptions::default() };
    let Ok(source) = replica.open_source(&options) else { return Ok(()) };
    match sweep::survey(&source.layers, source.volume_bytes, Unwritten::Zero, run) {
        Ok(survey) => evidence.data_bytes = Some(survey.data_bytes),
        Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
        Err(e) => evidence.trouble.push(e.to_string()),
    }
    match content::recognise(&source) {
        Ok(guest) => evidence.guest = guest.map(|guest| guest.name.to_owned()),
        Err(e) => evidence.trouble.push(e.to_string()),
    }
    Ok(())
}
