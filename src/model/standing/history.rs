//! Whose snapshot history goes further: a replica that dropped out lacks what was taken afterwards.
//!
//! The newest end of a history counts first. What is missing further down may have been purged, and purging is what
//! replicas do that are still taking part. A snapshot that a user took is purged only when the user deletes it, and a
//! replica that had dropped out never hears of that. So where one is missing, what is left tells: a purge links its child
//! to its parent and folds what it held into the child (longhorn-engine `pkg/replica/replica.go`, `ReplaceDisk`), and a
//! chain that merely ends early does neither.
//!
//! Where each has a newest one that the other lacks, one of the two was purged: the younger one decides, by the engine's
//! clock, which gives all replicas the same time (longhorn-engine `pkg/controller/control.go`, `Snapshot`).

use std::collections::{HashMap, HashSet};

use crate::model::evidence::{Evidence, SnapshotEvidence};
use crate::model::standing::sums::LESS_PART;

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

/// A snapshot that took in another one takes at least this part of what that one took: block sizes differ between file
/// systems, and the newer data may hide some of the older.
const FOLDED_PART: u64 = 2;

/// More different histories than this are nobody's: they are then level, so that no report keeps us busy for hours.
const MAX_HISTORIES: usize = 256;

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
            (None, None) => match (self.lacking_below(other, this), self.lacking_below(this, other)) {
                (None, Some(theirs)) => Compared::Behind(theirs),
                (Some(ours), None) => Compared::Ahead(ours),
                _ => Compared::Level,
            },
            (None, Some(theirs)) => Compared::Behind(theirs),
            (Some(ours), None) => Compared::Ahead(ours),
            (Some(ours), Some(theirs)) => match (ours.created, theirs.created) {
                (Some(a), Some(b)) if a < b => Compared::Behind(theirs),
                (Some(a), Some(b)) if a > b => Compared::Ahead(ours),
                _ => Compared::Parted(ours, theirs),
            },
        }
    }

    /// Whether each has a newest snapshot that the other lacks: then one of them was purged, or they parted.
    pub fn are_apart(&self, this: usize, other: usize) -> bool {
        self.lacking(other, this).is_some() && self.lacking(this, other).is_some()
    }

    /// What `has` takes for the largest of the layers below its newest that `lacks` knows nothing of, in bytes.
    pub fn largest_lacking(&self, lacks: usize, has: usize) -> Option<&'a SnapshotEvidence> {
        self.unknown(lacks, has).max_by_key(|s| s.allocated_bytes)
    }

    /// What puts `this` ahead of `other`, if it is further down than the newest end: a sign, and no proof.
    pub fn ahead_only_below(&self, this: usize, other: usize) -> Option<&'a SnapshotEvidence> {
        let same_top = self.lacking(other, this).is_none() && self.lacking(this, other).is_none();
        self.lacking_below(other, this).filter(|_| same_top && self.lacking_below(this, other).is_none())
    }

    /// Whether two replicas have a snapshot in common.
    pub fn share(&self, this: usize, other: usize) -> bool {
        !self.names[this].is_disjoint(&self.names[other])
    }

    /// The newest snapshot on the live chain of `has` if `lacks` knows nothing of it.
    fn lacking(&self, lacks: usize, has: usize) -> Option<&'a SnapshotEvidence> {
        self.replicas[has].live_chain().next().filter(|top| !self.names[lacks].contains(top.name.as_str()))
    }

    /// The newest snapshot further down that no purge explains.
    fn lacking_below(&self, lacks: usize, has: usize) -> Option<&'a SnapshotEvidence> {
        let missed = |s: &&SnapshotEvidence| s.user_created && !s.removed && !self.was_purged(s, lacks, has);
        self.unknown(lacks, has).find(missed)
    }

    /// Whether the replica that lacks a snapshot looks as one does that purged it.
    fn was_purged(&self, missing: &SnapshotEvidence, lacks: usize, has: usize) -> bool {
        let known = |s: &&SnapshotEvidence| self.names[lacks].contains(s.name.as_str());
        let goes_on =
            self.replicas[has].live_chain().skip_while(|s| s.name != missing.name).any(|s| known(&s));
        let above =
            self.replicas[has].live_chain().take_while(|s| s.name != missing.name).filter(known).last();
        let child = above.and_then(|before| Some((before, self.replicas[lacks].snapshot(&before.name)?)));
        // A rebuild that was cut short may have this layer whole and nothing below it, but then it has not grown.
        let took_in = |before: &SnapshotEvidence, after: &SnapshotEvidence| {
            let noise_bytes = before.allocated_bytes / LESS_PART;
            after.allocated_bytes > before.allocated_bytes.saturating_add(noise_bytes)
                && after.allocated_bytes >= missing.allocated_bytes / FOLDED_PART
        };
        goes_on || child.is_some_and(|(before, after)| took_in(before, after))
    }

    fn unknown(&self, lacks: usize, has: usize) -> impl Iterator<Item = &'a SnapshotEvidence> {
        let names = &self.names[lacks];
        self.replicas[has].live_chain().filter(|s| !names.contains(s.name.as_str()))
    }

    /// For each of some replicas, how many steps behind the furthest history it is: 0 for one that nobody is ahead of, 1
    /// for one that only those are ahead of, and so on.
    ///
    /// Damaged directories may contradict each other in a circle; those in it are then level.
    pub fn steps_behind(&self, members: &[usize]) -> HashMap<usize, u32> {
        // Equal histories stand alike, so each is compared once.
        let mut groups: HashMap<Vec<&str>, Vec<usize>> = HashMap::new();
        for &i in members {
            let live: Vec<_> = self.replicas[i].live_chain().take(1).map(|s| s.name.as_str()).collect();
            let mut key: Vec<_> = self.names[i].iter().copied().collect();
            key.sort_unstable();
            groups.entry(live.into_iter().chain(key).collect()).or_default().push(i);
        }
        let mut left: Vec<_> = groups.into_values().collect();
        left.sort_unstable();
        let mut steps = HashMap::new();
        if left.len() > MAX_HISTORIES {
            left = vec![members.to_vec()];
        }
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
            steps.extend(front.into_iter().flatten().map(|i| (i, step)));
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
        let steps = Histories::new(&replicas).steps_behind(&(0..replicas.len()).collect::<Vec<_>>());
        (0..replicas.len()).map(|i| steps[&i]).collect()
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

    #[test]
    fn the_younger_of_two_that_the_other_lacks_decides() {
        let at = |second| Some(jiff::Timestamp::from_second(second).unwrap());
        let (mut one, mut other) = (replica(&["d", "c"], &[]), replica(&["b", "a"], &[]));
        (one.snapshots[0].created, other.snapshots[0].created) = (at(4), at(2));
        assert_eq!(steps(&[one, other]), [0, 1]);
    }

    #[test]
    fn a_users_snapshot_is_missed_unless_a_purge_explains_it() {
        let whole = |removed| {
            let mut whole = replica(&["c", "b", "a"], &[]);
            for snapshot in &mut whole.snapshots[1..] {
                (snapshot.user_created, snapshot.removed, snapshot.allocated_bytes) = (true, removed, 100);
            }
            whole.snapshots[0].allocated_bytes = 55;
            whole
        };
        let cut = |names: &[&str], bytes_of_top| {
            let mut cut = replica(names, &[]);
            cut.snapshots[0].allocated_bytes = bytes_of_top;
            cut
        };
        let table = [
            ("the chain ends early", cut(&["c"], 10), false, [1, 0]),
            ("folded into the one above", cut(&["c"], 60), false, [0, 0]),
            ("what is left is as it was", cut(&["c"], 55), false, [1, 0]),
            ("it takes a little more on another file system", cut(&["c"], 58), false, [1, 0]),
            ("linked around: only a purge does that", cut(&["c", "a"], 10), false, [0, 0]),
            ("on its way out", cut(&["c"], 10), true, [0, 0]),
        ];
        for (case, cut, removed, expected) in table {
            let replicas = [cut, whole(removed)];
            assert_eq!(steps(&replicas), expected, "{case}");
            let replicas: Vec<_> = replicas.iter().collect();
            let below = Histories::new(&replicas).ahead_only_below(1, 0);
            assert_eq!(below.is_some(), expected == [1, 0], "{case}");
        }
    }
}
