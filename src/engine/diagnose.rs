//! Everything that can be found out about a replica without copying it, also when it cannot be opened.

use std::collections::BTreeMap;

use crate::engine::content;
use crate::engine::judge;
use crate::engine::sweep::{self, Survey};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::format::names::{self, DiskKind};
use crate::model::chain::Chain;
use crate::model::finding::{Code, Finding, Severity};
use crate::model::overlay::{Tally, Unwritten};
use crate::replica::doctor::{self, Subject};
use crate::replica::live::Live;
use crate::replica::{ReplicaDir, Source, SourceOptions, head};
use crate::view::LayerImage;

/// The most layers off the chain whose extents are counted.
const MAX_TALLIED: usize = 1000;

/// What was found out about a replica.
pub struct Diagnosis {
    /// The head: the one that `volume.meta` names, else the likely one.
    pub head: Option<String>,
    /// The top layer of the state looked at: the head, unless a snapshot was asked for.
    pub top: Option<String>,
    /// Its chain, top first, as far as it can be followed.
    pub chain: Chain,
    /// The open layers, if they can be opened.
    pub source: Option<Source>,
    /// What each layer holds and serves, if the layers can be opened and their maps read.
    pub survey: Option<Survey>,
    /// What the other layers hold, by file name.
    pub off_chain: BTreeMap<String, Tally>,
    /// Why there is no source or no survey.
    pub error: Option<Error>,
    /// Everything found, the most serious first.
    pub findings: Vec<Finding>,
}

/// Looks at a state of a replica. Guards do not apply: looking harms nobody. Of `options`, the state, the head, the size
/// and the backing image are used.
///
/// # Errors
/// `Usage` when no snapshot is there of the name asked for; interrupted when the run is cancelled.
pub fn diagnose(
    replica: &ReplicaDir,
    options: &SourceOptions,
    unwritten: Unwritten,
    run: &Run<'_>,
) -> Result<Diagnosis> {
    let inventory = replica.inventory();
    let told = inventory.volume_meta.good();
    let likely = head::propose(inventory);
    let head = options.head.clone().or_else(|| match told {
        Some(meta) => Some(meta.head.clone()),
        None => likely.as_ref().map(|likely| likely.head.clone()),
    });
    let at = options.at.as_deref().map(|at| replica.find_layer(at)).transpose()?;
    let top = at.or(head.as_deref());
    let chain = top.map(|top| replica.chain_from(top)).unwrap_or_default();
    let of_snapshot = at.is_some_and(|at| names::disk_kind(at) != DiskKind::Head);
    let subject = Subject { head: top.filter(|_| !of_snapshot), chain: &chain };
    let mut findings = doctor::examine(inventory, subject);
    findings.extend(Live::look(inventory).findings());

    let by_guess = told.is_none();
    let options = SourceOptions {
        at: at.map(str::to_owned),
        head: options.head.clone().or_else(|| head.clone().filter(|_| by_guess && at.is_none())),
        size_bytes: options.size_bytes.or_else(|| head::propose_size(inventory).filter(|_| by_guess)),
        backing_file: options.backing_file.clone(),
        allow_rebuilding: true,
        allow_live: true,
    };
    let mut diagnosis = Diagnosis {
        top: top.map(str::to_owned),
        head,
        chain,
        source: None,
        survey: None,
        off_chain: BTreeMap::new(),
        error: None,
        findings,
    };
    if let Err(e) = replica.find_backing(&options) {
        diagnosis.findings.push(no_backing(&e));
    }
    match replica.open_source(&options) {
        Ok(source) => diagnosis.look_inside(source, by_guess, unwritten, run)?,
        Err(e) => diagnosis.fail(e),
    }
    diagnosis.tally_the_rest(replica, run)?;
    doctor::sort(&mut diagnosis.findings);
    Ok(diagnosis)
}

fn no_backing(error: &Error) -> Finding {
    Finding::new(
        Code::BackingMissing,
        error.to_string(),
        "whatever was never written since the volume was made is in it; without it there would be zeros in its place",
    )
    .advise(error.hint().unwrap_or("name it with --backing-file"))
}

impl Diagnosis {
    fn look_inside(
        &mut self,
        source: Source,
        by_guess: bool,
        unwritten: Unwritten,
        run: &Run<'_>,
    ) -> Result<()> {
        let on_opening = [Code::BackingUnrecorded, Code::BackingLarger, Code::RemovedView];
        // Head and size that were guessed for want of volume.meta are nobody's choice.
        let chosen = |code: Code| code == Code::ChosenByHand && !by_guess;
        let opening = source.findings.iter().filter(|f| on_opening.contains(&f.code) || chosen(f.code));
        self.findings.extend(opening.cloned());
        match sweep::survey(&source.layers, source.volume_bytes, unwritten, run) {
            Ok(survey) => {
                let (layers, volume_bytes) = (&source.layers, source.volume_bytes);
                let judged = judge::judge(layers, &survey, source.has_backing, volume_bytes, unwritten);
                self.findings.extend(judged);
                self.findings.extend(content::examine(&source, &survey, run)?);
                self.survey = Some(survey);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => self.fail(e),
        }
        self.source = Some(source);
        Ok(())
    }

    /// Keeps the error, and says it as a finding unless one says so already.
    fn fail(&mut self, error: Error) {
        let explains = |finding: &Finding| {
            finding.severity() == Severity::Error && !matches!(finding.code, Code::Rebuilding)
        };
        if !self.findings.iter().any(explains) {
            self.findings.push(content::unreadable(&error));
        }
        self.error = Some(error);
    }

    /// What the layers hold that are not part of the source: branches and leftovers, or all of them when the
    /// chain is broken. A layer that cannot be read is left out.
    fn tally_the_rest(&mut self, replica: &ReplicaDir, run: &Run<'_>) -> Result<()> {
        let images = replica.inventory().disks.values().filter(|disk| disk.image.is_some_and(|i| i.regular));
        let rest = images.filter(|disk| self.survey.is_none() || !self.chain.contains(&disk.name));
        for disk in rest.take(MAX_TALLIED) {
            run.check()?;
            let Ok(image) = replica.open_image(&disk.name) else { continue };
            let size_bytes = image.size_bytes();
            let survey = match sweep::survey(&[Box::new(image)], size_bytes, Unwritten::Zero, run) {
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                other => other.ok(),
            };
            let tally = survey.and_then(|survey| survey.layers.first().map(|layer| layer.tally));
            self.off_chain.extend(tally.map(|tally| (disk.name.clone(), tally)));
        }
        Ok(())
    }

    /// The greatest severity of all findings.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }
}
