//! A replica as a picture shows it: what it is made of, what is wrong with it, and which layer serves what.

use crate::engine::diagnose::{Diagnosis, diagnose};
use crate::engine::heat::{self, HeatMap};
use crate::engine::plan::Plan;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::evidence::Evidence;
use crate::model::overlay::Unwritten;
use crate::model::standing::Ranking;
use crate::replica::{ReplicaDir, SourceOptions};

/// How many cells a volume is cut into, at most: enough that one is a small part of the picture, and few enough that the
/// page stays small.
pub const MOST_CELLS: u32 = 1024;

/// What there is to show of a replica.
pub struct Mapped {
    /// Everything that `inspect` finds.
    pub diagnosis: Diagnosis,
    /// Which layer serves what; `None` when the state cannot be read.
    pub heat: Option<HeatMap>,
    /// What the replica directory is really called, which no two replicas share.
    pub directory: Option<String>,
}

/// Looks at the state of `replica` that `options` name. A state that cannot be read is no error: what is left is shown.
///
/// # Errors
/// As [`diagnose`].
pub fn map(
    replica: &ReplicaDir,
    options: &SourceOptions,
    unwritten: Unwritten,
    run: &Run<'_>,
) -> Result<Mapped> {
    let diagnosis = diagnose(replica, options, unwritten, run)?;
    let mut heat = None;
    if let (Some(source), Some(survey)) = (&diagnosis.source, &diagnosis.survey) {
        let plan = Plan::new(&source.layers, source.volume_bytes, unwritten).surveyed(survey);
        heat = Some(heat::map(&plan, MOST_CELLS, run)?);
    }
    let directory = replica.path().canonicalize().ok();
    let directory = directory.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    Ok(Mapped { diagnosis, heat, directory })
}

impl Mapped {
    /// The ranking among `rankings` that this replica is in: the one with a directory of its name; else the only one.
    ///
    /// # Errors
    /// `Usage` when it is in none of several, or there is none.
    pub fn ranking<'a, 'e>(&self, rankings: &'a [Ranking<'e>]) -> Result<&'a Ranking<'e>> {
        let names_it = |replica: &Evidence| Some(replica.directory()) == self.directory.as_deref();
        let named = rankings.iter().find(|r| r.replicas.iter().any(|replica| names_it(replica.evidence)));
        match (named, rankings) {
            (Some(ranking), _) => Ok(ranking),
            (None, [only]) => Ok(only),
            (None, _) => {
                let name = self.directory.as_deref().unwrap_or_default();
                Err(Error::usage(format!("the scan knows no replica directory {name:?}"))
                    .with_hint("scan this volume alone: lhrecover scan --volume NAME --json"))
            }
        }
    }
}
