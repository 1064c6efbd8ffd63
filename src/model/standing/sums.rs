//! What checksums prove, of one replica alone and among its siblings.
//!
//! A checksum that fails proves corruption only while the file has not been touched since it was hashed: purges,
//! unmaps and copies leave stale ones behind in healthy replicas (longhorn-engine keeps a checksum when a purge rewrites its file). A sibling can decide
//! instead: if its copy of the same layer still has the sum recorded for it, ours had it once, and lost it.

use std::collections::HashMap;

use crate::model::evidence::{Evidence, SnapshotEvidence, VolumeState};

/// Why a snapshot is proven to be corrupt, as a sentence without a full stop.
pub fn proof(snapshot: &SnapshotEvidence) -> Option<String> {
    let name = &snapshot.name;
    if let Some(why) = &snapshot.unreadable {
        return Some(format!("snapshot {name} cannot be read: {why}"));
    }
    if snapshot.change_time_equal != Some(true) {
        return None;
    }
    if fails(snapshot) {
        return Some(format!(
            "the checksum of snapshot {name} fails, and the file was not touched since it was taken"
        ));
    }
    let recorded_only = snapshot.silently_corrupted && snapshot.computed_crc64.is_none();
    recorded_only.then(|| format!("the engine itself found snapshot {name} to be corrupt"))
}

/// Whether the computed checksum is not the recorded one.
pub fn fails(snapshot: &SnapshotEvidence) -> bool {
    matches!((&snapshot.recorded_crc64, &snapshot.computed_crc64), (Some(r), Some(c)) if r != c)
}

/// Whether the computed checksum is the recorded one.
pub fn passes(snapshot: &SnapshotEvidence) -> bool {
    matches!((&snapshot.recorded_crc64, &snapshot.computed_crc64), (Some(r), Some(c)) if r == c)
}

/// What the siblings' copies of the same layers say.
pub struct Siblings<'a> {
    replicas: &'a [&'a Evidence],
    by_name: HashMap<&'a str, Vec<(usize, &'a SnapshotEvidence)>>,
}

/// With how many copies of a snapshot all others are compared.
const COMPARED_WITH: usize = 8;

/// Two copies of one snapshot may differ by this part of the larger one in what they take on the disk, and by so many
/// bytes: block sizes and what a file system needs for itself do. What differs by more is for a person.
pub(super) const LESS_PART: u64 = 16;
const LESS_BYTES: u64 = 1 << 20;

/// One that takes less than this part of what every other copy takes was not filled to its end.
const FAR_LESS_PART: u64 = 2;

/// Two copies of one snapshot that are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The snapshot.
    pub name: String,
    /// The two replicas.
    pub replicas: (usize, usize),
    /// What differs: `size` or `checksum`, and both values.
    pub what: String,
}

impl<'a> Siblings<'a> {
    /// Takes them from the evidence.
    pub fn new(replicas: &'a [&'a Evidence]) -> Self {
        let mut by_name: HashMap<&str, Vec<_>> = HashMap::new();
        for (i, replica) in replicas.iter().enumerate() {
            for snapshot in &replica.snapshots {
                by_name.entry(&snapshot.name).or_default().push((i, snapshot));
            }
        }
        Siblings { replicas, by_name }
    }

    /// Which sibling proves that a snapshot is corrupt: its copy of the same layer has the sum that is recorded there, and
    /// this one, of which nothing is recorded that it has, has another.
    pub fn disproved_by(&self, snapshot: &SnapshotEvidence) -> Option<usize> {
        if snapshot.computed_crc64.is_none() || passes(snapshot) {
            return None;
        }
        let copies = self.by_name.get(snapshot.name.as_str())?;
        // Where siblings agree with this one, the engine has changed it since: an unmap does.
        let alike = copies.iter().filter(|(_, copy)| copy.computed_crc64 == snapshot.computed_crc64).count();
        if alike > 1 {
            return None;
        }
        let decides = |copy: &SnapshotEvidence| comparable(snapshot, copy) && passes(copy);
        copies.iter().find(|(_, copy)| decides(copy)).map(|&(i, _)| i)
    }

    /// A live snapshot that was not filled to its end, or was trimmed since: every other copy takes far more on the disk. With
    /// it, the least that another one takes, in bytes.
    pub fn half_filled(&self, replica: usize) -> Option<(&'a SnapshotEvidence, u64)> {
        self.replicas[replica].live_chain().find_map(|snapshot| {
            let copies = self.by_name.get(snapshot.name.as_str())?.iter();
            // What is being filled is no measure.
            let filled = |i: usize| i != replica && self.replicas[i].state != VolumeState::Rebuilding;
            let others = copies.filter(|&&(i, copy)| filled(i) && comparable(snapshot, copy));
            let least = others.map(|(_, copy)| copy.allocated_bytes).min()?;
            let less_bytes = least.saturating_sub(snapshot.allocated_bytes);
            let is_far_less = less_bytes > LESS_BYTES && snapshot.allocated_bytes < least / FAR_LESS_PART;
            is_far_less.then_some((snapshot, least))
        })
    }

    /// Copies of one snapshot that should be the same and are not, each compared with the first of its name.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        let mut found = Vec::new();
        for (name, copies) in &self.by_name {
            for (n, &(i, one)) in copies.iter().enumerate() {
                let differs = |&(j, other): &(usize, &SnapshotEvidence)| {
                    difference(one, other).map(|what| Mismatch {
                        name: (*name).to_owned(),
                        replicas: (i, j),
                        what,
                    })
                };
                // One finding per copy that differs from an earlier one is enough to name all sides.
                found.extend(copies[n + 1..].iter().filter_map(differs).take(1));
                if n == COMPARED_WITH {
                    break;
                }
            }
        }
        found.sort_by(|a, b| (&a.name, a.replicas).cmp(&(&b.name, b.replicas)));
        found
    }
}

/// Whether two copies must have the same content: neither was on its way out, and neither took in another layer.
fn comparable(one: &SnapshotEvidence, other: &SnapshotEvidence) -> bool {
    !one.removed && !other.removed && one.parent == other.parent && one.size_bytes == other.size_bytes
}

fn difference(one: &SnapshotEvidence, other: &SnapshotEvidence) -> Option<String> {
    let sizes = one.size_bytes.zip(other.size_bytes).filter(|(a, b)| a != b);
    if let Some((a, b)) = sizes.filter(|_| !one.removed && !other.removed) {
        return Some(format!("its size is {a} bytes in the one and {b} in the other"));
    }
    let (less, more) =
        (one.allocated_bytes.min(other.allocated_bytes), one.allocated_bytes.max(other.allocated_bytes));
    if comparable(one, other) && more - less > LESS_BYTES.max(more / LESS_PART) {
        let (a, b) = (one.allocated_bytes, other.allocated_bytes);
        return Some(format!("it takes {a} bytes on the disk in the one and {b} in the other"));
    }
    let sums = sum(one).zip(sum(other)).filter(|(a, b)| a != b && comparable(one, other));
    sums.map(|(a, b)| format!("its checksum is {a} in the one and {b} in the other"))
}

/// What is known of a snapshot's present content: computed, or recorded and not touched since.
fn sum(snapshot: &SnapshotEvidence) -> Option<&str> {
    let recorded = snapshot.recorded_crc64.as_deref().filter(|_| snapshot.change_time_equal == Some(true));
    snapshot.computed_crc64.as_deref().or(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_snapshot_is_not_half_filled_by_what_file_systems_differ_in() {
        let with = |kib: u64| {
            let snapshot = SnapshotEvidence {
                name: "a".into(),
                live: true,
                allocated_bytes: kib << 10,
                ..SnapshotEvidence::default()
            };
            Evidence { snapshots: vec![snapshot], ..Evidence::default() }
        };
        for (kib, is_half_filled) in [(700, false), (100, true)] {
            let (this, other) = (with(kib), with(1500));
            let replicas = [&this, &other];
            assert_eq!(Siblings::new(&replicas).half_filled(0).is_some(), is_half_filled, "{kib} KiB");
        }
    }
}
