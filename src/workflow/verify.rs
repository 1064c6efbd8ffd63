//! Verifying a replica: against what the engine recorded, against an image, against another replica of the volume, or
//! against what was recorded of it before.
//!
//! Each is a work of its own, since each answers another question. None writes to a replica.

pub mod digests;
pub mod image;
pub mod sibling;
pub mod sums;

use crate::error::{Error, Result};
use crate::replica::ReplicaDir;
use crate::replica::live::Live;

/// Refuses to read layers whose head somebody writes to, without leave.
fn refuse_live(replica: &ReplicaDir, allow_live: bool) -> Result<()> {
    let live = Live::look(replica.inventory());
    if live.is_live() && !allow_live {
        return Err(Error::refused(format!("the replica is in use: {} has it open for writing", live.who()))
            .with_path(replica.path())
            .with_hint("detach the volume first, name layers that do not change (--layer), or read it while it changes: --allow-live"));
    }
    Ok(())
}

/// The file names of the layers that `wanted` name, each once; `None` when none is wanted in particular.
///
/// # Errors
/// When one of them is not there, or could mean several.
pub fn layers_named(replica: &ReplicaDir, wanted: &[String]) -> Result<Option<Vec<String>>> {
    let mut files = wanted.iter().map(|name| replica.find_layer(name)).collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    files.dedup();
    Ok((!files.is_empty()).then(|| files.into_iter().map(str::to_owned).collect()))
}
