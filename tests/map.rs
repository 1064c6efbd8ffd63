//! `lhrecover map`: the picture is drawn from the figures of `inspect`, looks right in a real browser, and holds nothing
//! but text of what is on the disk. No source is changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::browser::{self, Browser, Light};
use common::chain::{Chain, Mark, edit, image, snapshot};
use common::cli::{Ran, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::{fixture, scratch, text};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// Draws between two fingerprints of the replica.
#[track_caller]
fn map(dir: &Path, more: &[&str]) -> Ran {
    let before = Fingerprint::of(dir);
    let ran = lhrecover(&[&["map", text(dir), "--progress", "none"], more].concat());
    before.assert_unchanged(dir, &more.join(" "));
    ran
}

fn inspect(dir: &Path) -> Value {
    lhrecover(&["inspect", text(dir), "--json"]).json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}
