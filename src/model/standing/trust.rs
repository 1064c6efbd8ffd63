//! How sure the choice is: what decided it, what contradicts it, and which clocks it rests on.

use std::collections::BTreeMap;

use crate::model::evidence::{ChainState, Clock};
use crate::model::finding::{Code, Finding};
use crate::model::standing::history::Compared;
use crate::model::standing::words::{Decider, decider, later_by, stale_sums};
use crate::model::standing::{Confidence, Filled, SAME_TIME_SECONDS, Standing, Volume};

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
        let size = |i: usize| self.volume.replicas[i].size_bytes;
        let odd = trusted().find(|&i| size(i) != size(self.best));
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

    /// Heads written before they were made.
    fn clocks(&mut self) {
        for (i, _) in self.volume.replicas.iter().enumerate().filter(|(_, r)| r.written_before_it_began()) {
            self.judged.findings.push(
                Finding::new(
                    Code::HeadBeforeCreated,
                    format!("the head of {} was last written before it was made", self.volume.label(i)),
                    "the node's clock was wrong, as after a power cut without a battery: its times prove nothing",
                )
                .on(self.volume.label(i)),
            );
        }
    }

    fn rival(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let (label, winner) = (self.label(rival), self.label(self.best));
        self.unknown_history(rival);
        if !self.standings[rival].is_trustworthy() {
            if self.standings[rival].filled == Filled::Filled
                && self.standings[rival].chain != ChainState::Broken
            {
                self.untrusted(rival);
            } else if self.standings[rival].filled == Filled::MadeAnew {
                self.doubt(Confidence::Likely, format!("{label} was made anew, and holds data of its own"));
            }
            return;
        }
        let began_after = other.began.zip(best.head_modified).is_some_and(|(began, last)| began > last)
            || best.began.zip(other.head_modified).is_some_and(|(began, last)| began > last);
        if began_after && !self.volume.histories.share(self.best, rival) {
            self.doubt(
                Confidence::PersonMustLook,
                format!("one of {winner} and {label} was made after the other was last written: two volumes of one name"),
            );
        }
        match decider(&self.standings[self.best], &self.standings[rival]) {
            Decider::HeadTime => self.by_clocks(rival, "it rests on when the heads were last written"),
            Decider::HeadSize => {
                self.by_clocks(rival, "it rests on when the heads were last written, and on their sizes")
            }
            Decider::History | Decider::Revision => {
                let seconds = later_by(other, best).unwrap_or_default();
                if seconds > SAME_TIME_SECONDS && self.clocks_agree(rival) {
                    self.conflict(
                        rival,
                        format!(
                            "the head of {label} was written {seconds} s after that of the best, {winner}"
                        ),
                    );
                }
            }
            _ => {}
        }
    }

    /// A snapshot that the best knows nothing of, in whatever state its owner is.
    fn unknown_history(&mut self, rival: usize) {
        if self.standings[rival].filled != Filled::Filled {
            return;
        }
        if let Compared::Behind(theirs) | Compared::Parted(_, theirs) =
            self.volume.histories.compare(self.best, rival)
        {
            let what = format!(
                "{} has snapshot {}, which the best, {}, lacks",
                self.label(rival),
                theirs.name,
                self.label(self.best)
            );
            self.conflict(rival, what);
        }
    }

    /// One that is not trusted may still have seen writes that the best has not.
    fn untrusted(&mut self, rival: usize) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let seconds = later_by(other, best).unwrap_or_default();
        if seconds > SAME_TIME_SECONDS && !other.times_copied {
            let what = format!(
                "the head of {} was written {seconds} s after that of the best, {}",
                self.label(rival),
                self.label(self.best)
            );
            self.conflict(rival, what);
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

    /// Whether times of the best and of the rival can be compared.
    fn clocks_agree(&self, rival: usize) -> bool {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        let right = |node: &str| self.clocks.get(node).copied().unwrap_or_default().is_right();
        let odd = [best, other].iter().any(|r| r.written_before_it_began() || r.times_copied);
        !odd && (best.node == other.node || (right(&best.node) && right(&other.node)))
    }

    fn by_clocks(&mut self, rival: usize, why: &str) {
        let (best, other) = (self.volume.replicas[self.best], self.volume.replicas[rival]);
        self.doubt(Confidence::Likely, why.to_owned());
        for i in [self.best, rival] {
            let replica = self.volume.replicas[i];
            let clock = self.clocks.get(&replica.node).copied().unwrap_or_default();
            if replica.written_before_it_began() {
                let why = format!("the head of {} was last written before it was made", self.label(i));
                self.doubt(Confidence::PersonMustLook, why);
            } else if replica.times_copied {
                let why = format!("the times of {} are those of a copy", self.label(i));
                self.doubt(Confidence::PersonMustLook, why);
            } else if best.node != other.node && clock.is_wrong() {
                self.doubt(Confidence::PersonMustLook, format!("the clock of {} is off", replica.node));
            } else if best.node != other.node && !clock.is_right() {
                self.doubt(
                    Confidence::Likely,
                    format!("the clock of {} was not compared with ours", replica.node),
                );
            }
        }
    }
}
