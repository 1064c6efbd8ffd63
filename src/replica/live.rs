//! Whether something uses the replica right now.
//!
//! An engine holds its head, and most other files, open for writing as long as it runs. Somebody who only reads
//! is not in the way.

use std::collections::HashMap;

use crate::model::finding::{Code, Finding};
use crate::replica::inventory::Inventory;
use crate::sys::process::{self, Holder};

/// Who uses a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Those that have a file of the directory open for writing.
    pub writers: Vec<Holder>,
    /// Whether every process of the machine could be looked at.
    pub complete: bool,
}

impl Live {
    /// Looks at the processes of this machine.
    pub fn look(inventory: &Inventory) -> Self {
        let files: HashMap<_, _> =
            inventory.files.iter().map(|(name, stat)| (stat.id, name.clone())).collect();
        let holders = process::holders_of(&files);
        let writers = holders.found.into_iter().filter(|holder| holder.writes).collect();
        Live { writers, complete: holders.complete }
    }

    /// Whether somebody was seen.
    pub fn is_live(&self) -> bool {
        !self.writers.is_empty()
    }

    /// Who, in words: `process 4711 (longhorn)`.
    pub fn who(&self) -> String {
        let name = |holder: &Holder| match holder.pid {
            Some(pid) => format!("process {pid} ({})", holder.command),
            None => format!("device {}", holder.command),
        };
        let mut names: Vec<_> = self.writers.iter().map(name).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > 3 {
            let more = names.len() - 3;
            names.truncate(3);
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }

    /// What there is to say about it.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.is_live() {
            let mut files: Vec<_> = self.writers.iter().map(|holder| holder.file.clone()).collect();
            files.sort_unstable();
            files.dedup();
            let mut live = Finding::new(
                Code::LiveHead,
                format!("the replica is in use: {} has files of it open for writing", self.who()),
                "the head can change while it is read: the result would be a mix of different moments",
            )
            .advise("detach the volume first, or read a snapshot (--at), which does not change");
            live.files = files;
            findings.push(live);
        }
        if !self.complete {
            findings.push(Finding::new(
                Code::LiveUnknown,
                "not every process of this machine could be looked at (not root, or inside a container)",
                "whether the replica is in use by another process is not known",
            ));
        }
        findings
    }
}
