//! What several nodes have to say, put together: this one, those reached over ssh, and what was printed elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::evidence::{Clock, Evidence};
use crate::model::finding::{Code, Finding};
use crate::model::standing::{Confidence, Ranking, rank};
use crate::workflow::scan::{Scanned, is_wanted};

/// The version of the JSON that `scan --json` prints, and that is taken in.
pub const SCHEMA_VERSION: u32 = 1;

/// The most bytes of JSON taken from one place: room for some 5,000 replicas of 20 snapshots.
pub const MAX_TOLD_BYTES: u64 = 64 << 20;

/// What it means that something could not be looked at.
const MISSING: &str = "what it holds is missing from the ranking: the best replica may be there";

/// A node, and how looking at it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSeen {
    /// What it is called.
    pub node: String,
    /// How its clock stands to ours.
    pub clock: Clock,
    /// When it was scanned, by its own clock.
    pub scanned_at: Option<Timestamp>,
    /// Why it could not be scanned.
    pub error: Option<String>,
}

/// Everything there is to rank.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// The nodes, in the order they were added.
    pub nodes: Vec<NodeSeen>,
    /// The replicas of all of them.
    pub replicas: Vec<Evidence>,
    /// What could not be looked at, and clocks that are off.
    pub findings: Vec<Finding>,
}

/// What a node said about itself: the part of `scan --json` that is taken in.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    schema_version: u32,
    #[serde(default)]
    nodes: Vec<ToldNode>,
    #[serde(default)]
    volumes: Vec<ToldVolume>,
    #[serde(default)]
    findings: Vec<ToldFinding>,
}

#[derive(Clone, Debug, Deserialize)]
struct ToldNode {
    node: String,
    #[serde(default)]
    clock: Clock,
    scanned_at: Option<Timestamp>,
    error: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ToldVolume {
    #[serde(default)]
    replicas: Vec<Evidence>,
}

#[derive(Clone, Debug, Deserialize)]
struct ToldFinding {
    code: String,
    what: String,
    #[serde(default)]
    meaning: String,
    #[serde(default)]
    advice: String,
}

impl Told {
    /// Reads what `scan --json` printed.
    ///
    /// # Errors
    /// Why it is not that; the caller knows where it came from.
    pub fn parse(json: &[u8]) -> std::result::Result<Self, String> {
        let told: Told = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        if told.schema_version == SCHEMA_VERSION {
            Ok(told)
        } else {
            Err(format!("its schema version is {}, and {SCHEMA_VERSION} is known here", told.schema_version))
        }
    }

    /// Reads a file that `scan --json` was written to.
    ///
    /// # Errors
    /// Of kind `Usage`, when there is no such file or it is something else.
    pub fn read(path: &Path) -> Result<Self> {
        let fail = |what: &str| Error::usage(what).with_path(path);
        let hint = "name a file that `lhrecover scan --json` was written to";
        let cannot = |e| fail("cannot read what was scanned elsewhere").caused_by(e).with_hint(hint);
        let mut json = Vec::new();
        File::open(path).and_then(|f| f.take(MAX_TOLD_BYTES + 1).read_to_end(&mut json)).map_err(cannot)?;
        if json.len() as u64 > MAX_TOLD_BYTES {
            return Err(fail("it is larger than any scan").with_hint(hint));
        }
        Told::parse(&json)
            .map_err(|why| fail(&format!("this is not what a scan prints: {why}")).with_hint(hint))
    }

    /// When the scan was done, by the clock of the node that did it.
    pub fn scanned_at(&self) -> Option<Timestamp> {
        self.nodes.first().and_then(|node| node.scanned_at)
    }
}

impl Collected {
    /// Adds what was found on this machine, whose clock is ours.
    pub fn add_own(&mut self, node: &str, scanned: Scanned) {
        let clock = Clock::Compared { off_seconds: 0 };
        self.nodes.push(NodeSeen {
            node: node.to_owned(),
            clock,
            scanned_at: Some(Timestamp::now()),
            error: None,
        });
        self.replicas.extend(scanned.replicas);
        self.findings.extend(scanned.findings);
    }

    /// Adds what the node called `node` said over ssh; whatever it calls itself, it is this one.
    pub fn add_remote(&mut self, node: &str, told: Told, clock: Clock, warnings: Vec<String>) {
        let scanned_at = told.scanned_at();
        self.nodes.push(NodeSeen { node: node.to_owned(), clock, scanned_at, error: None });
        let replicas = told.volumes.into_iter().flat_map(|volume| volume.replicas);
        self.replicas.extend(replicas.map(|replica| Evidence { node: node.to_owned(), ..replica }));
        self.findings.extend(told.findings.into_iter().filter_map(ToldFinding::unread));
        self.findings.extend(warnings.into_iter().map(|warning| {
            Finding::new(
                Code::NodeVersion,
                format!("node {node}: {warning}"),
                "what it found may have been judged by other rules",
            )
            .advise("install the same version there, or let this one be brought along")
        }));
    }

    /// Adds what was scanned elsewhere, perhaps on several nodes. How their clocks stand to each other is known
    /// only if all of it comes from one scan; `alone` says that nothing else is ranked with it.
    pub fn add_told(&mut self, told: Told, alone: bool) {
        if told.nodes.iter().any(|seen| seen.error.is_some()) && told.findings.is_empty() {
            let what = "a scan that was made elsewhere did not reach all of its nodes";
            self.findings.push(Finding::new(Code::NodeUnreachable, what, MISSING));
        }
        self.nodes.extend(told.nodes.into_iter().map(|seen| NodeSeen {
            clock: if alone { seen.clock } else { Clock::Unknown },
            node: seen.node,
            scanned_at: seen.scanned_at,
            error: seen.error,
        }));
        self.replicas.extend(told.volumes.into_iter().flat_map(|volume| volume.replicas));
        self.findings.extend(told.findings.into_iter().filter_map(ToldFinding::unread));
    }

    /// Adds a node that could not be scanned.
    pub fn add_unreachable(&mut self, node: &str, error: &Error) {
        let mut finding = Finding::new(Code::NodeUnreachable, format!("not scanned: {error}"), MISSING);
        finding.advice = error.hint().unwrap_or_default().to_owned();
        self.findings.push(finding);
        let error = Some(error.to_string());
        self.nodes.push(NodeSeen { node: node.to_owned(), clock: Clock::Unknown, scanned_at: None, error });
    }

    /// Leaves out volumes that are not wanted, and all but one look at each directory: the latest, or an earlier one that
    /// was closer and found the same.
    pub fn tidy(&mut self, volumes: &[String]) {
        self.replicas.retain(|replica| is_wanted(&replica.volume, volumes));
        self.replicas.sort_by(|a, b| {
            let place = (&a.node, &a.path).cmp(&(&b.node, &b.path));
            place.then(b.scanned_at.cmp(&a.scanned_at)).then(b.deep.cmp(&a.deep))
        });
        self.replicas.dedup_by(|earlier, kept| {
            let same = (&earlier.node, &earlier.path) == (&kept.node, &kept.path);
            if same && earlier.is_closer_look_than(kept) {
                earlier.in_use = kept.in_use;
                std::mem::swap(earlier, kept);
            }
            same
        });
        if self.replicas.is_empty() && self.findings.is_empty() {
            let what = if volumes.is_empty() {
                "no replica was found"
            } else {
                "no replica of such a volume was found"
            };
            let meaning = "there is nothing to rank: perhaps this is the wrong disk, or the wrong name";
            self.findings.push(Finding::new(Code::NothingFound, what, meaning));
        }
        for seen in self.nodes.iter().filter(|seen| seen.clock.is_wrong()) {
            let Clock::Compared { off_seconds } = seen.clock else { continue };
            let way = if off_seconds > 0 { "ahead of" } else { "behind" };
            self.findings.push(
                Finding::new(
                    Code::ClockOff,
                    format!("the clock of node {} is {} s {way} ours", seen.node, off_seconds.unsigned_abs()),
                    "times of files there cannot be compared with those on other nodes",
                )
                .advise("where the ranking rests on times, look into the replicas before you take one"),
            );
        }
    }

    /// The ranking of every volume's replicas, no surer than it can be when not everything was looked at.
    pub fn rank(&self) -> Vec<Ranking<'_>> {
        let mut rankings = rank(&self.replicas, &self.clocks());
        if self.is_incomplete() {
            let why = "not everything could be looked at";
            rankings.iter_mut().for_each(|ranking| ranking.doubt(Confidence::Likely, why));
        }
        rankings
    }

    /// Whether something could not be looked at: the best replica may be there.
    pub fn is_incomplete(&self) -> bool {
        let missing = [Code::NodeUnreachable, Code::PathUnreadable];
        self.findings.iter().any(|finding| missing.contains(&finding.code))
    }

    /// How each node's clock stands to ours; the less trusting, when a node was looked at twice.
    pub fn clocks(&self) -> BTreeMap<String, Clock> {
        let mut clocks = BTreeMap::new();
        for seen in self.nodes.iter().filter(|seen| seen.error.is_none()) {
            clocks
                .entry(seen.node.clone())
                .and_modify(|known: &mut Clock| {
                    if known.is_right() {
                        *known = seen.clock;
                    }
                })
                .or_insert(seen.clock);
        }
        clocks
    }
}

impl ToldFinding {
    /// What could not be looked at there is missing here, too. Everything else is judged anew.
    fn unread(self) -> Option<Finding> {
        let codes = [Code::PathUnreadable, Code::NodeUnreachable];
        let code = codes.into_iter().find(|code| code.as_str() == self.code)?;
        let meaning = if self.meaning.is_empty() { MISSING.to_owned() } else { self.meaning };
        Some(Finding::new(code, self.what, meaning).advise(self.advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::evidence::SnapshotEvidence;

    fn told(at: &str) -> Told {
        let json = format!(
            r#"{{"schema_version":1,"nodes":[{{"node":"self","scanned_at":"{at}"}}],
                "volumes":[{{"volume":"v","replicas":[{{"node":"self","path":"/r/v-00000001","volume":"v","deep":true}}]}}],
                "findings":[{{"code":"path-unreadable","what":"w"}},{{"code":"clock-off","what":"w"}}]}}"#
        );
        Told::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_remote_clock_is_compared_with_ours() {
        let [sent, received] = ["2026-01-01T00:00:00.5Z", "2026-01-01T00:00:10Z"].map(|t| t.parse().unwrap());
        for (at, off_seconds) in [
            ("2026-01-01T00:00:00Z", 0),
            ("2026-01-01T00:00:03Z", 0),
            ("2025-12-31T23:59:00Z", -60),
            ("2026-01-01T01:00:10Z", 3600),
        ] {
            let clock = Clock::read(at.parse().unwrap(), sent, received);
            assert_eq!(clock, Clock::Compared { off_seconds }, "{at}");
            let mut collected = Collected::default();
            collected.add_remote("pi", told(at), clock, Vec::new());
            collected.tidy(&[]);
            assert_eq!(collected.clocks()["pi"], clock);
            assert_eq!(collected.replicas[0].node, "pi");
            let codes: Vec<_> = collected.findings.iter().map(|f| f.code.as_str()).collect();
            let off = if off_seconds == 0 { None } else { Some("clock-off") };
            assert_eq!(codes, [Some("path-unreadable"), off].into_iter().flatten().collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_closer_look_at_a_directory_counts() {
        let mut collected = Collected::default();
        let shallow = Evidence { node: "self".into(), path: "/r/v-00000001".into(), ..Evidence::default() };
        collected.replicas.push(shallow);
        collected.add_told(told("2026-01-01T00:00:00Z"), false);
        collected.tidy(&[]);
        assert_eq!(collected.replicas.iter().map(|r| r.deep).collect::<Vec<_>>(), [true]);
        collected.tidy(&["w".into()]);
        assert!(collected.replicas.is_empty());
    }

    #[test]
    fn what_only_reading_showed_is_not_forgotten() {
        let snapshot = |unreadable: Option<&str>| SnapshotEvidence {
            name: "s".into(),
            live: true,
            unreadable: unreadable.map(str::to_owned),
            ..SnapshotEvidence::default()
        };
        let look = |second, deep, trouble: &[&str], unreadable| Evidence {
            node: "pi".into(),
            scanned_at: Timestamp::from_second(second).ok(),
            deep,
            trouble: trouble.iter().map(|&t| t.to_owned()).collect(),
            snapshots: vec![snapshot(unreadable)],
            ..Evidence::default()
        };
        let deep = || look(1, true, &["of metadata", "of reading"], Some("EIO"));
        for (later, kept_deep) in [
            (look(2, false, &["of metadata"], None), true),
            (look(2, false, &[], None), true),
            (look(2, false, &["another"], None), false),
            (Evidence { dirty: true, ..look(2, false, &["of metadata"], None) }, false),
        ] {
            let mut collected = Collected { replicas: vec![later, deep()], ..Collected::default() };
            collected.tidy(&[]);
            assert_eq!(collected.replicas.len(), 1);
            assert_eq!(collected.replicas[0].deep, kept_deep);
            assert_eq!(collected.replicas[0].snapshots[0].unreadable.is_some(), kept_deep);
        }
    }

    #[test]
    fn what_is_no_scan_is_refused() {
        for json in ["", "[]", "{}", r#"{"schema_version":2}"#, r#"{"schema_version":1,"volumes":[1]}"#] {
            assert!(Told::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
