//! What the commands that look at files have in common: a volume that is open, and how it ends.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::Outcome;
use crate::cli::args::LookArgs;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::event::{Cancel, Run};
use crate::model::finding::Finding;
use crate::report::browse::{BrowseReport, OpenedReport};
use crate::report::finding::FindingReport;
use crate::workflow::browse::{Browser, Troubles};

/// An open volume, and what has come up so far.
pub struct Opened<'a> {
    /// The volume.
    pub browser: Browser,
    /// What cannot be read.
    pub troubles: Troubles,
    /// Raised when the work is to stop.
    pub cancel: Cancel,
    source: PathBuf,
    ui: &'a Ui,
}

impl<'a> Opened<'a> {
    /// Opens the volume at `source`.
    ///
    /// # Errors
    /// As [`Browser::open`].
    pub fn new(source: &Path, look: &LookArgs, ui: &'a Ui) -> Result<Self> {
        let cancel = cancel_on_signals()?;
        let browser = Browser::open(source, &look.options(), look.partition)?;
        if let Some(note) = &browser.note {
            ui.note(&format!("{note}\n"));
        }
        Ok(Opened { browser, troubles: Troubles::default(), cancel, source: source.to_path_buf(), ui })
    }

    /// How the work is watched and stopped.
    pub fn run(&self) -> Run<'_> {
        Run { observer: self.ui, cancel: &self.cancel }
    }

    /// Everything found so far, the most serious first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.browser.findings.clone();
        findings.extend(self.troubles.findings());
        findings.sort_by_key(|f| (std::cmp::Reverse(f.severity()), f.code));
        findings
    }

    /// Which file system is looked into.
    pub fn report(&self) -> OpenedReport {
        OpenedReport::new(&self.source, &self.browser)
    }

    /// Prints `list`, which is made meanwhile, as JSON.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn print_json(&self, list: impl Serialize) -> Result<()> {
        let findings = || self.findings().iter().map(FindingReport::from).collect();
        self.ui.result(&BrowseReport::new(self.report(), list, &findings), "")
    }

    /// Looks whether the source is still what it was, and shows what was found.
    ///
    /// # Errors
    /// When it is not.
    pub fn finish(self) -> Result<Outcome> {
        self.browser.recheck()?;
        Ok(self.shown(&self.findings()))
    }

    /// Shows findings, unless they are in the JSON, and says what they come to.
    pub fn shown(&self, findings: &[Finding]) -> Outcome {
        if !self.ui.json {
            let reports: Vec<_> = findings.iter().map(FindingReport::from).collect();
            self.ui.findings(&reports);
        }
        Outcome::of(findings.iter().map(Finding::severity).max())
    }
}

/// Paths in the image as bytes; the root where none is named.
pub fn paths_in_image(paths: &[OsString]) -> Vec<Vec<u8>> {
    if paths.is_empty() {
        return vec![b"/".to_vec()];
    }
    paths.iter().map(|path| path.as_bytes().to_vec()).collect()
}
