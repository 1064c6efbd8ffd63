//! Which head, and how large a volume, when `volume.meta` cannot tell.
//!
//! The engine takes the first file whose name contains `volume-head`, which after a crash is usually the old
//! one. Here the heads compete: on whether their chain is whole, whether one is really a snapshot's file, what
//! they hold and when they began. The number in the name is not looked at. It stays a proposal: whether the
//! replica was being rebuilt, and whether there was a backing image, only `volume.meta` knew.

use jiff::Timestamp;

use crate::model::units::SECTOR_BYTES;
use crate::replica::inventory::{Disk, Inventory};
use crate::replica::source::is_lost;

/// A head and a size that a person may choose, and what speaks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The head's file name.
    pub head: String,
    /// The volume's size in bytes.
    pub size_bytes: u64,
    /// What speaks for them, as a sentence without a full stop.
    pub why: String,
}

/// A head's claim; the fields are in order of weight, and the greatest claim wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Its chain can be followed to the end, and no layer of it has lost its data.
    chain_whole: bool,
    /// It is not also a snapshot. Taking one links the head's file under the snapshot's name, so that a head
    /// with two names is the old one.
    only_a_head: bool,
    /// Something was written to it. A blank head that does not stand on the other's data has less to lose.
    written: bool,
    /// When it began.
    began: Option<Timestamp>,
    chain_layers: usize,
}

impl Claim {
    fn of(inventory: &Inventory, head: &Disk) -> Self {
        let chain = inventory.chain_from(&head.name);
        let mut layers = chain.layers.iter().filter_map(|name| inventory.disks.get(name));
        Claim {
            chain_whole: chain.is_whole() && !layers.any(|layer| is_lost(inventory, layer)),
            only_a_head: inventory.twins(head).next().is_none(),
            written: !head.is_blank(),
            began: head.meta.good().and_then(|meta| meta.created.parse().ok()),
            chain_layers: chain.layers.len(),
        }
    }

    /// Why this claim is greater than the other one, which is `loser`'s.
    fn beats(&self, other: &Claim, loser: &str) -> String {
        if self.chain_whole != other.chain_whole {
            format!("the chain of {loser} is broken, or lacks data")
        } else if self.only_a_head != other.only_a_head {
            format!("{loser} is the same file as a snapshot, so it is the old head")
        } else if self.written != other.written {
            format!("{loser} was never written to")
        } else if self.began != other.began {
            format!("it began later than {loser}")
        } else if self.chain_layers != other.chain_layers {
            format!("its chain is longer than that of {loser}")
        } else {
            format!("nothing tells it from {loser}: look at both")
        }
    }
}

/// Proposes a head and a size; `None` when there is no head with data and metadata.
pub fn propose(inventory: &Inventory) -> Option<Proposal> {
    let mut claims: Vec<_> = inventory
        .heads()
        .filter(|head| head.meta.good().is_some())
        .filter_map(|head| Some((Claim::of(inventory, head), head.kept_image().filter(|i| i.regular)?, head)))
        .collect();
    claims.sort_by(|a, b| b.0.cmp(&a.0));
    let (claim, image, head) = claims.first()?;
    let mut why = match claims.get(1) {
        None => "it is the only head with data and metadata".to_owned(),
        Some((other, _, loser)) => claim.beats(other, &loser.name),
    };
    // The engine makes every new head as large as the volume is then.
    let size_bytes = image.size_bytes / SECTOR_BYTES * SECTOR_BYTES;
    why.push_str("; the size is that of its file");
    if let Some(left) = &inventory.salvaged {
        let agrees = left.head == head.name && u64::try_from(left.size_bytes) == Ok(size_bytes);
        if agrees {
            why.push_str(", and what is left of volume.meta says the same");
        } else {
            why.push_str(&format!(
                ", but what is left of volume.meta says Head {:?}, Size {}",
                left.head, left.size_bytes
            ));
        }
    }
    Some(Proposal { head: head.name.clone(), size_bytes, why })
}

/// A size in bytes for a view that needs no head: the proposed head's, else that of the largest layer.
pub fn propose_size(inventory: &Inventory) -> Option<u64> {
    let largest = || inventory.disks.values().filter_map(|d| d.image.map(|i| i.size_bytes)).max();
    propose(inventory).map(|p| p.size_bytes).or_else(largest).filter(|&size| size > 0)
}
