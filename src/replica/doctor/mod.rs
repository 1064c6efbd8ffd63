//! The chain doctor: what is wrong or doubtful about a replica, from its names, metadata, sizes and inodes.
//!
//! Pure judgement over an [`Inventory`]: no data is read here. Findings that need the data (unwritten extents,
//! signs of a damaged copy) come from [`engine::content`](crate::engine::content).
//!
//! Every state that a dying engine leaves behind is named as what it is, and nearly all of them are harmless. A
//! few cannot be told from a healthy replica (death before the first rename, or in the middle of folding one
//! snapshot into the next); of those nothing is said.

mod chain;
mod crash;
mod heads;
mod metadata;
mod removed;

use crate::model::chain::Chain;
use crate::model::finding::Finding;
use crate::replica::inventory::Inventory;

/// What a replica is examined as.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The file name of the head, if the state examined is that of a head.
    pub head: Option<&'a str>,
    /// The chain of the state examined.
    pub chain: &'a Chain,
}

/// Everything that can be said without reading data, the most serious first.
pub fn examine(inventory: &Inventory, subject: Subject<'_>) -> Vec<Finding> {
    let mut findings = metadata::examine(inventory, subject.chain);
    findings.extend(chain::examine(inventory, subject.chain));
    findings.extend(removed::examine(inventory, subject.chain));
    if let Some(head) = subject.head.and_then(|head| inventory.disks.get(head)) {
        findings.extend(heads::examine(inventory, head));
    }
    findings.extend(crash::examine(inventory));
    sort(&mut findings);
    findings
}

/// Sorts findings, the most serious first, otherwise in the order of the table.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.severity()), finding.code));
}

/// Names in a sentence: the first few, and how many more there are.
fn names_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len() {
        len if len > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), len - SHOWN),
        _ => names.join(", "),
    }
}

/// One finding about many files.
fn on_all(mut finding: Finding, files: Vec<String>) -> Finding {
    finding.files = files;
    finding
}
