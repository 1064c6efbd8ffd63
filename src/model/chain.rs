//! The chain: from a top layer down through its parents to the lowest.
//!
//! Parent links are the only truth about it. Names, numbers and times prove nothing: head numbers wrap, branches
//! stay behind after a revert, and system snapshots share a second. The engine does not look for cycles (one
//! hangs it); here every chain ends.

use std::collections::HashSet;
use std::fmt;

use crate::format::names;
use crate::model::units::MAX_CHAIN_DISKS;

/// How many layers of a chain are followed before it is given up: enough to tell a long chain from a cycle, and
/// little enough that a hostile directory cannot keep us busy.
pub const FOLLOWED_AT_MOST: usize = 4 * MAX_CHAIN_DISKS;

/// Where a layer's parent link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// Nowhere: this is the lowest layer.
    Lowest,
    /// To this layer.
    Parent(&'a str),
    /// The layer has no metadata.
    NoMeta,
    /// The layer's metadata cannot be used.
    DamagedMeta,
}

/// Why a chain cannot be followed to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainFault {
    /// A layer's metadata is missing; `child` names it as parent, unless it is the top.
    NoMeta {
        /// The layer without metadata.
        layer: String,
        /// Whose parent it is.
        child: Option<String>,
    },
    /// A layer's metadata cannot be used, so what is below it is not known.
    DamagedMeta {
        /// The layer.
        layer: String,
    },
    /// A layer names itself as its parent.
    SelfParent {
        /// The layer.
        layer: String,
    },
    /// The chain comes back to a layer it has passed.
    Cycle {
        /// The layers of the cycle, top first.
        layers: Vec<String>,
    },
    /// A name that is not a plain file name: it could lead out of the directory.
    UnsafeName {
        /// The name.
        name: String,
        /// Whose parent it is.
        child: Option<String>,
    },
    /// More layers than the engine takes.
    TooLong {
        /// How many; counting stops at [`FOLLOWED_AT_MOST`].
        layers: usize,
    },
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChainFault::NoMeta { layer, child: Some(child) } => {
                write!(f, "broken chain: the metadata of {layer}, parent of {child}, is missing")
            }
            ChainFault::NoMeta { layer, child: None } => {
                write!(f, "broken chain: the metadata of {layer} is missing")
            }
            ChainFault::DamagedMeta { layer } => {
                write!(f, "broken chain: the metadata of {layer} cannot be used")
            }
            ChainFault::SelfParent { layer } => write!(f, "broken chain: {layer} is its own parent"),
            ChainFault::Cycle { layers } => {
                let first = layers.first().map_or("", String::as_str);
                write!(
                    f,
                    "broken chain: {} layers are each other's parents, among them {first}",
                    layers.len()
                )
            }
            ChainFault::UnsafeName { name, child } => {
                let name = name.chars().take(80).collect::<String>();
                write!(f, "broken chain: {name:?}")?;
                if let Some(child) = child {
                    write!(f, ", parent of {child},")?;
                }
                f.write_str(" is not a plain file name")
            }
            ChainFault::TooLong { layers } => {
                let more = if *layers == FOLLOWED_AT_MOST { " and more" } else { "" };
                write!(f, "the chain has {layers}{more} layers; the engine takes at most {MAX_CHAIN_DISKS}")
            }
        }
    }
}

/// A chain as far as it can be followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// File names of the layers, top first.
    pub layers: Vec<String>,
    /// Why it does not end as it should.
    pub fault: Option<ChainFault>,
}

impl Chain {
    /// Follows the chain from `top` down, asking `link` for each layer.
    pub fn follow<'a>(top: &'a str, link: impl Fn(&str) -> Link<'a>) -> Chain {
        let mut chain = Chain::default();
        let mut passed = HashSet::new();
        let mut layer = top;
        loop {
            let child = chain.layers.last().cloned();
            if !names::is_plain(layer) {
                chain.fault = Some(ChainFault::UnsafeName { name: layer.to_owned(), child });
                return chain;
            }
            if !passed.insert(layer) {
                chain.fault = Some(chain.comes_back_to(layer));
                return chain;
            }
            let below = match link(layer) {
                Link::NoMeta => {
                    chain.fault = Some(ChainFault::NoMeta { layer: layer.to_owned(), child });
                    return chain;
                }
                Link::DamagedMeta => {
                    chain.layers.push(layer.to_owned());
                    chain.fault = Some(ChainFault::DamagedMeta { layer: layer.to_owned() });
                    return chain;
                }
                Link::Lowest => None,
                Link::Parent(parent) => Some(parent),
            };
            chain.layers.push(layer.to_owned());
            match below {
                Some(parent) if chain.layers.len() < FOLLOWED_AT_MOST => layer = parent,
                _ => break,
            }
        }
        if chain.layers.len() > MAX_CHAIN_DISKS {
            chain.fault = Some(ChainFault::TooLong { layers: chain.layers.len() });
        }
        chain
    }

    fn comes_back_to(&self, layer: &str) -> ChainFault {
        let start = self.layers.iter().position(|passed| passed == layer).unwrap_or_default();
        match &self.layers[start..] {
            [only] => ChainFault::SelfParent { layer: only.clone() },
            cycle => ChainFault::Cycle { layers: cycle.to_vec() },
        }
    }

    /// Whether `layer` is on it.
    pub fn contains(&self, layer: &str) -> bool {
        self.layers.iter().any(|on| on == layer)
    }

    /// Whether it can be followed to its end.
    pub fn is_whole(&self) -> bool {
        self.fault.is_none()
    }
}

/// Why no one snapshot was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// Nothing is called so.
    Nothing,
    /// All of these could be meant.
    Ambiguous(Vec<String>),
}

/// The layer that `wanted` means among `disks` (file names): a file name, a snapshot's name, or the beginning of
/// either, if only one begins so. Heads are found by their full file name.
///
/// # Errors
/// When none or several could be meant.
pub fn find_snapshot<'a>(
    wanted: &str,
    disks: impl Iterator<Item = &'a str> + Clone,
) -> Result<&'a str, NotFound> {
    let exactly = |disk: &str| disk == wanted || names::snapshot_name(disk) == Some(wanted);
    if let Some(found) = disks.clone().find(|disk| exactly(disk)) {
        return Ok(found);
    }
    let begins = |disk: &str| {
        names::snapshot_name(disk).is_some_and(|name| name.starts_with(wanted) || disk.starts_with(wanted))
    };
    let candidates = disks.filter(|disk| !wanted.is_empty() && begins(disk)).collect::<Vec<_>>();
    match candidates[..] {
        [] => Err(NotFound::Nothing),
        [only] => Ok(only),
        _ => Err(NotFound::Ambiguous(candidates.into_iter().map(str::to_owned).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn follow(links: &[(&'static str, &'static str)], top: &'static str) -> Chain {
        let links: HashMap<_, _> = links.iter().copied().collect();
        Chain::follow(top, |layer| match links.get(layer) {
            None => Link::NoMeta,
            Some(&"") => Link::Lowest,
            Some(&"!") => Link::DamagedMeta,
            Some(parent) => Link::Parent(parent),
        })
    }

    #[test]
    fn parents_make_the_chain() {
        let chain = follow(&[("h", "b"), ("b", "a"), ("a", ""), ("branch", "a")], "h");
        assert_eq!(chain, Chain { layers: vec!["h".into(), "b".into(), "a".into()], fault: None });
    }

    #[test]
    fn every_way_to_break_has_its_name() {
        let fault = |links, top| follow(links, top).fault.unwrap();
        assert_eq!(
            fault(&[("h", "b")], "h"),
            ChainFault::NoMeta { layer: "b".into(), child: Some("h".into()) }
        );
        assert_eq!(fault(&[], "h"), ChainFault::NoMeta { layer: "h".into(), child: None });
        assert_eq!(fault(&[("h", "a"), ("a", "a")], "h"), ChainFault::SelfParent { layer: "a".into() });
        assert_eq!(
            fault(&[("h", "b"), ("b", "a"), ("a", "b")], "h"),
            ChainFault::Cycle { layers: vec!["b".into(), "a".into()] }
        );
        assert_eq!(fault(&[("h", "a"), ("a", "!")], "h"), ChainFault::DamagedMeta { layer: "a".into() });
        for name in ["../a", "/etc/passwd", "a\0", ".."] {
            let unsafe_name = follow(&[("h", name)], "h").fault;
            assert!(matches!(unsafe_name, Some(ChainFault::UnsafeName { .. })), "{name:?}");
        }
    }

    #[test]
    fn the_engines_limit_counts_the_head() {
        let names: Vec<String> = (0..=MAX_CHAIN_DISKS).map(|i| format!("l{i}")).collect();
        let chain_of = |disks: usize| {
            Chain::follow(&names[disks - 1], |layer| match layer[1..].parse::<usize>().unwrap() {
                0 => Link::Lowest,
                i => Link::Parent(&names[i - 1]),
            })
        };
        assert!(chain_of(MAX_CHAIN_DISKS).is_whole());
        assert_eq!(chain_of(MAX_CHAIN_DISKS + 1).fault, Some(ChainFault::TooLong { layers: 251 }));
    }

    proptest! {
        #[test]
        fn every_chain_ends(parents in proptest::collection::vec(proptest::option::of(0usize..40), 40), top in 0usize..40) {
            let names: Vec<String> = (0..40).map(|i| i.to_string()).collect();
            let chain = Chain::follow(&names[top], |layer| match parents[layer.parse::<usize>().unwrap()] {
                None => Link::Lowest,
                Some(parent) => Link::Parent(&names[parent]),
            });
            prop_assert!(chain.layers.len() <= 40);
            let distinct: HashSet<_> = chain.layers.iter().collect();
            prop_assert_eq!(distinct.len(), chain.layers.len());
        }
    }

    #[test]
    fn snapshots_are_found_by_name_file_or_unique_beginning() {
        let disks =
            ["volume-head-001.img", "volume-snap-day.img", "volume-snap-daily-1.img", "volume-snap-x.img"];
        let find = |wanted| find_snapshot(wanted, disks.iter().copied());
        assert_eq!(find("day"), Ok(disks[1]));
        assert_eq!(find("daily"), Ok(disks[2]));
        assert_eq!(find("volume-snap-x.img"), Ok(disks[3]));
        assert_eq!(find("volume-snap-daily"), Ok(disks[2]));
        assert_eq!(find("volume-head-001.img"), Ok(disks[0]));
        assert_eq!(find("da"), Err(NotFound::Ambiguous(vec![disks[1].into(), disks[2].into()])));
        for nothing in ["", "y", "volume-head-0", "../x"] {
            assert_eq!(find(nothing), Err(NotFound::Nothing), "{nothing}");
        }
    }
}
