//! Whose snapshot history goes further: a replica that dropped out lacks what was taken afterwards.
//!
//! Only the newest end of a history counts. What is missing further down was purged, and purging is what replicas
//! do that are still taking part; what is missing at the top was taken while the replica did not.

use std::collections::{HashMap, HashSet};

use crate::model::evidence::{Evidence, SnapshotEvidence};

/// How one replica's history stands to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared<'a> {
    /// Neither has a snapshot on its live chain that the other lacks, above what they share.
    Level,
    /// The other one has this one, the newest, above everything they share.
    Behind(&'a SnapshotEvidence),
    /// This one has it.
    Ahead(&'a SnapshotEvidence),
    /// Each has one that the other lacks: this one's newest, the other's newest.
    Parted(&'a SnapshotEvidence, &'a SnapshotEvidence),
}

/// The histories of a volume's replicas.
pub struct Histories<'a> {
    replicas: &'a [&'a Evidence],
    names: Vec<HashSet<&'a str>>,
}

impl<'a> Histories<'a> {
    /// Takes them from the evidence.
    pub fn new(replicas: &'a [&'a Evidence]) -> Self {
        let names = replicas.iter().map(|r| r.snapshots.iter().map(|s| s.name.as_str()).collect()).collect();
        Histories { replicas, names }
    }

    /// How the replica at `this` stands to the one at `other`.
    ///
    /// A snapshot that the other keeps off its live chain is one that it had before it was reverted, so it counts
    /// as known to it.
    pub fn compare(&self, this: usize, other: usize) -> Compared<'a> {
        match (self.lacking(other, this), self.lacking(this, other)) {
            (None, None) => Compared::Level,
            (None, Some(theirs)) => Compared::Behind(theirs),
            (Some(ours), None) => Compared::Ahead(ours),
            (Some(ours), Some(theirs)) => Compared::Parted(ours, theirs),
        }
    }

    /// Whether two replicas have a snapshot in common.
    pub fn share(&self, this: usize, other: usize) -> bool {
        !self.names[this].is_disjoint(&self.names[other])
    }

    /// The newest snapshot on the live chain of `has` if `lacks` knows nothing of it.
    fn lacking(&self, lacks: usize, has: usize) -> Option<&'a SnapshotEvidence> {
        self.replicas[has].live_chain().next().filter(|top| !self.names[lacks].contains(top.name.as_str()))
    }

    /// For each replica, how many steps behind the furthest history it is: 0 for one that nobody is ahead of, 1
    /// for one that only those are ahead of, and so on.
    ///
    /// Damaged directories may contradict each other in a circle; those in it are then level.
    pub fn steps_behind(&self) -> Vec<u32> {
        // Equal histories stand alike, so each is compared once.
        let mut groups: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
        for (i, replica) in self.replicas.iter().enumerate() {
            let live: Vec<_> = replica.live_chain().take(1).map(|s| s.name.as_str()).collect();
            let mut key: Vec<_> = self.names[i].iter().copied().collect();
            key.sort_unstable();
            groups.entry(live.into_iter().chain(key).collect()).or_default().push(i);
        }
        let mut left: Vec<_> = groups.into_values().collect();
        left.sort_unstable();
        let mut steps = vec![0; self.replicas.len()];
        let mut step = 0;
        while !left.is_empty() {
            let beaten =
                |i: usize| left.iter().any(|other| matches!(self.compare(i, other[0]), Compared::Behind(_)));
            let (behind, mut front): (Vec<_>, Vec<_>) =
                left.iter().cloned().partition(|group| beaten(group[0]));
            left = behind;
            if front.is_empty() {
                front = std::mem::take(&mut left);
            }
            front.into_iter().flatten().for_each(|i| steps[i] = step);
            step += 1;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(chain: &[&str], branches: &[&str]) -> Evidence {
        let snapshot = |name: &&str, live| SnapshotEvidence {
            name: (*name).to_owned(),
            live,
            ..SnapshotEvidence::default()
        };
        let live = chain.iter().map(|name| snapshot(name, true));
        let snapshots = live.chain(branches.iter().map(|name| snapshot(name, false))).collect();
        Evidence { snapshots, ..Evidence::default() }
    }

    fn steps(replicas: &[Evidence]) -> Vec<u32> {
        let replicas: Vec<_> = replicas.iter().collect();
        Histories::new(&replicas).steps_behind()
    }

    #[test]
    fn the_newest_end_decides_not_the_majority() {
        let whole = || replica(&["c", "b", "a"], &[]);
        let early = || replica(&["b", "a"], &[]);
        assert_eq!(steps(&[early(), whole(), early(), replica(&["a"], &[])]), [1, 0, 1, 2]);
    }

    #[test]
    fn what_was_purged_is_not_missed() {
        assert_eq!(steps(&[replica(&["c"], &[]), replica(&["c", "b", "a"], &[])]), [0, 0]);
        assert_eq!(steps(&[replica(&["c", "b"], &[]), replica(&["b", "a"], &[])]), [0, 1]);
    }

    #[test]
    fn a_revert_leaves_branches_and_is_ahead() {
        assert_eq!(steps(&[replica(&["c", "b", "a"], &[]), replica(&["d", "a"], &["b", "c"])]), [1, 0]);
    }

    #[test]
    fn histories_that_parted_and_circles_are_level() {
        assert_eq!(steps(&[replica(&["x", "a"], &[]), replica(&["y", "a"], &[])]), [0, 0]);
        let circle = [replica(&["a", "c"], &[]), replica(&["b", "a"], &[]), replica(&["c", "b"], &[])];
        assert_eq!(steps(&circle), [0, 0, 0]);
    }
}
