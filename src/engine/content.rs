//! Findings that need bytes of the data: a LUKS header, and written zeros that a copy turned into holes.
//!
//! `cp -a`, `rsync -S`, `dd conv=sparse` and others skip zeros as they copy: old data then shows through wherever
//! the guest had written zeros over it. No error is left behind, only that there is not one block of zeros in any
//! layer. (The opposite damage, holes that became data, shows in the extents alone: [`judge`].)

use std::sync::Arc;

use crate::engine::judge;
use crate::engine::sweep::Survey;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::{self, Guest, GuestKind};
use crate::model::extent::{ExtentKind, SectorExtents};
use crate::model::finding::{Code, Finding};
use crate::model::overlay::Unwritten;
use crate::model::units::{ByteRange, SECTOR_BYTES, sector_ceil};
use crate::replica::{LayerKind, Source};
use crate::view::LayerImage;
use crate::view::merged::MergedView;

/// With less data than this, in bytes, the absence of a zero block says nothing: a file system that was used for a
/// while has written some by then, but a small volume may be one file of random bytes.
const ZEROS_EXPECTED_FROM_BYTES: u64 = 128 << 20;

/// How many bytes are read at most to find a zero block. In so many places none is missed by chance where one in a few
/// thousand is of zeros, and file systems alone write more.
const SAMPLE_BYTES: u64 = 2 << 30;

/// How many bytes are read at a time.
const CHUNK_BYTES: u64 = 64 << 10;

/// What the bytes of an open source tell, with the survey of the same source.
///
/// # Errors
/// Only when the run is cancelled: data that cannot be read is a finding.
pub fn examine(source: &Source, survey: &Survey, run: &Run<'_>) -> Result<Vec<Finding>> {
    look(source, survey, run, |guest| guest.is_none_or(|guest| guest.kind != GuestKind::Luks))
}

/// The same, for somebody who is about to read all of it: written zeros are looked for only where there is a file
/// system, a partition table or a volume manager, which always write some, and are seldom read far for it.
///
/// # Errors
/// As [`examine`].
pub fn glance(source: &Source, survey: &Survey, run: &Run<'_>) -> Result<Vec<Finding>> {
    look(source, survey, run, |guest| guest.is_some_and(|guest| guest.kind != GuestKind::Luks))
}

fn look(
    source: &Source,
    survey: &Survey,
    run: &Run<'_>,
    writes_zeros: impl Fn(Option<Guest>) -> bool,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let guest = match recognise(source) {
        Ok(guest) => guest,
        Err(e) => {
            findings.push(unreadable(&e));
            None
        }
    };
    let encrypted = guest.is_some_and(|guest| guest.kind == GuestKind::Luks);
    if encrypted && !source.findings.iter().any(|finding| finding.code == Code::Encrypted) {
        findings.push(Finding::new(
            Code::Encrypted,
            "the volume begins with a LUKS header",
            "the image is a LUKS container: its passphrase is needed to look inside",
        ));
    }
    let full = judge::every_layer_is_full(&source.layers, survey, source.has_backing, source.volume_bytes);
    // With nothing below, a zero that became a hole reads the same.
    if source.layers.len() > 1 && !full && writes_zeros(guest) {
        match without_zeros(source, survey, run) {
            Ok(Some(seen)) => findings.push(no_zeros(seen)),
            Ok(None) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => findings.push(unreadable(&e)),
        }
    }
    Ok(findings)
}

/// The layers of the replica itself, with their place in the source.
fn own_layers(source: &Source) -> impl Iterator<Item = (usize, &dyn LayerImage)> {
    let layers = source.layers.iter().map(|layer| &**layer).enumerate();
    layers.filter(|(i, _)| source.chain.get(*i).is_none_or(|info| info.kind != LayerKind::Backing))
}

/// What the merged view is recognised as.
///
/// # Errors
/// When its beginning cannot be read.
pub fn recognise(source: &Source) -> Result<Option<Guest>> {
    let view = MergedView::new(Arc::clone(&source.layers), source.volume_bytes, Unwritten::Zero);
    guest::on_disk(&view)
}

fn no_zeros(seen: Seen) -> Finding {
    let Seen { taken_bytes, total_bytes } = seen;
    Finding::new(
        Code::CopyNoZeros,
        match total_bytes.saturating_sub(taken_bytes) {
            0 => "there is no block of zeros anywhere in the layers".to_owned(),
            _ => format!(
                "there is no block of zeros in a sample of {taken_bytes} bytes from all over the layers, which hold \
                 {total_bytes}"
            ),
        },
        "guests write some; if this directory was copied with cp -a, rsync -S or the like, written zeros became holes, \
         and older data shows through where they were",
    )
    .advise("if it is a copy, go back to the original disk, and copy with tar -S or block by block")
}

/// How much of the data of all layers was looked at.
struct Seen {
    taken_bytes: u64,
    total_bytes: u64,
}

/// How much was looked at without finding a written block of zeros; `None` when there is one, or too little data to expect
/// one.
fn without_zeros(source: &Source, survey: &Survey, run: &Run<'_>) -> Result<Option<Seen>> {
    let held =
        |(i, _): (usize, &dyn LayerImage)| survey.layers.get(i).map_or(0, |layer| layer.tally.data_bytes);
    let total_bytes: u64 = own_layers(source).map(held).fold(0, u64::saturating_add);
    if total_bytes < ZEROS_EXPECTED_FROM_BYTES {
        return Ok(None);
    }
    let mut sample = Sample { total_bytes, seen_bytes: 0, taken_bytes: 0, buf: Vec::new() };
    run.event(Event::Phase {
        name: "looking for written zeros",
        total_bytes: Some(total_bytes.min(SAMPLE_BYTES)),
    });
    let found = sample.finds_zeros(source, run);
    run.event(Event::PhaseDone);
    Ok((!found?).then_some(Seen { taken_bytes: sample.taken_bytes, total_bytes }))
}

/// An even sample of all data of all layers, without knowing beforehand where it is.
struct Sample {
    total_bytes: u64,
    seen_bytes: u64,
    taken_bytes: u64,
    buf: Vec<u8>,
}

impl Sample {
    /// Whether a block of zeros is in the sample; the first one ends it.
    fn finds_zeros(&mut self, source: &Source, run: &Run<'_>) -> Result<bool> {
        for (_, layer) in own_layers(source) {
            let window = ByteRange::new(0, sector_ceil(layer.size_bytes().min(source.volume_bytes)));
            let mut extents = SectorExtents::new(layer.extents()?, window);
            while let Some(extent) = extents.next_extent()? {
                if extent.kind == ExtentKind::Data && self.finds_zeros_in(layer, extent.range, run)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether one is in the part of `range` that belongs to the sample.
    fn finds_zeros_in(&mut self, layer: &dyn LayerImage, range: ByteRange, run: &Run<'_>) -> Result<bool> {
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            let len = CHUNK_BYTES.min(range.end_bytes - at);
            if self.wants_more() {
                run.check()?;
                self.buf.resize(usize::try_from(len).unwrap_or_default(), 0);
                layer.read_exact_at(&mut self.buf, at)?;
                self.taken_bytes += len;
                run.event(Event::Advanced { bytes: len });
                let blocks = self.buf.chunks_exact(usize::try_from(SECTOR_BYTES).unwrap_or(1));
                if blocks.into_iter().any(|block| block.iter().all(|&b| b == 0)) {
                    return Ok(true);
                }
            }
            self.seen_bytes += len;
            at += len;
        }
        Ok(false)
    }

    /// Whether the sample is behind its share of what was seen so far.
    fn wants_more(&self) -> bool {
        let share = |part: u64, of: u64| u128::from(part) * u128::from(of);
        share(self.taken_bytes, self.total_bytes) <= share(self.seen_bytes, SAMPLE_BYTES)
    }
}

/// Data that could not be read while it was looked at.
pub(crate) fn unreadable(error: &Error) -> Finding {
    let mut finding = Finding::new(
        Code::Unreadable,
        error.to_string(),
        "what cannot be read cannot be copied: a merge would stop here",
    )
    .advise(error.hint().unwrap_or("try another replica"));
    finding.files = error.layer().map(str::to_owned).into_iter().collect();
    finding
}
