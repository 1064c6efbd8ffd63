//! The ranking: which replica of a volume to trust, and why.
//!
//! A [`Standing`] is a replica's rank: its fields are in order of weight and positive, so that the derived order
//! *is* the ranking. What needs the siblings (who lacks whose snapshots, whose head is newest) is worked out per
//! volume first, among those that stand alike in everything weightier, and only compared there; so it is a total order,
//! in whatever order they come.
//!
//! ```text
//!   Evidence of all replicas ──> history, sums ──> Standing each ──> order ──> verdicts, reasons, confidence
//! ```

pub mod history;
pub mod sums;
mod trust;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use crate::model::evidence::{ChainState, Clock, Evidence, VolumeState};
use crate::model::finding::Finding;
use crate::model::standing::history::Histories;
use crate::model::standing::sums::Siblings;

/// Two heads last written within this many seconds count as written at the same time (longhorn-engine
/// `pkg/controller/control.go`, salvage without revision counters).
pub const SAME_TIME_SECONDS: i64 = 5;

/// A replica made after the others were last written is not taken for the volume while it holds less than this
/// part of what they hold.
const MADE_ANEW_PART: u64 = 8;

/// What a replica holds, beside its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filled {
    /// Nothing, while a sibling holds something.
    Empty,
    /// Little, and nothing older than the siblings' last write, with no snapshot in common, and no counter that says
    /// otherwise: a new volume under the old name.
    MadeAnew,
    /// Something, or no sibling does either.
    Filled,
}

/// A replica's rank among its siblings: the greater, the better.
///
/// The first three are what no replica may have against it and stand above one that has not, whatever else there is to say of
/// both.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Standing {
    /// The chain is not broken.
    pub readable: bool,
    /// It was not being rebuilt.
    pub built: bool,
    /// Nothing is proven corrupt.
    pub intact: bool,
    /// Not given up, and `volume.meta` is there to say so.
    pub state: VolumeState,
    /// Whether the chain can be read to its end, the backing image included.
    pub chain: ChainState,
    /// It is not an empty one made by a reinstall.
    pub filled: Filled,
    /// It has no snapshot that takes far less on the disk than in every sibling, as a rebuild that was cut short
    /// leaves it when its mark is lost.
    pub complete: bool,
    /// How many steps its snapshot history is behind the furthest one.
    pub history_behind: Reverse<u32>,
    /// The revision counter, where all that stand alike so far have one that still counts; else 0.
    pub revision: u64,
    /// The head was last written within [`SAME_TIME_SECONDS`] of the newest.
    pub head_recent: bool,
    /// What the head takes on the disk, where it is recent; else 0. In bytes.
    pub head_allocated_bytes: u64,
    /// When the head was last written.
    pub head_modified: Option<Timestamp>,
    /// All recorded checksums pass, where all that stand alike so far were checked; else `false`.
    pub sums_pass: bool,
    /// It was closed.
    pub clean: bool,
    /// What all its layers take on the disk, in bytes.
    pub allocated_bytes: u64,
    /// So that no two are alike: the node, and the path on it; the first in the alphabet wins.
    #[serde(skip)]
    pub place: Reverse<(String, String)>,
}

impl Standing {
    /// Whether it can be trusted to hold the volume, if perhaps not its newest state.
    pub fn is_trustworthy(&self) -> bool {
        self.chain == ChainState::Whole
            && self.state == VolumeState::Sound
            && self.intact
            && self.filled == Filled::Filled
    }

    /// Whether it is as fresh as any that is trustworthy can be told to be.
    fn is_as_fresh_as(&self, best: &Standing) -> bool {
        self.complete == best.complete
            && self.history_behind == best.history_behind
            && self.revision == best.revision
            && self.head_recent
    }
}

/// What to think of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The one to take.
    Best,
    /// As good, as far as can be told.
    Good,
    /// Readable, but old, incomplete, damaged, or of unknown state.
    Doubtful,
    /// It cannot be read, was not filled yet, or holds nothing.
    Unusable,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Verdict::Best => "best",
            Verdict::Good => "good",
            Verdict::Doubtful => "doubtful",
            Verdict::Unusable => "unusable",
        })
    }
}

/// How sure the choice of the best is; the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Confidence {
    /// The evidence is of a kind that cannot mislead, and none contradicts it.
    #[serde(rename = "certain")]
    Certain,
    /// It rests on times and sizes, or on nothing to compare with.
    #[serde(rename = "likely")]
    Likely,
    /// Evidence conflicts, rests on clocks that are wrong, or nothing can be trusted.
    #[serde(rename = "a person must look")]
    PersonMustLook,
}

impl std::fmt::Display for Confidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Confidence::Certain => "certain",
            Confidence::Likely => "likely",
            Confidence::PersonMustLook => "a person must look",
        })
    }
}

/// A replica in its place.
#[derive(Clone, Debug)]
pub struct Ranked<'a> {
    /// What is known of it.
    pub evidence: &'a Evidence,
    /// Its rank.
    pub standing: Standing,
    /// What to think of it.
    pub verdict: Verdict,
    /// Why, the weightiest first, as sentences without a full stop.
    pub reasons: Vec<String>,
}

/// The replicas of one volume, best first.
#[derive(Clone, Debug)]
pub struct Ranking<'a> {
    /// The volume's name.
    pub volume: String,
    /// The replicas. The first one is the best if its verdict says so; there may be none that is.
    pub replicas: Vec<Ranked<'a>>,
    /// How sure that is.
    pub confidence: Confidence,
    /// Why it is not certain, as sentences without a full stop.
    pub doubts: Vec<String>,
    /// Where siblings contradict each other, and what is wrong with the volume as a whole.
    pub findings: Vec<Finding>,
}

impl<'a> Ranking<'a> {
    /// Makes it no surer than `at_most`, for the reason given.
    pub fn doubt(&mut self, at_most: Confidence, why: &str) {
        self.confidence = self.confidence.max(at_most);
        self.doubts.push(why.to_owned());
    }

    /// The one to take, if there is one.
    pub fn best(&self) -> Option<&Ranked<'a>> {
        self.replicas.first().filter(|first| first.verdict == Verdict::Best)
    }
}

/// Ranks the replicas of every volume; volumes come in the order of their names. `clocks` tells how each node's
/// clock stands to ours.
pub fn rank<'a>(
    evidence: impl IntoIterator<Item = &'a Evidence>,
    clocks: &BTreeMap<String, Clock>,
) -> Vec<Ranking<'a>> {
    let mut volumes: BTreeMap<&str, Vec<&Evidence>> = BTreeMap::new();
    for replica in evidence {
        volumes.entry(&replica.volume).or_default().push(replica);
    }
    volumes.into_values().map(|replicas| rank_volume(replicas, clocks)).collect()
}

fn rank_volume<'a>(mut replicas: Vec<&'a Evidence>, clocks: &BTreeMap<String, Clock>) -> Ranking<'a> {
    // Whatever order they came in, siblings are looked at in one.
    replicas.sort_by(|a, b| (&a.node, &a.path).cmp(&(&b.node, &b.path)));
    let volume = Volume::new(&replicas);
    let standings = volume.standings();
    let mut order: Vec<_> = (0..replicas.len()).collect();
    order.sort_by(|&a, &b| standings[b].cmp(&standings[a]));
    let judged = trust::judge(&volume, &standings, &order, clocks);
    let ranked = order.iter().map(|&i| Ranked {
        evidence: replicas[i],
        standing: standings[i].clone(),
        verdict: verdict(&volume, &standings, order[0], i),
        reasons: words::reasons(&volume, &standings, &order, i),
    });
    Ranking {
        volume: replicas.first().map_or_else(String::new, |r| r.volume.clone()),
        replicas: ranked.collect(),
        confidence: judged.confidence,
        doubts: judged.doubts,
        findings: judged.findings,
    }
}

fn verdict(volume: &Volume<'_>, standings: &[Standing], first: usize, this: usize) -> Verdict {
    let standing = &standings[this];
    let holds_nothing = standing.state == VolumeState::Rebuilding || standing.filled == Filled::Empty;
    if standing.chain == ChainState::Broken || holds_nothing {
        Verdict::Unusable
    } else if !standing.is_trustworthy() {
        Verdict::Doubtful
    } else if this == first {
        Verdict::Best
    } else if standing.is_as_fresh_as(&standings[first]) && !volume.histories.are_apart(this, first) {
        Verdict::Good
    } else {
        Verdict::Doubtful
    }
}

/// The replicas of one volume, and what is worked out about all of them together.
struct Volume<'a> {
    replicas: &'a [&'a Evidence],
    histories: Histories<'a>,
    siblings: Siblings<'a>,
    /// How many there are on each node.
    on_node: HashMap<&'a str, usize>,
}

impl<'a> Volume<'a> {
    fn new(replicas: &'a [&'a Evidence]) -> Self {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for replica in replicas {
            *on_node.entry(&replica.node).or_default() += 1;
        }
        Volume { replicas, histories: Histories::new(replicas), siblings: Siblings::new(replicas), on_node }
    }

    /// What a replica is called in a sentence: its node, if no sibling is there too.
    fn label(&self, replica: usize) -> String {
        let this = self.replicas[replica];
        if self.on_node.get(this.node.as_str()) == Some(&1) {
            this.node.clone()
        } else {
            format!("{}:{}", this.node, this.path)
        }
    }

    /// Why a replica is proven to be corrupt, if it is.
    fn corruption(&self, replica: usize) -> Option<String> {
        self.replicas[replica].live_chain().find_map(|snapshot| {
            sums::proof(snapshot).or_else(|| {
                let sibling = self.label(self.siblings.disproved_by(snapshot)?);
                Some(format!("the checksum of snapshot {} fails here and passes in {sibling}", snapshot.name))
            })
        })
    }

    fn filled(&self, replica: usize) -> Filled {
        let this = self.replicas[replica];
        let others = || self.replicas.iter().enumerate().filter(|&(i, r)| i != replica && !r.is_empty());
        let Some(most_bytes) = others().map(|(_, r)| r.allocated_bytes).max() else { return Filled::Filled };
        if this.is_empty() {
            return Filled::Empty;
        }
        let later = |other: &Evidence| match (this.began, other.head_modified) {
            (Some(began), Some(modified)) => began > modified,
            _ => false,
        };
        let small = |other: &Evidence| this.allocated_bytes < other.allocated_bytes / MADE_ANEW_PART;
        let mut older = others()
            .filter(|&(i, other)| small(other) && later(other) && !self.histories.share(replica, i))
            .peekable();
        // One that has seen more writes than an older one goes on where that one stopped: it was trimmed, or emptied.
        let went_on =
            |other: &Evidence| this.live_counter().zip(other.live_counter()).is_some_and(|(a, b)| a > b);
        let is_small = this.allocated_bytes < most_bytes / MADE_ANEW_PART;
        if is_small && older.peek().is_some() && !older.any(|(_, other)| went_on(other)) {
            Filled::MadeAnew
        } else {
            Filled::Filled
        }
    }

    /// Every replica's standing, in the order of the replicas.
    ///
    /// Each step looks at those that stand alike so far, so what it writes down is only ever compared among them.
    fn standings(&self) -> Vec<Standing> {
        let mut standings: Vec<_> = self
            .replicas
            .iter()
            .enumerate()
            .map(|(i, replica)| Standing {
                readable: replica.chain != ChainState::Broken,
                built: replica.state != VolumeState::Rebuilding,
                intact: self.corruption(i).is_none(),
                state: replica.state,
                chain: replica.chain,
                filled: self.filled(i),
                complete: self.siblings.half_filled(i).is_none(),
                history_behind: Reverse(0),
                revision: 0,
                head_recent: false,
                head_allocated_bytes: 0,
                head_modified: None,
                sums_pass: false,
                clean: false,
                allocated_bytes: 0,
                place: Reverse((replica.node.clone(), replica.path.clone())),
            })
            .collect();
        self.among_equals(&mut standings, |members, standings| {
            for (i, steps) in self.histories.steps_behind(members) {
                standings[i].history_behind = Reverse(steps);
            }
        });
        self.among_equals(&mut standings, |members, standings| {
            let counters: Option<Vec<_>> = members.iter().map(|&i| self.replicas[i].live_counter()).collect();
            for (&i, counter) in members.iter().zip(counters.unwrap_or_default()) {
                standings[i].revision = counter;
            }
        });
        self.among_equals(&mut standings, |members, standings| {
            let newest = members.iter().filter_map(|&i| self.replicas[i].head_modified).max();
            for &i in members {
                self.add_head(&mut standings[i], self.replicas[i], newest);
            }
        });
        self.among_equals(&mut standings, |members, standings| {
            let all_deep = members.iter().all(|&i| self.replicas[i].deep);
            for &i in members {
                let this = self.replicas[i];
                standings[i].sums_pass = all_deep && all_pass(this);
                standings[i].clean = !this.dirty;
                standings[i].allocated_bytes = this.allocated_bytes;
            }
        });
        standings
    }

    fn add_head(&self, standing: &mut Standing, this: &Evidence, newest: Option<Timestamp>) {
        let behind =
            this.head_modified.zip(newest).map(|(head, newest)| newest.as_second() - head.as_second());
        standing.head_modified = this.head_modified;
        standing.head_recent = behind.is_some_and(|seconds| seconds <= SAME_TIME_SECONDS);
        standing.head_allocated_bytes = if standing.head_recent { this.head_allocated_bytes } else { 0 };
    }

    /// Fills in what is next, for each group of replicas that stand exactly alike so far.
    fn among_equals(&self, standings: &mut [Standing], fill: impl Fn(&[usize], &mut [Standing])) {
        let mut classes: BTreeMap<Standing, Vec<usize>> = BTreeMap::new();
        for (i, standing) in standings.iter().enumerate() {
            let class = Standing { place: Reverse(Default::default()), ..standing.clone() };
            classes.entry(class).or_default().push(i);
        }
        classes.into_values().for_each(|members| fill(&members, standings));
    }
}

/// Whether at least one checksum is recorded for the live chain, and all of those pass.
fn all_pass(replica: &Evidence) -> bool {
    let mut recorded = replica.live_chain().filter(|s| s.recorded_crc64.is_some()).peekable();
    recorded.peek().is_some() && recorded.all(sums::passes)
}
