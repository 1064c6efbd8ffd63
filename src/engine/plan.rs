//! The plan: the volume as a copy reads it, one segment after the other.
//!
//! A survey sweeps the whole volume before anything is written. What it found is kept while it is small, so that
//! the copy, and the reading back, need not ask the file system again; past that it is swept anew each time, and
//! memory stays bounded.

use crate::engine::sweep::Survey;
use crate::error::Result;
use crate::model::overlay::{Segment, Unwritten};
use crate::model::units::ByteRange;
use crate::view::layers::{self, LayerOverlay, Layers};

/// What is copied: open layers, how they are read, and their segments where they are known already.
#[derive(Clone, Copy)]
pub struct Plan<'a> {
    /// The layers, lowest first.
    pub layers: &'a Layers,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    unwritten: Unwritten,
    known: Option<&'a [Segment]>,
}

impl<'a> Plan<'a> {
    /// A plan that sweeps `layers` whenever it is asked.
    pub fn new(layers: &'a Layers, volume_bytes: u64, unwritten: Unwritten) -> Self {
        Plan { layers, volume_bytes, unwritten, known: None }
    }

    /// The same plan, with what `survey`, made of the same layers and read the same way, has kept.
    pub fn surveyed(self, survey: &'a Survey) -> Self {
        Plan { known: survey.kept.as_deref(), ..self }
    }

    /// All of the volume.
    pub fn volume(&self) -> ByteRange {
        ByteRange::new(0, self.volume_bytes)
    }

    /// The segments, in ascending order.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    pub fn segments(&self) -> Result<Segments<'a>> {
        Ok(match self.known {
            Some(known) => Segments::Known(known.iter()),
            None => Segments::Swept(Box::new(layers::overlay(self.layers, self.volume(), self.unwritten)?)),
        })
    }
}

/// The segments of a plan, in ascending order.
pub enum Segments<'a> {
    /// From the survey.
    Known(std::slice::Iter<'a, Segment>),
    /// From the layers.
    Swept(Box<LayerOverlay<'a>>),
}

impl Iterator for Segments<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Segments::Known(segments) => segments.next().copied().map(Ok),
            Segments::Swept(overlay) => overlay.next(),
        }
    }
}
