//! The sweep: open layers in, segments out, and a survey of the whole before anything is copied.

use crate::engine::copy::CLONE_MIN_BYTES;
use crate::error::Result;
use crate::event::Run;
use crate::model::overlay::{Segment, Served, Tally, Unwritten};
use crate::model::units::ByteRange;
use crate::view::layers::{Layers, overlay};

/// How many ranges of unwritten extents a survey keeps; their bytes are always counted in full.
const KEPT_RANGES: usize = 256;

/// The most segments a survey keeps: 12 MiB of them.
const KEPT_SEGMENTS: usize = 1 << 19;

/// How many segments are swept between two looks at whether the work was cancelled.
const CHECK_EVERY: u64 = 4096;

/// What a sweep over the whole volume found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Per layer, lowest first.
    pub layers: Vec<LayerSurvey>,
    /// Segments that carry data.
    pub segments: u64,
    /// Bytes of the volume that some layer serves with data: what a copy has to move.
    pub data_bytes: u64,
    /// All segments in ascending order, unless there are too many to keep.
    pub kept: Option<Vec<Segment>>,
    /// Unwritten extents that hide nothing.
    pub unwritten_harmless: Ranges,
    /// Unwritten extents with written data of a lower layer below them: the two readings differ here.
    pub unwritten_hiding: Ranges,
}

/// One layer's part in the volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerSurvey {
    /// What the layer holds.
    pub tally: Tally,
    /// Bytes of the merged view that this layer serves with data.
    pub served_bytes: u64,
    /// The part of it in segments large enough to be shared rather than copied, where that is possible.
    pub clonable_bytes: u64,
}

/// Ranges of the volume: all of them counted, the first ones kept.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// The first ranges, up to a limit.
    pub first: Vec<ByteRange>,
    /// How many ranges there are.
    pub count: u64,
    /// How many bytes they cover.
    pub bytes: u64,
}

impl Ranges {
    fn add(&mut self, range: ByteRange) {
        if self.first.len() < KEPT_RANGES {
            self.first.push(range);
        }
        self.count += 1;
        self.bytes += range.len_bytes();
    }
}

/// Sweeps the whole volume once and counts.
///
/// Unwritten extents are always told as the engine sees them, so that where the two readings differ is known
/// whichever is chosen; what each layer serves follows `unwritten`.
///
/// # Errors
/// When a layer's extents cannot be told, or the run is cancelled.
pub fn survey(layers: &Layers, volume_bytes: u64, unwritten: Unwritten, run: &Run<'_>) -> Result<Survey> {
    let as_engine = sweep_once(layers, volume_bytes, Unwritten::Zero, run)?;
    if unwritten == Unwritten::Zero || as_engine.unwritten_hiding.count == 0 {
        return Ok(as_engine);
    }
    let as_told = sweep_once(layers, volume_bytes, unwritten, run)?;
    Ok(Survey {
        unwritten_harmless: as_engine.unwritten_harmless,
        unwritten_hiding: as_engine.unwritten_hiding,
        ..as_told
    })
}

fn sweep_once(layers: &Layers, volume_bytes: u64, unwritten: Unwritten, run: &Run<'_>) -> Result<Survey> {
    let mut sweep = overlay(layers, ByteRange::new(0, volume_bytes), unwritten)?;
    let mut survey = Survey {
        layers: vec![LayerSurvey::default(); layers.len()],
        kept: Some(Vec::new()),
        ..Survey::default()
    };
    let mut swept = 0u64;
    while let Some(segment) = sweep.next_segment()? {
        match segment.served {
            Served::Data(layer) => {
                survey.segments += 1;
                survey.data_bytes += segment.range.len_bytes();
                if segment.range.len_bytes() >= CLONE_MIN_BYTES {
                    survey.layers[usize::from(layer)].clonable_bytes += segment.range.len_bytes();
                }
                survey.layers[usize::from(layer)].served_bytes += segment.range.len_bytes();
            }
            Served::Unwritten { hides_data: true, .. } => survey.unwritten_hiding.add(segment.range),
            Served::Unwritten { hides_data: false, .. } => survey.unwritten_harmless.add(segment.range),
        }
        survey.kept = survey.kept.take().filter(|kept| kept.len() < KEPT_SEGMENTS).map(|mut kept| {
            kept.push(segment);
            kept
        });
        swept += 1;
        if swept.is_multiple_of(CHECK_EVERY) {
            run.check()?;
        }
    }
    for (layer, tally) in survey.layers.iter_mut().zip(sweep.tallies()) {
        layer.tally = tally;
    }
    Ok(survey)
}
