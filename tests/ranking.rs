//! The ranking, from evidence alone: what decides, with what reason, and how sure it is; and that it is an order.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lhrecover::model::evidence::{ChainState, Clock, Evidence, SnapshotEvidence, VolumeState};
use lhrecover::model::standing::{Confidence, Ranking, Verdict, rank};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn at(second: i64) -> Option<Timestamp> {
    Some(Timestamp::from_second(1_780_000_000 + second).unwrap())
}

fn snapshot(name: &str, parent: &str, second: i64) -> SnapshotEvidence {
    SnapshotEvidence {
        name: name.into(),
        parent: parent.into(),
        created: at(second),
        size_bytes: Some(64 * MIB),
        live: true,
        ..SnapshotEvidence::default()
    }
}

/// A replica that nothing speaks against: snapshots a and b, the head last written at 1000.
fn healthy(node: &str) -> Evidence {
    Evidence {
        node: node.into(),
        path: format!(
            "/var/lib/longhorn/replicas/vol-{:08x}",
            node.bytes().fold(7, |n: u32, b| n.wrapping_mul(31).wrapping_add(u32::from(b)))
        ),
        volume: "vol".into(),
        chain: ChainState::Whole,
        state: VolumeState::Sound,
        size_bytes: Some(64 * MIB),
        head: Some("volume-head-002.img".into()),
        head_created: at(200),
        head_modified: at(1000),
        head_allocated_bytes: MIB,
        allocated_bytes: 10 * MIB,
        began: at(0),
        snapshots: vec![snapshot("b", "volume-snap-a.img", 200), snapshot("a", "", 100)],
        ..Evidence::default()
    }
}

fn with(node: &str, change: impl Fn(&mut Evidence)) -> Evidence {
    let mut evidence = healthy(node);
    change(&mut evidence);
    evidence
}

/// Clocks that were compared and are right.
fn right_clocks(replicas: &[Evidence]) -> BTreeMap<String, Clock> {
    replicas.iter().map(|r| (r.node.clone(), Clock::Compared { off_seconds: 0 })).collect()
}

/// The ranking of one volume, which is the same in whatever order the evidence comes.
fn ranked<'a>(replicas: &'a [Evidence], clocks: &BTreeMap<String, Clock>) -> Ranking<'a> {
    let one = rank(replicas, clocks).pop().unwrap();
    let again = rank(replicas.iter().rev(), clocks).pop().unwrap();
    assert_eq!(shown(&one), shown(&again));
    one
}

/// All that a person sees of a ranking.
fn shown(ranking: &Ranking<'_>) -> String {
    let replicas: Vec<_> =
        ranking.replicas.iter().map(|r| (&r.evidence.node, r.verdict, &r.reasons)).collect();
    let findings: Vec<_> = ranking.findings.iter().map(|f| (&f.code, &f.what, &f.files)).collect();
    format!("{replicas:?} {:?} {:?} {findings:?}", ranking.confidence, ranking.doubts)
}

/// Snapshots that take so much each.
fn with_layers(node: &str, mib: u64) -> Evidence {
    with(node, |e| {
        e.snapshots.iter_mut().for_each(|s| s.allocated_bytes = mib * MIB);
        e.allocated_bytes = 2 * mib * MIB + MIB;
    })
}

fn counted(node: &str, counter: u64) -> Evidence {
    with(node, |e| e.revision_counter = Some(counter))
}

fn hashed(node: &str, recorded: &str, computed: &str, ctime_equal: bool) -> Evidence {
    with(node, |e| {
        e.deep = true;
        e.snapshots[1].recorded_crc64 = Some(recorded.into());
        e.snapshots[1].computed_crc64 = Some(computed.into());
        e.snapshots[1].change_time_equal = Some(ctime_equal);
    })
}

use Confidence::{Certain, Likely, PersonMustLook};
use Verdict::{Best, Doubtful, Good, Unusable};

/// A case: the replicas, best first, with what is expected of each: verdict, and words of its reasons.
type Expected<'a> = (Evidence, Verdict, &'a [&'a str]);

#[track_caller]
fn check(case: &str, expected: &[Expected<'_>], confidence: Confidence) {
    let replicas: Vec<_> = expected.iter().map(|(evidence, ..)| evidence.clone()).collect();
    check_with(case, expected, &right_clocks(&replicas), confidence);
}

#[track_caller]
fn check_with(
    case: &str,
    expected: &[Expected<'_>],
    clocks: &BTreeMap<String, Clock>,
    confidence: Confidence,
) {
    let replicas: Vec<_> = expected.iter().map(|(evidence, ..)| evidence.clone()).collect();
    let ranking = ranked(&replicas, clocks);
    for (place, (ranked, (evidence, verdict, words))) in ranking.replicas.iter().zip(expected).enumerate() {
        let reasons = ranked.reasons.join("; ");
        assert_eq!(ranked.evidence.node, evidence.node, "{case}: place {place}: {}", shown(&ranking));
        assert_eq!(ranked.verdict, *verdict, "{case}: {}: {reasons}", evidence.node);
        for word in *words {
            assert!(reasons.contains(word), "{case}: {}: {word:?} is not in {reasons:?}", evidence.node);
        }
    }
    assert_eq!(ranking.confidence, confidence, "{case}: {:?}", ranking.doubts);
}

#[test]
fn each_piece_of_evidence_decides_when_nothing_weightier_does() {
    let stale_but_large = |node| {
        with(node, |e| {
            e.allocated_bytes = 500 * MIB;
            e.head_allocated_bytes = 100 * MIB;
        })
    };
    let table: Vec<(&str, [Expected<'_>; 2], Confidence)> = vec![
        (
            "1: a broken chain",
            [
                (healthy("b"), Best, &["only one that can be trusted"]),
                (
                    with("a", |e| {
                        e.chain = ChainState::Broken;
                        e.trouble = vec!["broken chain: no metadata".into()];
                        e.allocated_bytes = 900 * MIB;
                    }),
                    Unusable,
                    &["broken chain"],
                ),
            ],
            Certain,
        ),
        (
            "1: no backing image",
            [
                (healthy("b"), Best, &["trusted"]),
                (with("a", |e| e.chain = ChainState::BackingMissing), Doubtful, &["backing image"]),
            ],
            Certain,
        ),
        (
            "2: rebuilding, with more bytes",
            [
                (healthy("b"), Best, &["trusted"]),
                (
                    Evidence { state: VolumeState::Rebuilding, ..stale_but_large("a") },
                    Unusable,
                    &["being rebuilt", "however much"],
                ),
            ],
            Certain,
        ),
        (
            "2: given up",
            [
                (healthy("b"), Best, &["trusted"]),
                (with("a", |e| e.state = VolumeState::GivenUp), Doubtful, &["gave it up"]),
            ],
            Certain,
        ),
        (
            "2: volume.meta is missing",
            [
                (healthy("b"), Best, &["trusted"]),
                (with("a", |e| e.state = VolumeState::Unknown), Doubtful, &["volume.meta"]),
            ],
            Certain,
        ),
        (
            "3: proven corrupt, untouched since it was hashed",
            [
                (healthy("b"), Best, &["trusted"]),
                (hashed("a", "1", "2", true), Doubtful, &["checksum of snapshot a fails", "not touched"]),
            ],
            Certain,
        ),
        (
            "3: proven corrupt by a sibling, though no times are left",
            [
                (hashed("b", "1", "1", false), Best, &["trusted"]),
                (hashed("a", "1", "2", false), Doubtful, &["fails here and passes in b"]),
            ],
            Certain,
        ),
        (
            "4: empty, made by a reinstall",
            [
                (healthy("b"), Best, &["trusted"]),
                (
                    with("a", |e| {
                        e.began = at(2000);
                        e.head_created = at(2000);
                        e.head_modified = at(2000);
                        e.snapshots.clear();
                        (e.allocated_bytes, e.head_allocated_bytes) = (0, 0);
                    }),
                    Unusable,
                    &["holds no data", "reinstall"],
                ),
            ],
            Certain,
        ),
        (
            "4: made anew, and formatted by whoever mounted it",
            [
                (healthy("b"), Best, &["trusted"]),
                (
                    with("a", |e| {
                        e.began = at(2000);
                        e.head_created = at(2000);
                        e.head_modified = at(2100);
                        e.snapshots.clear();
                        e.allocated_bytes = MIB;
                    }),
                    Doubtful,
                    &["made after the others", "a new volume under the old name"],
                ),
            ],
            PersonMustLook,
        ),
        (
            "4: half filled, and the mark that it was rebuilding is lost",
            [
                (with_layers("b", 20), Best, &["snapshots are filled"]),
                (
                    Evidence {
                        head_allocated_bytes: 2 * MIB,
                        head_modified: at(1003),
                        ..with_layers("a", 2)
                    },
                    Doubtful,
                    &["snapshot b takes 2097152 bytes", "not filled to its end"],
                ),
            ],
            PersonMustLook,
        ),
        (
            "5: it lacks the newest snapshot, and is larger",
            [
                (healthy("b"), Best, &["it has snapshot b, which a lacks"]),
                (
                    with("a", |e| {
                        e.snapshots.remove(0);
                        e.allocated_bytes = 500 * MIB;
                        e.head_modified = at(150);
                    }),
                    Doubtful,
                    &["lacks snapshot b (taken 2026-", "which b has"],
                ),
            ],
            Certain,
        ),
        (
            "5: revision counters",
            [
                (counted("b", 447), Best, &["most writes", "447"]),
                (counted("a", 406), Doubtful, &["missed 41 writes"]),
            ],
            Certain,
        ),
        (
            "5: a counter that stands still is worse than none",
            [
                (with("b", |e| e.head_modified = at(2000)), Best, &["written last, 1000 s after that of a"]),
                (
                    with("a", |e| {
                        e.revision_counter = Some(9999);
                        e.revision_frozen = true;
                    }),
                    Doubtful,
                    &["1000 s before"],
                ),
            ],
            Likely,
        ),
        (
            "5: the newest head",
            [
                (with("b", |e| e.head_modified = at(1006)), Best, &["6 s after that of a"]),
                (stale_but_large("a"), Doubtful, &["6 s before that of b"]),
            ],
            Likely,
        ),
        (
            "5: at the same time, the larger head",
            [
                (with("b", |e| e.head_allocated_bytes = 2 * MIB), Best, &["same time", "holds more"]),
                (with("a", |e| e.head_modified = at(1005)), Good, &["its head takes 1048576 bytes"]),
            ],
            Likely,
        ),
        (
            "6: checksums that pass",
            [
                (hashed("b", "1", "1", true), Best, &["checksums pass"]),
                (with("a", |e| e.deep = true), Good, &["checksums"]),
            ],
            Likely,
        ),
        (
            "7: closed",
            [
                (healthy("b"), Best, &["was closed"]),
                (with("a", |e| e.dirty = true), Good, &["was not closed"]),
            ],
            Likely,
        ),
        (
            "8: more data",
            [
                (with("b", |e| e.allocated_bytes = 11 * MIB), Best, &["holds more"]),
                (healthy("a"), Good, &["holds less"]),
            ],
            Likely,
        ),
        (
            "none: the node's name",
            [(healthy("a"), Best, &["as good as b"]), (healthy("b"), Good, &["as good"])],
            Likely,
        ),
    ];
    for (case, expected, confidence) in &table {
        check(case, expected, *confidence);
    }
}

#[test]
fn a_shallow_scan_does_not_lose_to_a_deep_one() {
    check(
        "the deep one has no advantage",
        &[(with("a", |e| e.deep = false), Best, &[]), (hashed("b", "1", "1", true), Good, &[])],
        Likely,
    );
}

#[test]
fn two_that_dropped_out_early_are_no_majority() {
    let early = |node| with(node, |e| drop(e.snapshots.remove(0)));
    check(
        "one has the last snapshot",
        &[
            (healthy("c"), Best, &["snapshot b"]),
            (early("a"), Doubtful, &["lacks"]),
            (early("b"), Doubtful, &["lacks"]),
        ],
        Certain,
    );
}

#[test]
fn what_conflicts_is_for_a_person() {
    let parted = with("b", |e| {
        e.snapshots[0] = snapshot("c", "volume-snap-a.img", 200);
        e.head_modified = at(900);
    });
    check("histories that parted", &[(healthy("a"), Best, &[]), (parted, Doubtful, &[])], PersonMustLook);
    let later_writes = with("b", |e| {
        e.snapshots.remove(0);
        e.head_modified = at(5000);
    });
    check(
        "the lesser was written later",
        &[(healthy("a"), Best, &[]), (later_writes, Doubtful, &[])],
        PersonMustLook,
    );
    let broken_with_more = with("b", |e| {
        e.chain = ChainState::Broken;
        e.snapshots.insert(0, snapshot("c", "volume-snap-b.img", 300));
    });
    check(
        "a broken one has more",
        &[(healthy("a"), Best, &[]), (broken_with_more, Unusable, &[])],
        PersonMustLook,
    );
    let differs = || hashed("b", "2", "2", true);
    let expected: &[Expected<'_>] = &[(hashed("a", "1", "1", true), Best, &[]), (differs(), Good, &[])];
    check("both pass, and differ", expected, PersonMustLook);
    let replicas = [hashed("a", "1", "1", true), differs()];
    let ranking = ranked(&replicas, &right_clocks(&replicas));
    assert_eq!(ranking.findings[0].code.as_str(), "snapshot-differs");
    assert_eq!(ranking.findings[0].files, ["a", "b"]);
    let smaller = with("b", |e| e.size_bytes = Some(32 * MIB));
    check("two sizes", &[(healthy("a"), Best, &[]), (smaller, Good, &[])], PersonMustLook);
}

#[test]
fn what_was_purged_in_one_and_not_in_the_other_proves_nothing() {
    let folded = with("a", |e| {
        e.deep = true;
        drop(e.snapshots.remove(1));
        e.snapshots[0] = SnapshotEvidence {
            recorded_crc64: Some("1".into()),
            computed_crc64: Some("2".into()),
            change_time_equal: Some(false),
            ..snapshot("b", "", 200)
        };
    });
    let not_yet = with("b", |e| {
        e.deep = true;
        e.snapshots[0].recorded_crc64 = Some("1".into());
        e.snapshots[0].computed_crc64 = Some("1".into());
        e.head_modified = at(500);
    });
    let case = "the checksum is stale, since the layer below was folded in";
    check(case, &[(folded, Best, &["stale, or damage"]), (not_yet, Doubtful, &[])], Likely);
}

#[test]
fn clocks_that_lie_are_not_trusted() {
    let newer = || with("b", |e| e.head_modified = at(9000));
    let expected = || [(newer(), Best, &[][..]), (healthy("a"), Doubtful, &[][..])];
    let clock = |off_seconds| Clock::Compared { off_seconds };
    let clocks = |of_a, of_b| BTreeMap::from([("a".to_owned(), of_a), ("b".to_owned(), of_b)]);
    check_with("right", &expected(), &clocks(clock(0), clock(-5)), Likely);
    check_with("off", &expected(), &clocks(clock(0), clock(3600)), PersonMustLook);
    check_with("not compared", &expected(), &clocks(Clock::Unknown, clock(0)), PersonMustLook);
    // With counters nothing rests on clocks.
    let counted = [(counted("b", 2), Best, &[][..]), (self::counted("a", 1), Doubtful, &[][..])];
    check_with("off, and not needed", &counted, &clocks(clock(0), clock(3600)), Certain);
    let before = with("b", |e| {
        e.head_created = at(99_000);
        e.head_modified = at(9000);
    });
    let replicas = [healthy("a"), before.clone()];
    let ranking = ranked(&replicas, &right_clocks(&replicas));
    assert_eq!(ranking.findings[0].code.as_str(), "head-time-impossible");
    check(
        "written before it was made",
        &[(before, Best, &["clock was wrong"]), (healthy("a"), Doubtful, &[])],
        PersonMustLook,
    );
    let copied = with("b", |e| {
        e.head_modified = at(9000);
        e.times_copied = true;
    });
    check(
        "times of a copy",
        &[(copied, Best, &["those of a copy"]), (healthy("a"), Doubtful, &[])],
        PersonMustLook,
    );
}

#[test]
fn what_would_mislead_is_for_a_person() {
    let later_but_broken = with("b", |e| {
        e.chain = ChainState::Broken;
        e.head_modified = at(2_000_000);
    });
    let case = "a broken one was written weeks later";
    check(case, &[(healthy("a"), Best, &[]), (later_but_broken, Unusable, &[])], PersonMustLook);

    let cut_short = with("b", |e| {
        e.snapshots[0] = SnapshotEvidence { allocated_bytes: 0, ..snapshot("b", "", 200) };
        e.snapshots.truncate(1);
        e.allocated_bytes = MIB;
        e.head_modified = at(1030);
    });
    let case = "a rebuild that was cut short, and whose flag was lost";
    check(case, &[(cut_short, Best, &[]), (with_layers("a", 20), Doubtful, &[])], PersonMustLook);
    let partly_filled = Evidence { head_allocated_bytes: 2 * MIB, ..with_layers("b", 14) };
    let case = "the same, with all layers there and most of each filled";
    check(case, &[(partly_filled, Best, &[]), (with_layers("a", 20), Good, &[])], PersonMustLook);

    let copied = |node, mib| {
        with(node, |e| {
            e.times_copied = true;
            e.allocated_bytes = mib * MIB;
        })
    };
    let case = "times are lost, and nothing else tells";
    check(case, &[(copied("b", 11), Best, &[]), (copied("a", 10), Good, &[])], PersonMustLook);
    let counter = |node, n| with(node, |e| (e.times_copied, e.revision_counter) = (true, Some(n)));
    let case = "counters that may have stood still";
    check(case, &[(counter("b", 150), Best, &[]), (counter("a", 100), Doubtful, &[])], PersonMustLook);

    let later = |e: &mut Evidence| e.head_modified = at(9000);
    let [more_writes, fewer] = [
        counted("a", 500),
        with("b", |e| {
            later(e);
            e.revision_counter = Some(400)
        }),
    ];
    let none = with("c", |e| e.head_modified = at(10));
    let case = "a third without a counter does not silence the other two";
    check(case, &[(fewer, Best, &[]), (more_writes, Doubtful, &[]), (none, Doubtful, &[])], PersonMustLook);

    let restored = with("b", |e| {
        (e.snapshots, e.began) =
            (vec![SnapshotEvidence { created: None, ..snapshot("restored", "", 0) }], None);
        e.head_modified = at(90_000);
    });
    let old = with("a", |e| e.snapshots.clear());
    check("restored under an old name", &[(restored, Best, &[]), (old, Doubtful, &[])], PersonMustLook);

    let future = with("b", |e| {
        e.scanned_at = at(5000);
        e.head_modified = at(300_000_000);
    });
    check(
        "written in the future",
        &[(future, Best, &["in the future"]), (healthy("a"), Doubtful, &[])],
        PersonMustLook,
    );

    let twice = with("b", |e| e.path = healthy("a").path);
    let case = "the same directory under two names";
    check(
        case,
        &[(counted("a", 1), Best, &[]), (Evidence { revision_counter: Some(1), ..twice }, Good, &[])],
        Likely,
    );
}

#[test]
fn a_new_volume_under_the_old_name_is_not_taken_even_in_a_crowd() {
    let newcomer = |node: &str, state| {
        with(node, |e| {
            (e.began, e.head_created, e.head_modified) = (at(5000), at(5000), at(5500));
            e.snapshots = vec![snapshot("sys", "", 5200)];
            (e.allocated_bytes, e.state) = (MIB, state);
        })
    };
    let expected = [
        (with("a", |e| e.allocated_bytes = 1000 * MIB), Best, &[][..]),
        (newcomer("b", VolumeState::Sound), Doubtful, &["new volume under the old name"]),
        (newcomer("c", VolumeState::Rebuilding), Unusable, &[]),
    ];
    check("reinstalled, with several replicas", &expected, PersonMustLook);
}

#[test]
fn a_trimmed_volume_is_no_new_one() {
    let trimmed = |node: &str, counter| {
        with(node, |e| {
            (e.began, e.head_created, e.head_modified) = (at(5200), at(5200), at(90_000));
            e.snapshots = vec![snapshot("rebuild", "", 5200)];
            (e.allocated_bytes, e.revision_counter) = (MIB / 2, counter);
        })
    };
    let stale = |counter| {
        with("c", |e| {
            e.snapshots.clear();
            (e.allocated_bytes, e.revision_counter) = (7 * MIB, counter);
        })
    };
    let went_on = [
        (trimmed("a", Some(90_000)), Best, &[][..]),
        (trimmed("b", Some(90_000)), Good, &[]),
        (stale(Some(500)), Doubtful, &["lacks snapshot rebuild"]),
    ];
    check("the counters tell that it went on", &went_on, PersonMustLook);
    let nothing_tells =
        [(stale(None), Best, &[][..]), (trimmed("a", None), Doubtful, &["perhaps a new volume"])];
    check("nothing tells", &nothing_tells, PersonMustLook);
}

#[test]
fn a_snapshot_that_was_deleted_does_not_make_the_live_one_stale() {
    let sized = |node: &str, sizes: &[(&str, u64)], written| {
        with(node, |e| {
            let parents = sizes.iter().skip(1).map(|(name, _)| format!("volume-snap-{name}.img"));
            let parents = parents.chain([String::new()]);
            let layers = sizes.iter().zip(parents).map(|(&(name, mib), parent)| SnapshotEvidence {
                allocated_bytes: mib * MIB,
                user_created: true,
                ..snapshot(name, &parent, 100)
            });
            e.snapshots = layers.collect();
            e.head_modified = at(written);
        })
    };
    let stale = || sized("b", &[("c", 4), ("b", 8), ("a", 4)], 1000);
    let stale: &Expected<'_> = &(stale(), Doubtful, &["s before"]);
    let counted = |e: &Evidence, counter| Evidence { revision_counter: Some(counter), ..e.clone() };
    let folded = sized("a", &[("c", 12)], 300_000);
    check("folded into the newest", &[(folded.clone(), Best, &["written last"]), stale.clone()], Likely);
    let relinked = sized("a", &[("c", 4), ("a", 4)], 300_000);
    check("linked around", &[(relinked, Best, &["written last"]), stale.clone()], Likely);
    let counters =
        [(counted(&folded, 5000), Best, &["5000"][..]), (counted(&stale.0, 300), Doubtful, &["4700"])];
    check("and the counters say so, too", &counters, Certain);
    let ends_early = sized("a", &[("c", 4), ("b", 2)], 900);
    let whole = Evidence { snapshots: ends_early.snapshots.clone(), ..sized("a", &[], 900) };
    let whole = Evidence { node: "c".into(), ..whole };
    let longer = sized("b", &[("c", 4), ("b", 2), ("a", 8)], 1000);
    check(
        "it ends early, and nothing was folded",
        &[(longer, Best, &["snapshot a"]), (whole, Doubtful, &["lacks snapshot a"])],
        PersonMustLook,
    );
}

#[test]
fn a_siblings_checksum_speaks_for_one_that_has_none() {
    let [a, c] = ["a", "c"].map(|node| hashed(node, "1", "1", true));
    let other_bytes = |node: &str| {
        let mut other = hashed(node, "", "2", true);
        (other.snapshots[1].recorded_crc64, other.snapshots[1].change_time_equal) = (None, None);
        other.head_allocated_bytes = 9 * MIB;
        other
    };
    let alone = [(a.clone(), Best, &[][..]), (c, Good, &[]), (other_bytes("b"), Doubtful, &["passes in a"])];
    check("it stands alone", &alone, Likely);
    let agreed = [(other_bytes("b"), Best, &[][..]), (other_bytes("c"), Good, &[]), (a, Good, &[])];
    check("another one agrees with it", &agreed, PersonMustLook);
}

#[test]
fn less_knowledge_never_makes_it_surer() {
    let clock = |off_seconds| Clock::Compared { off_seconds };
    let clocks = |of_b| BTreeMap::from([("a".to_owned(), clock(0)), ("b".to_owned(), of_b)]);
    let written_on = |e: &mut Evidence| e.head_modified = at(800_000);
    let behind = with("b", |e| {
        e.snapshots.remove(0);
        written_on(e);
    });
    let fewer = Evidence { head_modified: at(800_000), ..counted("b", 100) };
    for (case, of_b) in [("compared", clock(0)), ("off", clock(8)), ("not compared", Clock::Unknown)] {
        let expected = [(healthy("a"), Best, &["snapshot b"][..]), (behind.clone(), Doubtful, &["lacks"])];
        check_with(case, &expected, &clocks(of_b), PersonMustLook);
        let expected =
            [(counted("a", 101), Best, &["101"][..]), (fewer.clone(), Doubtful, &["missed 1 writes"])];
        check_with(case, &expected, &clocks(of_b), PersonMustLook);
    }
    let expected = [(counted("a", 101), Best, &[][..]), (fewer, Doubtful, &[])];
    check_with("off by more", &expected, &clocks(clock(900_000)), Certain);
}

#[test]
fn what_cannot_be_trusted_may_have_seen_more() {
    let broken = Evidence { chain: ChainState::Broken, ..counted("b", 900) };
    let expected = [(counted("a", 100), Best, &[][..]), (broken, Unusable, &[])];
    check("a broken one has the higher counter", &expected, PersonMustLook);
    let filling = Evidence { state: VolumeState::Rebuilding, ..counted("b", 900) };
    check("one that was being filled", &[(counted("a", 100), Best, &[]), (filling, Unusable, &[])], Certain);
    let empty = |node: &str, began, written| {
        with(node, |e| {
            e.snapshots.clear();
            (e.began, e.head_created, e.head_modified) = (at(began), at(began), at(written));
            (e.allocated_bytes, e.head_allocated_bytes) = (0, 0);
        })
    };
    let discarded = Evidence { revision_counter: Some(9000), ..empty("b", 0, 90_000) };
    let same_age = with("a", |e| e.snapshots.clear());
    let expected = [
        (Evidence { revision_counter: Some(500), ..same_age.clone() }, Best, &[][..]),
        (discarded, Unusable, &["it holds no data"]),
    ];
    check("one that was emptied, by its counter", &expected, PersonMustLook);
    let expected =
        [(same_age.clone(), Best, &[][..]), (empty("b", 0, 90_000), Unusable, &["it holds no data"])];
    check("one that was emptied, by its times", &expected, PersonMustLook);
    let replicas = [same_age, empty("b", 0, 90_000)];
    let ranking = ranked(&replicas, &right_clocks(&replicas));
    assert!(!shown(&ranking).contains("made after the others"), "{}", shown(&ranking));
}

#[test]
fn one_name_is_not_one_clock() {
    let on_pi = |path: &str, origin: &str, written| {
        with("raspberrypi", |e| {
            (e.path, e.origin, e.head_modified) = (path.into(), origin.into(), at(written));
        })
    };
    for (case, path, origin, confidence) in [
        ("one machine, one disk", "/d/replicas/vol-00000002", "boot-1", Likely),
        ("one machine, two disks", "/e/replicas/vol-00000002", "boot-1", PersonMustLook),
        ("two machines of one name", "/d/replicas/vol-00000002", "boot-2", PersonMustLook),
    ] {
        let expected = [
            (on_pi(path, origin, 2000), Best, &["written last"][..]),
            (on_pi("/d/replicas/vol-00000001", "boot-1", 1000), Doubtful, &[]),
        ];
        check(case, &expected, confidence);
    }
    let unknown = ["/d/replicas/vol-00000002", "/d/replicas/vol-00000001"].map(|path| on_pi(path, "", 1000));
    let [best, other] = unknown;
    let expected = [(Evidence { head_modified: at(2000), ..best }, Best, &[][..]), (other, Doubtful, &[])];
    check("nothing tells the machine", &expected, PersonMustLook);
}

#[test]
fn what_siblings_agree_on_is_not_corrupt() {
    let unmapped = |node: &str| Evidence { head_modified: at(90_000), ..hashed(node, "1", "2", false) };
    let stale = Evidence { head_modified: at(10), ..hashed("c", "1", "1", false) };
    let expected = [(unmapped("a"), Best, &[][..]), (unmapped("b"), Good, &[]), (stale, Doubtful, &[])];
    check("an unmap reached a snapshot", &expected, PersonMustLook);
    let off_chain = with("a", |e| {
        e.head_modified = at(90_000);
        let mut branch = snapshot("z", "", 50);
        (branch.live, branch.silently_corrupted, branch.change_time_equal) = (false, true, Some(true));
        e.snapshots.push(branch);
    });
    check("a corrupt branch", &[(off_chain, Best, &[]), (healthy("b"), Doubtful, &[])], Likely);
}

#[test]
fn retention_does_not_make_histories_part() {
    let live = |node| {
        with(node, |e| e.snapshots = vec![snapshot("d", "volume-snap-c.img", 400), snapshot("c", "", 300)])
    };
    let ahead = with("z", |e| e.head_modified = at(5000));
    check(
        "a stale one whose clock ran ahead",
        &[(live("a"), Best, &[]), (ahead, Doubtful, &["lacks snapshot d"])],
        PersonMustLook,
    );
    let behind = with("z", |e| e.head_modified = at(500));
    check("a stale one", &[(live("a"), Best, &[]), (behind, Doubtful, &["lacks snapshot d"])], Likely);
}

#[test]
fn where_nothing_can_be_trusted_nothing_is_best() {
    let unknown = with("a", |e| e.state = VolumeState::Unknown);
    check("a lone one of unknown state", &[(unknown.clone(), Doubtful, &[])], PersonMustLook);
    let ranking = ranked(std::slice::from_ref(&unknown), &BTreeMap::new()).findings.pop().unwrap();
    assert_eq!(ranking.code.as_str(), "no-trusted-replica");
    check("a lone good one", &[(healthy("a"), Best, &["only one found"])], Likely);
}

/// What a sibling may suffer.
#[derive(Clone, Debug)]
enum Damage {
    BrokenChain,
    NoBacking,
    Rebuilding,
    GivenUp,
    Unknown,
    FailedSum(bool),
    StaleSum,
    Hashed(u64),
    LayerBytes(u64),
    UserCreated,
    Empty,
    LacksNewest,
    Other(&'static str),
    Counter(u64, bool),
    Written(i64),
    Began(i64),
    Allocated(u64),
    Deep,
    Dirty,
    Copied,
    OffChain,
    Removed,
    Unreadable,
    SilentlyCorrupted,
    Size(u64),
    NoTimes,
    SamePlace,
}

fn damage() -> impl Strategy<Value = Damage> {
    use Damage::*;
    prop_oneof![
        Just(BrokenChain),
        Just(NoBacking),
        Just(Rebuilding),
        Just(GivenUp),
        Just(Unknown),
        any::<bool>().prop_map(FailedSum),
        Just(StaleSum),
        (1..3u64).prop_map(Hashed),
        (0..4u64).prop_map(LayerBytes),
        Just(UserCreated),
        Just(Empty),
        Just(LacksNewest),
        prop_oneof![Just("c"), Just("d"), Just("e")].prop_map(Other),
        (0..3u64, any::<bool>()).prop_map(|(n, frozen)| Counter(n, frozen)),
        (990..1010i64).prop_map(Written),
        (0..2000i64).prop_map(Began),
        (0..3u64).prop_map(Allocated),
        Just(Deep),
        Just(Dirty),
        Just(Copied),
        Just(OffChain),
        Just(Removed),
        Just(Unreadable),
        Just(SilentlyCorrupted),
        (1..3u64).prop_map(Size),
        Just(NoTimes),
        Just(SamePlace),
    ]
}

fn suffer(e: &mut Evidence, damage: &Damage) {
    match *damage {
        Damage::BrokenChain => e.chain = ChainState::Broken,
        Damage::NoBacking => e.chain = e.chain.min(ChainState::BackingMissing),
        Damage::Rebuilding => e.state = VolumeState::Rebuilding,
        Damage::GivenUp => e.state = e.state.min(VolumeState::GivenUp),
        Damage::Unknown => e.state = e.state.min(VolumeState::Unknown),
        Damage::FailedSum(untouched) => {
            if let Some(snapshot) = e.snapshots.last_mut() {
                snapshot.recorded_crc64 = Some("1".into());
                snapshot.computed_crc64 = Some("2".into());
                snapshot.change_time_equal = Some(untouched || snapshot.change_time_equal == Some(true));
            }
            e.deep = true;
        }
        Damage::StaleSum => {
            if let Some(snapshot) = e.snapshots.last_mut() {
                snapshot.recorded_crc64.get_or_insert("1".into());
                snapshot.computed_crc64.get_or_insert("1".into());
            }
            e.deep = true;
        }
        Damage::Hashed(sum) => {
            e.snapshots.iter_mut().take(1).for_each(|s| s.computed_crc64 = Some(sum.to_string()));
            e.deep = true;
        }
        Damage::LayerBytes(mib) => e.snapshots.iter_mut().for_each(|s| s.allocated_bytes = mib * 4 * MIB),
        Damage::UserCreated => e.snapshots.iter_mut().for_each(|s| s.user_created = true),
        Damage::Empty => (e.allocated_bytes, e.head_allocated_bytes) = (0, 0),
        Damage::LacksNewest => drop((!e.snapshots.is_empty()).then(|| e.snapshots.remove(0))),
        Damage::Other(name) => e.snapshots.insert(0, snapshot(name, "volume-snap-a.img", 300)),
        Damage::Counter(n, frozen) => (e.revision_counter, e.revision_frozen) = (Some(n), frozen),
        Damage::Written(second) => e.head_modified = at(second),
        Damage::Began(second) => e.began = at(second),
        Damage::Allocated(mib) => (e.head_allocated_bytes, e.allocated_bytes) = (mib * MIB, 10 * mib * MIB),
        Damage::Deep => e.deep = true,
        Damage::Dirty => e.dirty = true,
        Damage::Copied => e.times_copied = true,
        Damage::OffChain => e.snapshots.iter_mut().take(1).for_each(|s| s.live = false),
        Damage::Removed => e.snapshots.iter_mut().take(1).for_each(|s| s.removed = true),
        Damage::Unreadable => e.snapshots.iter_mut().take(1).for_each(|s| s.unreadable = Some("EIO".into())),
        Damage::SilentlyCorrupted => e.snapshots.iter_mut().take(1).for_each(|s| {
            (s.silently_corrupted, s.change_time_equal) = (true, Some(true));
        }),
        Damage::Size(mib) => e.size_bytes = Some(mib * MIB),
        Damage::NoTimes => (e.head_created, e.head_modified, e.began) = (None, None, None),
        // Several directories on one node.
        Damage::SamePlace => e.node = "node-0".into(),
    }
}

/// Siblings, each with some damage, in a random order.
fn siblings() -> impl Strategy<Value = Vec<Evidence>> {
    let one = prop::collection::vec(damage(), 0..4);
    prop::collection::vec(one, 1..7).prop_map(|all| {
        let each = all.iter().enumerate().map(|(i, damages)| {
            with(&format!("node-{i}"), |e| damages.iter().for_each(|damage| suffer(e, damage)))
        });
        each.collect::<Vec<_>>()
    })
}

/// Snapshots whose checksum fails, given whether the file was touched since.
fn failing<'a>(e: &'a Evidence, touched: &'a [Option<bool>]) -> impl Iterator<Item = &'a SnapshotEvidence> {
    let fails = |s: &&SnapshotEvidence| s.recorded_crc64.is_some() && s.recorded_crc64 != s.computed_crc64;
    e.snapshots.iter().filter(fails).filter(|s| touched.contains(&s.change_time_equal))
}

/// A chain that is broken, a checksum that fails, or a rebuild.
fn untrusted(e: &Evidence) -> bool {
    let corrupt = failing(e, &[Some(true)]).any(|s| s.live);
    e.chain == ChainState::Broken || e.state == VolumeState::Rebuilding || corrupt
}

/// None of these, whatever else there is to say of it. What nothing was recorded of may fail a sibling's checksum.
fn flawless(e: &Evidence) -> bool {
    let doubtful = failing(e, &[Some(true), Some(false), None]).next().is_some();
    let damaged = |s: &SnapshotEvidence| s.unreadable.is_some() || s.silently_corrupted;
    let unrecorded = |s: &SnapshotEvidence| s.computed_crc64.is_some() && s.recorded_crc64.is_none();
    let corrupt = e.snapshots.iter().any(|s| damaged(s) || unrecorded(s));
    e.chain != ChainState::Broken && e.state != VolumeState::Rebuilding && !doubtful && !corrupt
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_is_a_total_order_whatever_the_order_of_input(
        (replicas, shuffled) in siblings().prop_flat_map(|r| (Just(r.clone()), Just(r).prop_shuffle())),
    ) {
        let clocks = right_clocks(&replicas);
        let ranking = ranked(&replicas, &clocks);
        prop_assert_eq!(shown(&ranking), shown(&rank(&shuffled, &clocks)[0]));
        for (i, better) in ranking.replicas.iter().enumerate() {
            for worse in &ranking.replicas[i + 1..] {
                prop_assert!(better.standing > worse.standing);
                let upside_down = untrusted(better.evidence) && flawless(worse.evidence);
                prop_assert!(!upside_down, "{}", shown(&ranking));
            }
        }
        let best = ranking.replicas.iter().filter(|r| r.verdict == Best).count();
        prop_assert_eq!(best, usize::from(ranking.best().is_some()));
        prop_assert!(ranking.best().is_none_or(|best| !untrusted(best.evidence)));
        prop_assert!(ranking.best().is_some() || ranking.confidence == PersonMustLook);
        prop_assert!(ranking.replicas.iter().all(|r| !r.reasons.is_empty()), "{}", shown(&ranking));
    }

    #[test]
    fn one_that_is_worse_in_everything_never_moves_the_best(replicas in siblings()) {
        let clocks = right_clocks(&replicas);
        let ranking = ranked(&replicas, &clocks);
        if let Some(best) = ranking.best() {
            let mut more = replicas.clone();
            more.push(with("zzz", |e| {
                e.chain = ChainState::Broken;
                e.snapshots.clear();
                (e.allocated_bytes, e.head_allocated_bytes) = (0, 0);
            }));
            let again = rank(&more, &clocks).pop().unwrap();
            prop_assert_eq!(&again.best().unwrap().evidence.node, &best.evidence.node);
        }
    }
}
