//! A listing as a manifest has it.

use std::collections::HashMap;

use crate::engine::layer_digest::Content;
use crate::error::{Error, Result};
use crate::format::copy::manifest::{
    self, CopiedContent, CopiedFile, CopyKind, CopyManifest, FileKind, SCHEMA_VERSION,
};
use crate::replica::listing::{Listed, Listing, What};
use crate::sys::attributes::{self, Attributes, Xattrs};
use crate::workflow::preserve::original::Original;

/// What a file of `content` is in a manifest, as a copy with this digest.
pub fn content(
    size_bytes: u64,
    content: Content,
    unwritten_as_zeros: bool,
    digest: Option<String>,
) -> CopiedContent {
    CopiedContent {
        size_bytes,
        extents: content.extents,
        data_bytes: content.data_bytes,
        unwritten_bytes: content.unwritten_bytes,
        unwritten_as_zeros,
        digest,
    }
}

/// The manifest of a copy of `original`, whose files hold `contents`.
pub fn manifest(
    original: &Original<'_>,
    kind: CopyKind,
    contents: &HashMap<&str, CopiedContent>,
) -> CopyManifest {
    let mut manifest = outline(&original.listing, kind, original.path.display().to_string());
    for file in &mut manifest.files {
        file.content = contents.get(file.name.as_str()).cloned();
    }
    manifest
}

/// A manifest as it is kept.
///
/// # Errors
/// When it cannot be said in JSON; none of ours cannot.
pub fn text(manifest: &CopyManifest) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(manifest)
        .map_err(|e| Error::output("cannot write the manifest").caused_by(e.into()))?;
    text.push(b'\n');
    Ok(text)
}

/// The manifest of what is listed, with no contents yet.
pub fn outline(listing: &Listing, kind: CopyKind, source: String) -> CopyManifest {
    let mut files: Vec<_> = listing.files.iter().map(outlined).collect();
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    CopyManifest {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION").to_owned(),
        source,
        kind,
        directory: attributes_of(&listing.directory, &listing.directory_xattrs),
        files,
    }
}

fn outlined(file: &Listed) -> CopiedFile {
    let (kind, target, attributes) = match &file.what {
        What::File(xattrs) => (FileKind::File, None, Some(attributes_of(&file.attributes, xattrs))),
        What::Link(of) => (FileKind::Link, Some(of.clone()), None),
        What::Symlink(target) => {
            (FileKind::Symlink, Some(target.clone()), Some(attributes_of(&file.attributes, &Xattrs::new())))
        }
    };
    CopiedFile { name: file.name.clone(), kind, target, attributes, content: None }
}

fn attributes_of(attributes: &Attributes, xattrs: &Xattrs) -> manifest::Attributes {
    let hex = |(name, value): (&std::ffi::OsString, &Vec<u8>)| {
        (name.to_string_lossy().into_owned(), attributes::to_hex(value))
    };
    manifest::Attributes {
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        modified_seconds: attributes.modified.0,
        modified_nanoseconds: attributes.modified.1,
        xattrs: xattrs.iter().map(hex).collect(),
    }
}
