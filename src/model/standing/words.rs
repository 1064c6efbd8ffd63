//! A replica's reasons, in words: what speaks against it, or what made it the best.

use crate::model::evidence::{ChainState, Evidence, VolumeState};
use crate::model::standing::history::Compared;
use crate::model::standing::{Filled, Standing, Volume, sums};

/// What decides between two standings, the weightiest difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decider {
    Chain,
    State,
    Intact,
    Filled,
    Complete,
    History,
    Revision,
    HeadTime,
    HeadSize,
    Sums,
    Clean,
    Bytes,
    Place,
}

/// What decides between `better` and `other`.
pub(super) fn decider(better: &Standing, other: &Standing) -> Decider {
    let checks = [
        (better.readable != other.readable, Decider::Chain),
        (better.built != other.built, Decider::State),
        (better.intact != other.intact, Decider::Intact),
        (better.state != other.state, Decider::State),
        (better.chain != other.chain, Decider::Chain),
        (better.filled != other.filled, Decider::Filled),
        (better.complete != other.complete, Decider::Complete),
        (better.history_behind != other.history_behind, Decider::History),
        (better.revision != other.revision, Decider::Revision),
        (better.head_recent != other.head_recent, Decider::HeadTime),
        (better.head_allocated_bytes != other.head_allocated_bytes, Decider::HeadSize),
        (better.head_modified != other.head_modified, Decider::HeadTime),
        (better.sums_pass != other.sums_pass, Decider::Sums),
        (better.clean != other.clean, Decider::Clean),
        (better.allocated_bytes != other.allocated_bytes, Decider::Bytes),
    ];
    checks.iter().find(|(differs, _)| *differs).map_or(Decider::Place, |&(_, decider)| decider)
}

/// Why the replica `this` stands where it does, the weightiest reason first.
pub(super) fn reasons(
    volume: &Volume<'_>,
    standings: &[Standing],
    order: &[usize],
    this: usize,
) -> Vec<String> {
    let best = order[0];
    let mut reasons = defects(volume, &standings[this], this);
    if this == best {
        let rival = order.get(1).copied();
        if standings[this].is_trustworthy() {
            reasons.insert(0, advantage(volume, standings, this, rival));
        }
    } else {
        reasons.extend(disadvantage(volume, standings, best, this));
    }
    let replica = volume.replicas[this];
    if replica.in_use {
        reasons.push("it is in use: another process has it open for writing".into());
    }
    if let Some(impossible) = replica.impossible_time() {
        reasons.push(format!("{impossible}: the node's clock was wrong"));
    }
    if replica.times_copied {
        reasons.push("its files' times are those of a copy".into());
    }
    reasons.extend(stale_sums(replica));
    reasons
}

/// What is wrong with it by itself.
fn defects(volume: &Volume<'_>, standing: &Standing, this: usize) -> Vec<String> {
    let replica = volume.replicas[this];
    let mut defects = replica.trouble.clone();
    let said = !defects.is_empty();
    match standing.chain {
        ChainState::Broken if !said => defects.push("its chain is broken".into()),
        ChainState::BackingMissing if !said => defects.push("its backing image is not on this node".into()),
        _ => {}
    }
    match standing.state {
        VolumeState::Rebuilding => {
            defects.push("it was being rebuilt: what it holds is not the volume, however much it is".into());
        }
        VolumeState::GivenUp if !said => defects.push("the engine gave it up".into()),
        VolumeState::Unknown if !said => defects.push("volume.meta cannot be used".into()),
        _ => {}
    }
    defects.extend(volume.corruption(this));
    match standing.filled {
        Filled::Empty if made_after_others(volume, this) => {
            defects.push("it holds no data, and was made after the others: a reinstall makes such ones".into());
        }
        Filled::Empty => defects.push("it holds no data".into()),
        Filled::MadeAnew if replica.made().is_some() => defects.push(
            "it was made after the others were last written, and holds little: a new volume under the old name".into(),
        ),
        Filled::MadeAnew => defects.push(
            "nothing in it is known to be older than the others' last write, and it holds little: perhaps a new volume \
             under the old name"
                .into(),
        ),
        Filled::Filled => {}
    }
    defects.extend(volume.siblings.half_filled(this).map(|(snapshot, least)| {
        format!(
            "snapshot {} takes {} bytes on the disk, and {least} or more in every other: it was not filled to \
             its end, or was trimmed since",
            snapshot.name, snapshot.allocated_bytes
        )
    }));
    defects
}

/// Whether a replica was made after all those that hold anything: their lowest layers began before what is said of them.
pub(super) fn made_after_others(volume: &Volume<'_>, this: usize) -> bool {
    let Some(made) = volume.replicas[this].made() else { return false };
    let others = volume.replicas.iter().enumerate().filter(|&(i, other)| i != this && !other.is_empty());
    others.map(|(_, other)| other.began).all(|began| began.is_some_and(|began| began < made))
}

/// What made `best` the best, over the next one.
fn advantage(volume: &Volume<'_>, standings: &[Standing], best: usize, rival: Option<usize>) -> String {
    let Some(rival) = rival else { return "it is the only one found".into() };
    if !standings[rival].is_trustworthy() {
        return "it is the only one that can be trusted".into();
    }
    let (this, other) = (volume.replicas[best], volume.replicas[rival]);
    let label = volume.label(rival);
    match decider(&standings[best], &standings[rival]) {
        Decider::Complete => format!("its snapshots are filled, and not all of those of {label} are"),
        Decider::History => match volume.histories.compare(best, rival) {
            Compared::Ahead(newest) | Compared::Parted(newest, _) => {
                format!("it has snapshot {}, which {label} lacks", newest.name)
            }
            _ => "its snapshot history goes furthest".into(),
        },
        Decider::Revision => {
            format!("it saw the most writes: its revision counter is {}", standings[best].revision)
        }
        Decider::HeadTime => match later_by(this, other) {
            Some(seconds) if seconds > 0 => {
                format!("its head was written last, {seconds} s after that of {label}")
            }
            _ => "its head was written last".into(),
        },
        Decider::HeadSize => {
            format!("its head was written last, at the same time as that of {label}, and holds more")
        }
        Decider::Sums => "it is as new as the next one, and its checksums pass".into(),
        Decider::Clean => "it is as new as the next one, and was closed".into(),
        Decider::Bytes => "it is as new as the next one, and holds more".into(),
        _ => format!("it is as good as {label}"),
    }
}

/// What keeps `this` behind the best.
fn disadvantage(volume: &Volume<'_>, standings: &[Standing], best: usize, this: usize) -> Option<String> {
    let (ours, winner) = (volume.replicas[this], volume.replicas[best]);
    let label = volume.label(best);
    // Said whatever else is wrong with it: what it lacks is what one would lose with it.
    if let Compared::Behind(newest) = volume.histories.compare(this, best) {
        let taken = newest.created.map(|at| format!(" (taken {at})")).unwrap_or_default();
        return Some(format!("it lacks snapshot {}{taken}, which {label} has", newest.name));
    }
    if let Compared::Parted(ours, theirs) = volume.histories.compare(this, best) {
        return Some(format!("it has snapshot {}, and lacks {}, which {label} has", ours.name, theirs.name));
    }
    Some(match decider(&standings[best], &standings[this]) {
        Decider::Chain | Decider::State | Decider::Intact | Decider::Filled | Decider::Complete => {
            return None;
        }
        Decider::History => "its snapshot history does not go as far".into(),
        Decider::Revision => {
            let missed = standings[best].revision.saturating_sub(standings[this].revision);
            format!("it missed {missed} writes that {label} saw, by the revision counters")
        }
        Decider::HeadTime => match later_by(winner, ours) {
            Some(seconds) if seconds > 0 => {
                format!("its head was last written {seconds} s before that of {label}")
            }
            Some(_) => format!("its head was last written less than a second before that of {label}"),
            None => "nothing tells when its head was last written".into(),
        },
        Decider::HeadSize => format!(
            "its head takes {} bytes on the disk, that of {label} {}",
            ours.head_allocated_bytes, winner.head_allocated_bytes
        ),
        Decider::Sums => "not all of its checksums pass, or it has none".into(),
        Decider::Clean => "it was not closed".into(),
        Decider::Bytes => {
            format!("it holds less: {} bytes, {} in {label}", ours.allocated_bytes, winner.allocated_bytes)
        }
        Decider::Place => format!("as good as {label}"),
    })
}

/// By how many seconds the head of `this` was written after that of `other`.
pub(super) fn later_by(this: &Evidence, other: &Evidence) -> Option<i64> {
    Some(this.head_modified?.as_second() - other.head_modified?.as_second())
}

/// Checksums that fail without proving anything.
pub(super) fn stale_sums(replica: &Evidence) -> Option<String> {
    let stale =
        replica.snapshots.iter().filter(|s| sums::fails(s) && s.change_time_equal != Some(true)).count();
    (stale > 0).then(|| {
        let what = if stale == 1 {
            "a recorded checksum does".into()
        } else {
            format!("{stale} recorded checksums do")
        };
        format!("{what} not match, and the file was touched since: stale, or damage")
    })
}
