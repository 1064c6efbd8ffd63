//! Layers drawn as a tree, the newest on top, as logs of revisions are.
//!
//! ```text
//! * volume-head-007.img          the live chain is the trunk
//! * e
//! | * c                          a branch, beside the layer that it and the trunk stand on
//! |/
//! * b
//! * a
//! ```
//!
//! Layers that stand on nothing known follow under a heading of their own.

use std::collections::{HashMap, HashSet};

use crate::report::finding::printable;
use crate::report::inspect::{LayerReport, Place};

/// How deep branches of branches are drawn; deeper ones are listed flat.
const MAX_DEPTH: usize = 12;

/// One line of the drawing.
pub(super) struct Line<'a> {
    /// The lines of the tree, and the layer's name.
    pub(super) label: String,
    /// The layer, unless it is a line between layers.
    pub(super) layer: Option<&'a LayerReport>,
}

impl Line<'_> {
    /// How many columns the label takes.
    pub(super) fn width(&self) -> usize {
        self.label.chars().count()
    }
}

/// Draws the layers; each is on exactly one line.
pub(super) fn draw(layers: &[LayerReport]) -> Vec<Line<'_>> {
    let mut tree = Tree { children: HashMap::new(), drawn: HashSet::new(), lines: Vec::new() };
    for layer in layers.iter().filter(|layer| layer.place == Place::Branch) {
        if let Some(parent) = &layer.parent {
            tree.children.entry(parent).or_default().push(layer);
        }
    }
    let trunk: Vec<_> = layers.iter().filter(|layer| layer.place == Place::Live).collect();
    for layer in &trunk {
        tree.branches_on(layer, 0);
        tree.line(0, layer);
    }
    tree.rest("branches with a chain of their own", layers.iter().filter(|l| is_root(l)));
    tree.rest("branches that stand on nothing", layers.iter().filter(|l| l.place == Place::Branch));
    tree.rest("leftovers", layers.iter());
    tree.lines
}

/// Whether a branch layer is a lowest layer itself.
fn is_root(layer: &LayerReport) -> bool {
    layer.place == Place::Branch && layer.parent.as_deref() == Some("")
}

struct Tree<'a> {
    children: HashMap<&'a str, Vec<&'a LayerReport>>,
    drawn: HashSet<&'a str>,
    lines: Vec<Line<'a>>,
}

impl<'a> Tree<'a> {
    fn line(&mut self, depth: usize, layer: &'a LayerReport) {
        self.drawn.insert(&layer.file);
        let label = format!("{}* {}", "| ".repeat(depth), printable(&layer.name));
        self.lines.push(Line { label, layer: Some(layer) });
    }

    /// Draws what stands on `layer` beside its own line.
    fn branches_on(&mut self, layer: &LayerReport, depth: usize) {
        if depth >= MAX_DEPTH {
            return;
        }
        for branch in self.children.get(layer.file.as_str()).cloned().unwrap_or_default() {
            if self.branch(branch, depth + 1) {
                let joint = format!("{}|/", "| ".repeat(depth));
                self.lines.push(Line { label: joint, layer: None });
            }
        }
    }

    /// Draws the branch that begins with `first`: its newest layer on top, its own branches beside it.
    fn branch(&mut self, first: &'a LayerReport, depth: usize) -> bool {
        let mut stem = Vec::new();
        let mut next = Some(first);
        while let Some(layer) = next.filter(|layer| self.drawn.insert(&layer.file)) {
            stem.push(layer);
            next = self.children.get(layer.file.as_str()).and_then(|children| children.first().copied());
        }
        for layer in stem.iter().rev() {
            self.branches_on(layer, depth);
            self.line(depth, layer);
        }
        !stem.is_empty()
    }

    /// Draws those of `layers` that are not drawn yet, under a heading.
    fn rest(&mut self, heading: &str, layers: impl Iterator<Item = &'a LayerReport>) {
        let mut begun = false;
        for layer in layers {
            if self.drawn.contains(layer.file.as_str()) {
                continue;
            }
            if !begun {
                self.lines.push(Line { label: format!("{heading}:"), layer: None });
                begun = true;
            }
            match layer.place {
                Place::Branch => {
                    self.branch(layer, 0);
                }
                _ => self.line(0, layer),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, place: Place, parent: &str) -> LayerReport {
        LayerReport {
            file: name.into(),
            name: name.into(),
            place,
            parent: Some(parent.into()),
            ..LayerReport::holding(None)
        }
    }

    fn labels(layers: &[LayerReport]) -> Vec<String> {
        draw(layers).into_iter().map(|line| line.label).collect()
    }

    #[test]
    fn branches_hang_beside_the_layer_they_stand_on() {
        let layers = [
            layer("head", Place::Live, "b"),
            layer("b", Place::Live, "a"),
            layer("a", Place::Live, ""),
            layer("c", Place::Branch, "b"),
            layer("d", Place::Branch, "c"),
            layer("e", Place::Branch, "c"),
            layer("f", Place::Branch, "a"),
            layer("old", Place::Leftover, "f"),
        ];
        let drawn = [
            "* head",
            "| * d",
            "| | * e",
            "| |/",
            "| * c",
            "|/",
            "* b",
            "| * f",
            "|/",
            "* a",
            "leftovers:",
            "* old",
        ];
        assert_eq!(labels(&layers), drawn);
    }

    #[test]
    fn what_stands_on_nothing_and_cycles_are_drawn_too() {
        let layers = [
            layer("head", Place::Live, ""),
            layer("own", Place::Branch, ""),
            layer("on-own", Place::Branch, "own"),
            layer("x", Place::Branch, "y"),
            layer("y", Place::Branch, "x"),
        ];
        let mut drawn = labels(&layers);
        assert_eq!(drawn[..4], ["* head", "branches with a chain of their own:", "* on-own", "* own"]);
        drawn.sort();
        assert!(drawn.contains(&"* x".into()) && drawn.contains(&"* y".into()), "{drawn:?}");
        assert_eq!(drawn.len(), 7);
    }
}
