//! The chain: parent links of any kind come to an end. Errors are fine, panics and endless loops are bugs.
//!
//! And: no layer stands twice, every layer has a plain name, each but the last names the next as its parent, and a
//! chain without a fault ends at a lowest layer within the engine's limit.

#![no_main]

use std::collections::{HashMap, HashSet};

use arbitrary::Arbitrary;
use lhrecover::format::names::is_plain;
use lhrecover::model::chain::{Chain, ChainFault, Link};
use lhrecover::model::units::MAX_CHAIN_DISKS;
use libfuzzer_sys::fuzz_target;

/// Names are drawn from few, so that links meet; now and then one is hostile.
#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Layer(u8),
    FarLayer(u16),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Below<'a> {
    Parent(Name<'a>),
    Next,
    Lowest,
    Damaged,
}

fn text(name: &Name<'_>) -> String {
    match name {
        Name::Layer(n) => format!("volume-snap-{}.img", n % 16),
        Name::FarLayer(n) => format!("volume-snap-{}.img", n % 512),
        Name::Any(text) => (*text).to_owned(),
    }
}

fuzz_target!(|input: (Name<'_>, Vec<Below<'_>>)| {
    let (top, belows) = input;
    let links: HashMap<String, Option<String>> = belows
        .iter()
        .enumerate()
        .filter_map(|(i, below)| {
            let parent = match below {
                Below::Parent(name) => Some(text(name)),
                Below::Next => Some(format!("volume-snap-{}.img", i + 1)),
                Below::Lowest => Some(String::new()),
                Below::Damaged => None,
            };
            Some((format!("volume-snap-{i}.img"), parent))
        })
        .collect();
    let top = text(&top);
    let link = |layer: &str| match links.get(layer) {
        None => Link::NoMeta,
        Some(None) => Link::DamagedMeta,
        Some(Some(parent)) if parent.is_empty() => Link::Lowest,
        Some(Some(parent)) => Link::Parent(parent),
    };
    let chain = Chain::follow(&top, link);

    let distinct: HashSet<_> = chain.layers.iter().collect();
    assert_eq!(distinct.len(), chain.layers.len(), "a layer stands twice");
    assert!(chain.layers.iter().all(|layer| is_plain(layer)));
    for pair in chain.layers.windows(2) {
        assert_eq!(link(&pair[0]), Link::Parent(&pair[1]));
    }
    let last = chain.layers.last();
    match &chain.fault {
        None => {
            assert_eq!(link(last.unwrap()), Link::Lowest);
            assert!((1..=MAX_CHAIN_DISKS).contains(&chain.layers.len()));
        }
        Some(ChainFault::TooLong { layers }) => {
            assert!(*layers == chain.layers.len() && *layers > MAX_CHAIN_DISKS);
        }
        Some(ChainFault::UnsafeName { name, .. }) => assert!(!is_plain(name)),
        Some(ChainFault::NoMeta { layer, .. }) => assert!(!links.contains_key(layer)),
        Some(ChainFault::DamagedMeta { layer }) => assert_eq!(last, Some(layer)),
        Some(ChainFault::SelfParent { layer }) => assert_eq!(link(layer), Link::Parent(layer)),
        Some(ChainFault::Cycle { layers }) => {
            assert!(layers.len() > 1 && chain.layers.ends_with(layers));
            assert_eq!(link(last.unwrap()), Link::Parent(&layers[0]));
        }
    }
    if let Some(fault) = &chain.fault {
        assert!(!fault.to_string().is_empty());
    }
});
