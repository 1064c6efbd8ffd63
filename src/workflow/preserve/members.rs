//! What an archive holds, member by member, held against its own manifest: names, links, attributes, digests.

use std::collections::HashMap;
use std::io::Read;

use crate::engine::archive::ArchivedLayer;
use crate::engine::archive::read::{ArchiveReader, Member, Stored};
use crate::engine::buffer::Buffer;
use crate::engine::layer_digest::{LayerDigest, WindowDigests, window_digest};
use crate::engine::pipeline::BUFFER_BYTES;
use crate::engine::windows::Windows;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::format::copy::manifest::{self, CopyManifest};
use crate::format::copy::{MANIFEST_NAME, is_ours};
use crate::replica::listing::{Listed, Listing, What, order};
use crate::sys::attributes::{Attributes, FileType};
use crate::sys::dir::FileId;
use crate::view::LayerImage;
use crate::workflow::preserve::describe;

/// What is done with each regular file; returns its digest, as it is in the archive.
pub type Take<'a> = dyn FnMut(&Listed, &ArchivedLayer<'_>) -> Result<LayerDigest> + 'a;

/// The names so far, with the attributes of those that are files.
type Names = HashMap<String, Option<Attributes>>;

/// Reads an archive to its end, and gives each regular file in it to `take`. Returns what it lists, and its manifest.
///
/// # Errors
/// `Source` when it is damaged, cut off, or not what its manifest says; what `take` fails with.
pub fn walk(from: impl Read + Send, take: &mut Take<'_>) -> Result<(Listing, CopyManifest)> {
    let mut reader = ArchiveReader::new(from);
    let mut listing: Option<Listing> = None;
    // Names, and the attributes of the files among them.
    let mut names: Names = HashMap::new();
    let mut digests = HashMap::new();
    while let Some(member) = reader.next_member()? {
        let number = names.len() as u64;
        let Some(listing) = &mut listing else {
            listing = Some(directory(member)?);
            continue;
        };
        if let (MANIFEST_NAME, Stored::File(map)) = (member.name.as_str(), &member.what) {
            let manifest = reader.with_file(MANIFEST_NAME, map, manifest_in)?;
            if reader.next_member()?.is_some() {
                return Err(not_right("something comes after its manifest"));
            }
            compare(listing, &manifest, &digests)?;
            listing.files.sort_by_cached_key(|file| order(&file.name));
            return Ok((listing.clone(), manifest));
        }
        let listed = listed(&member, number, &names)?;
        let file = matches!(listed.what, What::File(_)).then_some(listed.attributes);
        if is_ours(&member.name) || names.insert(member.name.clone(), file).is_some() {
            return Err(not_right("it has a name twice, or one that is ours"));
        }
        if let Stored::File(map) = &member.what {
            let digest = reader.with_file(&member.name, map, |layer| take(&listed, layer))?;
            digests.insert(member.name.clone(), digest);
        }
        listing.files.push(listed);
    }
    Err(not_right("it has no manifest"))
}

/// The digest of a file whose bytes come once, in order.
///
/// # Errors
/// `Source` when the archive ends too early; interrupted when cancelled.
pub fn digest_in_order(layer: &ArchivedLayer<'_>, run: &Run<'_>) -> Result<LayerDigest> {
    let mut windows = Windows::of(layer)?;
    let mut digests = WindowDigests::default();
    let mut buffer = Buffer::new(BUFFER_BYTES);
    while let Some(window) = windows.next_window()? {
        let digest = window_digest(&window, &mut buffer, run, |buf, at| layer.read_exact_at(buf, at))?;
        digests.insert(&window, digest);
    }
    Ok(digests.finish(layer.size_bytes()))
}

fn directory(member: Member) -> Result<Listing> {
    if member.what != Stored::Directory {
        return Err(not_right("it does not begin with a directory"));
    }
    Ok(Listing {
        directory: attributes(&member, FileType::Directory, 0, 0),
        directory_xattrs: member.xattrs,
        files: Vec::new(),
        left_out: Vec::new(),
    })
}

fn listed(member: &Member, number: u64, before: &Names) -> Result<Listed> {
    let (what, kind, size_bytes) = match &member.what {
        Stored::Directory => return Err(not_right("it has a directory in it")),
        Stored::File(map) => (What::File(member.xattrs.clone()), FileType::Regular, map.size_bytes),
        Stored::Symlink(target) => (What::Symlink(target.clone()), FileType::Symlink, 0),
        Stored::Link(of) => {
            let file = before.get(of).copied().flatten();
            let file = file.ok_or_else(|| not_right("a link in it leads to no file before it"))?;
            let told = attributes(member, FileType::Regular, file.size_bytes, file.id.ino);
            if told != file {
                return Err(not_right("a link in it is not like the file it leads to"));
            }
            (What::Link(of.clone()), FileType::Regular, file.size_bytes)
        }
    };
    Ok(Listed { name: member.name.clone(), attributes: attributes(member, kind, size_bytes, number), what })
}

fn attributes(member: &Member, kind: FileType, size_bytes: u64, number: u64) -> Attributes {
    Attributes {
        id: FileId { dev: 0, ino: number },
        kind,
        size_bytes,
        mode: member.mode,
        uid: member.owner.0,
        gid: member.owner.1,
        modified: member.modified,
        changed: (0, 0),
    }
}

fn manifest_in(layer: &ArchivedLayer<'_>) -> Result<CopyManifest> {
    let length = usize::try_from(layer.size_bytes()).unwrap_or(usize::MAX);
    if layer.size_bytes() > manifest::MAX_BYTES {
        return Err(not_right("its manifest is too long"));
    }
    let mut bytes = Vec::new();
    // As many bytes as are there, and no more memory than that.
    while bytes.len() < length {
        let from = bytes.len();
        bytes.resize(length.min(from + BUFFER_BYTES), 0);
        layer.read_exact_at(&mut bytes[from..], from as u64)?;
    }
    CopyManifest::parse(&bytes).map_err(|why| not_right(&format!("its manifest {why}")))
}

/// Holds what was read against the manifest.
fn compare(listing: &Listing, manifest: &CopyManifest, digests: &HashMap<String, LayerDigest>) -> Result<()> {
    let found = describe::outline(listing, manifest.kind, manifest.source.clone());
    if found.files.len() != manifest.files.len() || found.directory != manifest.directory {
        return Err(not_right("it does not have what its manifest lists"));
    }
    for (found, told) in found.files.iter().zip(&manifest.files) {
        let same = (&found.name, found.kind, &found.target, &found.attributes)
            == (&told.name, told.kind, &told.target, &told.attributes);
        if !same {
            return Err(not_right("a file is not what its manifest says").in_layer(&found.name));
        }
        let digest = digests.get(&found.name).map(|found| found.digest.to_hex().to_string());
        let told_digest = told.content.as_ref().and_then(|content| content.digest.clone());
        if digest != told_digest {
            return Err(not_right("the bytes of a file are not those that its manifest has the digest of")
                .in_layer(&found.name));
        }
    }
    Ok(())
}

fn not_right(why: &str) -> Error {
    Error::source(format!("the archive cannot be used: {why}")).with_hint(
        "it is damaged, or was not made by lhrecover preserve --archive; copy it once more, or make another",
    )
}
