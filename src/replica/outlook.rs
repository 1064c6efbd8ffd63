//! What metadata alone says of the state at the head: no data is opened, so thousands can be asked for.

use crate::format::names::snapshot_name;
use crate::model::chain::Chain;
use crate::model::evidence::{ChainState, VolumeState};
use crate::replica::inventory::Doc;
use crate::replica::source::{SourceOptions, is_lost};
use crate::replica::{ReplicaDir, head};

/// What may be expected of a replica.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// The head's file name; the proposed one when `volume.meta` cannot tell.
    pub head: Option<String>,
    /// The volume's size in bytes; that of the head's file when `volume.meta` cannot tell.
    pub size_bytes: Option<u64>,
    /// The chain from the head down, as far as it can be followed.
    pub layers: Vec<String>,
    /// Whether that is to its end.
    pub chain: ChainState,
    /// What `volume.meta` says of its state.
    pub state: VolumeState,
    /// What is wrong, as sentences without a full stop.
    pub trouble: Vec<String>,
}

impl ReplicaDir {
    /// What may be expected of the state at the head.
    pub fn outlook(&self) -> Outlook {
        let inventory = self.inventory();
        let mut trouble = Vec::new();
        let state = match &inventory.volume_meta {
            _ if inventory.told().is_some_and(|meta| meta.rebuilding) => VolumeState::Rebuilding,
            Doc::Good(meta) if !meta.error.is_empty() => {
                trouble.push(format!("the engine gave it up: {}", meta.error));
                VolumeState::GivenUp
            }
            Doc::Good(_) => VolumeState::Sound,
            unusable => {
                let why = unusable.trouble().unwrap_or_default();
                trouble.push(format!("volume.meta {why}: whether it was being rebuilt is not known"));
                VolumeState::Unknown
            }
        };
        let decided = self.decide(&SourceOptions::default());
        let (head, size_bytes) = match (&decided, inventory.volume_meta.good()) {
            (Ok(decision), _) => (Some(decision.view.file().to_owned()), Some(decision.volume_bytes)),
            (Err(_), None) => head::propose(inventory).map(|p| (p.head, p.size_bytes)).unzip(),
            (Err(e), Some(meta)) => {
                trouble.push(e.what().to_owned());
                (Some(meta.head.clone()), u64::try_from(meta.size_bytes).ok())
            }
        };
        let undecided = decided.is_err() && inventory.volume_meta.good().is_some();
        let (layers, fault) = match &head {
            Some(head) => {
                let chain = self.chain_from(head);
                let fault = self.chain_fault(&chain);
                (chain.layers, fault)
            }
            None => (Vec::new(), Some("there is no head with data and metadata".to_owned())),
        };
        let chain = if undecided || fault.is_some() {
            ChainState::Broken
        } else if let Err(e) = self.find_backing(&SourceOptions::default()) {
            trouble.push(e.what().to_owned());
            ChainState::BackingMissing
        } else {
            ChainState::Whole
        };
        trouble.extend(fault.filter(|_| !undecided));
        Outlook { head, size_bytes, layers, chain, state, trouble }
    }

    /// Why the chain cannot be read to its end.
    fn chain_fault(&self, chain: &Chain) -> Option<String> {
        if let Some(fault) = &chain.fault {
            return Some(fault.to_string());
        }
        let mut disks = chain.layers.iter().filter_map(|name| self.inventory().disks.get(name));
        disks.find_map(|disk| {
            let gone = disk.image.is_some_and(|image| !image.regular) || is_lost(self.inventory(), disk);
            let name =
                snapshot_name(&disk.name).map_or("the head".to_owned(), |name| format!("snapshot {name}"));
            gone.then(|| format!("broken chain: the data of {name} is missing"))
        })
    }
}
