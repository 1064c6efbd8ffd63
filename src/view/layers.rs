//! The overlay over open layers: extents in, segments out.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::extent::{ExtentSource, SectorExtents};
use crate::model::overlay::{MAX_LAYERS, Overlay, Unwritten};
use crate::model::units::ByteRange;
use crate::view::LayerImage;

/// The layers of a chain, lowest first.
pub type Layers = [Box<dyn LayerImage>];

/// An overlay over open layers.
pub type LayerOverlay<'a> = Overlay<Box<dyn ExtentSource + 'a>>;

/// Begins a sweep over the part `window` of the volume that `layers`, lowest first, make up.
///
/// # Errors
/// When a layer's extents cannot be told, or there are more layers than an overlay takes.
pub fn overlay(layers: &Layers, window: ByteRange, unwritten: Unwritten) -> Result<LayerOverlay<'_>> {
    of_sources(layers, window, unwritten, |layer| layer.extents())
}

/// The same for a small `window`: layers are asked for no extent past its end, and not made to write out what they
/// have in memory, as opening them did.
///
/// # Errors
/// As [`overlay`].
pub fn overlay_within(layers: &Layers, window: ByteRange, unwritten: Unwritten) -> Result<LayerOverlay<'_>> {
    of_sources(layers, window, unwritten, |layer| layer.extents_within(window))
}

fn of_sources<'a>(
    layers: &'a Layers,
    window: ByteRange,
    unwritten: Unwritten,
    source: impl Fn(&'a dyn LayerImage) -> Result<Box<dyn ExtentSource + 'a>>,
) -> Result<LayerOverlay<'a>> {
    if layers.len() > MAX_LAYERS {
        return Err(Error::source(format!("{} layers are more than any chain has", layers.len())));
    }
    let sources = layers.iter().map(|layer| source(&**layer)).collect::<Result<Vec<_>>>()?;
    Ok(Overlay::new(sources, window, unwritten).refilled_by(in_parallel))
}

/// On a cold disk the maps of 40 layers are read at once, not one after the other.
fn in_parallel<S: ExtentSource>(low: &mut [&mut SectorExtents<S>]) -> Result<()> {
    match low {
        [only] => only.refill(),
        _ => low.par_iter_mut().try_for_each(|extents| extents.refill()),
    }
}
