//! How sure the choice is: what decided it, what contradicts it, and which clocks it rests on.

use std::collections::BTreeMap;

use crate::model::evidence::{Clock, VolumeState};
use crate::model::finding::{Code, Finding};
use crate::model::standing::history::Compared;
use crate::model::standing::words::{Decider, decider, later_by, made_after_others, stale_sums};
use crate::model::standing::{Confidence, Filled, SAME_TIME_SECONDS, Standing, Volume};

/// Replicas that were made within this many seconds of each other were made for the same volume.
const MADE_TOGETHER_SECONDS: u64 = 600;

/// What came of it.
pub(super) struct Judged {
    pub(super) confidence: Confidence,
    pub(super) doubts: Vec<String>,
    pub(super) findings: Vec<Finding>,
}

/// Judges the choice of the first in `order`.
pub(super) fn judge(
    volume: &Volume<'_>,
    standings: &[Standing],
    order: &[usize],
    clocks: &BTreeMap<String, Clock>,
) -> Judged {
    let mut judge = Judge {
        volume,
        standings,
        best: order[0],
        clocks,
        judged: Judged { confidence: Confidence::Certain, doubts: Vec::new(), findings: Vec::new() },
    };
    judge.mismatches();
    judge.clocks();
    if standings[judge.best].is_trustworthy() {
        if order.len() == 1 {
            judge.doubt(
                Confidence::Likely,
                "it is the only one found: there is nothing to compare it with".into(),
            );
        }
        if let Some(stale) = stale_sums(volume.replicas[judge.best]) {
            judge.doubt(Confidence::Likely, format!("of the best, {stale}"));
        }
        if volume.siblings.half_filled(judge.best).is_some() {
            let why =
                format!("not all snapshots of the best, {}, seem to be filled", volume.label(judge.best));
            judge.doubt(Confidence::PersonMustLook, why);
        }
        order[1..].iter().for_each(|&rival| judge.rival(rival));
    } else {
        judge.none_to_trust();
    }
    judge.judged
}

struct Judge<'a> {
    volume: &'a Volume<'a>,
    standings: &'a [Standing],
    best: usize,
    clocks: &'a BTreeMap<String, Clock>,
    judged: Judged,
}

impl Judge<'_> {
    fn doubt(&mut self, at_most: Confidence, why: String) {
        self.judged.confidence = self.judged.confidence.max(at_most);
        if !self.judged.doubts.contains(&why) {
            self.judged.doubts.push(why);
        }
    }

    fn find(&mut self, finding: Finding) {
        self.judged.findings.push(finding);
    }

    fn label(&self, replica: usize) -> String {
        self.volume.label(replica)
    }

    fn none_to_trust(&mut self) {
        let volume = &self.volume.replicas[self.best].volume;
        self.find(
            Finding::new(
                Code::NoTrustedReplica,
                format!("no replica of {volume} can be trusted"),
                "each is broken, incomplete, damaged, empty, or of unknown state",
            )
            .advise("look for more replicas (other disks, other nodes, backups) before you settle for one of these"),
        );
        self.doubt(Confidence::PersonMustLook, "no replica can be trusted".into());
    }

    /// Copies of one snapshot that differ, and volumes of two sizes.
    fn mismatches(&mut self) {
        for mismatch in self.volume.siblings.mismatches() {
            let (one, other) = mismatch.replicas;
            // One that was being filled is not the same yet.
            if [one, other].iter().any(|&i| self.volume.replicas[i].state == VolumeState::Rebuilding) {
                continue;
            }
            let trusted = [one, other].iter().all(|&i| self.standings[i].is_trustworthy());
            if trusted {
                let why = format!(
                    "snapshot {} is not the same in {} and {}",
                    mismatch.name,
                    self.label(one),
                    self.label(other)
                );
                self.doubt(Confidence::PersonMustLook, why);
            }
            let what = format!(
                "snapshot {} is not the same in {} and {}: {}",
                mismatch.name,
                self.label(one),
                self.label(other),
                mismatch.what
            );
            let mut finding = Finding::new(
                Code::SnapshotDiffers,
                what,
                "every replica has the same snapshots: one of the two is damaged, or was not filled to its end",
            )
            .advise("compare the two: lhrecover verify REPLICA_DIR --sibling OTHER_REPLICA_DIR");
            finding.files = vec![self.label(one), self.label(other)];
            self.find(finding);
        }
        let trusted = || (0..self.standings.len()).filter(|&i| self.standings[i].is_trustworthy());
        let best = &self.standings[self.best];
        let odd = trusted().find(|&i| {
            let sizes = self.volume.replicas[i].size_bytes.zip(self.volume.replicas[self.best].size_bytes);
            // One that is behind may have missed the expansion, which its history tells.
            self.standings[i].history_behind == best.history_behind && sizes.is_some_and(|(a, b)| a != b)
        });
        if let Some(odd) = odd.filter(|_| self.standings[self.best].is_trustworthy()) {
            let what =
                format!("{} and {} have volumes of different sizes", self.label(self.best), self.label(odd));
            self.doubt(Confidence::PersonMustLook, what.clone());
            self.find(Finding::new(
                Code::SiblingSizeDiffers,
                what,
                "one of them missed an expansion, or they are not the same volume",
            ));
        }
    }

    /// Times that cannot be right.
    fn clocks(&mut self) {
        for (i, replica) in self.volume.replicas.iter().enumerate() {
            let Some(impossible) = replica.impossible_time() else { continue };
            self.find(
                Finding::new(
                    Code::HeadTimeImpossible,
                    format!("of {}, {impossible}", self.label(i)),
                    "the node's clock was wrong, as after a power cut without a battery: its times prove nothing",
                )
                .on(self.label(i)),
            );
        }
    }

    fn rival(&mut self, rival: usize) {
        self.unknown_history(rival);
        self.more_writes(rival);
        self.seen_twice(rival);
        if !self.standings[rival].is_trustworthy() {
            self.untrusted(rival);
            return;
        }
        self.two_volumes(rival);
        self.holds_far_less(rival);
        let decided = decider(&self.standings[self.best], &self.standings[rival]);
        match decided {
            Decider::Complete => self.later_writes(rival),
            Decider::History => {
                self.by_lower_history(rival);
                self.later_writes(rival);
            }
            Decider::Revision => {
                for i in [self.best, rival].into_iter().filter(|&i| self.volume.replicas[i].times_copied) {
                    let why = format!(
                        "the counter of {} may have stood still: its times are those of a copy",
                        self.label(i)
                    );
                    self.doubt(Confidence::PersonMustLook, why);
                }
                self.later_writes(rival);
            }
            Decider::HeadSize => {
                self.by_clocks(rival, "it rests on when the heads were last written, and on their sizes")
            }
            Decider::Chain | Decider::State | Decider::Intact | Decider::Filled => {}
            // That they are equally fresh rests on the same times, unless both counted the same writes.
            _ if self.standings[rival].revision > 0 && decided != Decider::HeadTime => {}
            _ => self.by_clocks(rival, "it rests on when the heads were last written"),
        }
    }

    /// One whose counter saw more writes, though weightier evidence speaks against it. What was being filled has the
    /// counter of the one that it was filled from.
    fn more_writes(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let counters = best.live_counter().zip(other.live_counter());
        if let Some((ours, theirs)) =
            counters.filter(|(ours, theirs)| theirs > ours && self.standings[rival].built)
        {
            let label = self.label(rival);
            self.conflict(
                rival,
                format!("{label} saw more writes, by its revision counter: {theirs} for {ours}"),
            );
        }
    }

    /// One whose head was written later, though weightier evidence speaks against it.
    fn later_writes(&mut self, rival: usize) {
        if let Some(seconds) = self.written_later_by(rival) {
            let what = format!(
                "the head of {} was written {seconds} s after that of the best, {}",
                self.label(rival),
                self.label(self.best)
            );
            self.conflict(rival, what);
        }
    }

    /// By how many seconds the rival's head was written later, if by more than what is known of the clocks explains.
    /// Where nothing is known of them, they may be right.
    fn written_later_by(&self, rival: usize) -> Option<i64> {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let tell_nothing = [best, other].iter().any(|r| r.impossible_time().is_some() || r.times_copied);
        let apart = i64::try_from(self.apart(rival).unwrap_or(0)).unwrap_or(i64::MAX);
        let seconds = later_by(other, best).filter(|_| !tell_nothing)?;
        (seconds.saturating_sub(apart) > SAME_TIME_SECONDS).then_some(seconds)
    }

    /// What is missing below the newest end may have been purged in a way that leaves no trace.
    fn by_lower_history(&mut self, rival: usize) {
        if let Some(ours) = self.volume.histories.ahead_only_below(self.best, rival) {
            let why =
                format!("{} lacks snapshot {}, which may have been deleted", self.label(rival), ours.name);
            self.doubt(Confidence::PersonMustLook, why);
        }
    }

    /// A snapshot that the best knows nothing of, in whatever state its owner is.
    fn unknown_history(&mut self, rival: usize) {
        if self.is_newcomer(rival) {
            return;
        }
        let (label, best) = (self.label(rival), self.label(self.best));
        match self.volume.histories.compare(self.best, rival) {
            Compared::Behind(theirs) | Compared::Parted(_, theirs) => {
                self.conflict(
                    rival,
                    format!("{label} has snapshot {}, which the best, {best}, lacks", theirs.name),
                );
            }
            Compared::Ahead(_) if self.volume.histories.are_apart(self.best, rival) => {
                let why = format!(
                    "{best} and {label} each have a newest snapshot that the other lacks: the younger one decides"
                );
                self.doubt(Confidence::Likely, why);
            }
            _ => {}
        }
    }

    /// No two replicas have a directory of the same name.
    fn seen_twice(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        if best.directory() == other.directory() {
            let why = format!(
                "{}:{} and {}:{} have one name: the same directory seen twice, or a copy of it",
                best.node, best.path, other.node, other.path
            );
            self.doubt(Confidence::Likely, why);
        }
    }

    /// Whether what a replica has of its own has nothing to do with the volume.
    fn is_newcomer(&self, replica: usize) -> bool {
        match self.standings[replica].filled {
            Filled::MadeAnew => true,
            Filled::Empty => !self.standings[replica].built || made_after_others(self.volume, replica),
            Filled::Filled => false,
        }
    }

    /// One that is not trusted may still have seen writes that the best has not.
    fn untrusted(&mut self, rival: usize) {
        let standing = &self.standings[rival];
        let incomplete = !standing.readable && !standing.built;
        if standing.filled == Filled::MadeAnew {
            let why = format!("{} seems to be made anew, and holds data of its own", self.label(rival));
            self.doubt(Confidence::PersonMustLook, why);
        } else if let Some(seconds) =
            self.written_later_by(rival).filter(|_| !incomplete && !self.is_newcomer(rival))
        {
            let what = format!(
                "{} cannot be trusted, but its head was written {seconds} s after that of the best, {}",
                self.label(rival),
                self.label(self.best)
            );
            self.conflict(rival, what);
        }
    }

    /// Replicas of one volume are made together, or have the snapshot in common that a rebuild takes.
    fn two_volumes(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let apart = best.began.zip(other.began).map(|(a, b)| a.as_second().abs_diff(b.as_second()));
        let together = apart.is_some_and(|seconds| seconds <= MADE_TOGETHER_SECONDS);
        let strangers = !together && !self.volume.histories.share(self.best, rival);
        let both_empty = best.is_empty() && other.is_empty();
        if strangers && !both_empty {
            let why = format!(
                "{} and {} were not made together and have no snapshot in common: two volumes of one name",
                self.label(self.best),
                self.label(rival)
            );
            self.doubt(Confidence::PersonMustLook, why);
        }
    }

    /// A rebuild that was cut short, and whose mark was lost, lacks layers that it has not taken in either.
    fn holds_far_less(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let lacking = self.volume.histories.largest_lacking(self.best, rival);
        if let Some(layer) = lacking.filter(|layer| best.allocated_bytes < layer.allocated_bytes / 2) {
            let what = format!(
                "{} lacks snapshot {} of {} bytes, and holds {} bytes in all: a rebuild that was cut short leaves this",
                self.label(self.best),
                layer.name,
                layer.allocated_bytes,
                best.allocated_bytes
            );
            self.conflict(
                rival,
                format!("{what}; {} holds {} bytes", self.label(rival), other.allocated_bytes),
            );
        }
    }

    fn conflict(&mut self, rival: usize, what: String) {
        self.doubt(Confidence::PersonMustLook, what.clone());
        let mut finding = Finding::new(
            Code::SiblingHasMore,
            what,
            "it may hold writes that the best one lacks, or it was written to after the volume had moved on",
        )
        .advise("look into both before you take one: lhrecover inspect REPLICA_DIR");
        finding.files = vec![self.label(rival), self.label(self.best)];
        self.find(finding);
    }

    /// By how many seconds the clocks are apart that gave the best and the rival their times, as far as that is known.
    fn apart(&self, rival: usize) -> Option<u64> {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let off = |node: &str| match self.clocks.get(node) {
            Some(&Clock::Compared { off_seconds }) => Some(off_seconds),
            _ => None,
        };
        match best.node == other.node {
            true => best.shares_clock_with(other).then_some(0),
            false => Some(off(&best.node)?.abs_diff(off(&other.node)?)),
        }
    }

    fn by_clocks(&mut self, rival: usize, why: &str) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        self.doubt(Confidence::Likely, why.to_owned());
        for i in [self.best, rival] {
            let replica = self.volume.replicas[i];
            let label = self.label(i);
            if let Some(impossible) = replica.impossible_time() {
                self.doubt(Confidence::PersonMustLook, format!("of {label}, {impossible}"));
            } else if replica.times_copied {
                self.doubt(Confidence::PersonMustLook, format!("the times of {label} are those of a copy"));
            } else if replica.head_modified.is_none() {
                self.doubt(
                    Confidence::PersonMustLook,
                    format!("nothing tells when the head of {label} was last written"),
                );
            }
        }
        match self.apart(rival) {
            Some(seconds) if seconds <= Clock::TOLERANCE_SECONDS.unsigned_abs() => {}
            Some(seconds) => {
                let why = format!("the clocks of {} and {} are {seconds} s apart", best.node, other.node);
                self.doubt(Confidence::PersonMustLook, why);
            }
            None => {
                let why = match best.node == other.node {
                    true => format!(
                        "{} and {} are on two disks or machines: the clocks that gave them their times were not compared",
                        self.label(self.best),
                        self.label(rival)
                    ),
                    false => format!("the clocks of {} and {} were not compared", best.node, other.node),
                };
                self.doubt(Confidence::PersonMustLook, why);
            }
        }
    }
}
