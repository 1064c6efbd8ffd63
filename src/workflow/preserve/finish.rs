//! The last steps of a copy: attributes, the manifest, the names, in an order in which it never looks finished before
//! it is.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::copy::MANIFEST_NAME;
use crate::format::copy::journal::Record;
use crate::format::copy::manifest::CopyManifest;
use crate::model::finding::{Code, Finding};
use crate::replica::listing::{Listing, What};
use crate::sink::copy_dir::CopyDir;
use crate::sys::attributes::{self, Attributes, Xattrs};
use crate::sys::dir::Dir;
use crate::workflow::preserve::describe;

/// Gives a complete file what it has besides its bytes, and brings it to the medium; returns what could not be set.
///
/// # Errors
/// `Output` when that fails.
pub fn dress(name: &str, file: &File, wanted: &Attributes, xattrs: &Xattrs) -> Result<Option<Finding>> {
    let fail = |what: &str, e| Error::output(what).in_layer(name).caused_by(e);
    let left = attributes::set(file, (wanted.uid, wanted.gid), wanted.mode, xattrs)
        .map_err(|e| fail("cannot set the mode of the copy", e))?;
    attributes::set_modified(file, wanted.modified)
        .map_err(|e| fail("cannot set the time of the copy", e))?;
    file.sync_all().map_err(|e| fail("cannot bring the copy to the medium", e))?;
    Ok(not_kept(name, &left))
}

/// Gives all files of the copy their names, `volume.meta` last, then the manifest; the journal goes away. Returns what
/// could not be set.
///
/// # Errors
/// `Output` when that fails; the next run finishes it.
pub fn name_all(dir: &CopyDir, listing: &Listing, manifest: &CopyManifest) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    write_manifest(dir, manifest)?;
    let is_file = |what: &What| matches!(what, What::File(_));
    let names = |files: bool| {
        let of_kind = listing.files.iter().filter(move |file| is_file(&file.what) == files);
        of_kind.map(|file| file.name.clone()).collect::<Vec<_>>()
    };
    dir.note(&Record::Naming { files: names(true), links: names(false) })?;
    dir.sync()?;
    for file in &listing.files {
        match &file.what {
            What::File(_) => dir.name(&file.name)?,
            What::Link(of) => dir.link(of, &file.name)?,
            What::Symlink(target) => {
                dir.symlink(target, &file.name)?;
                let path = dir.path().join(&file.name);
                let Attributes { uid, gid, modified, .. } = file.attributes;
                let left = attributes::set_symlink(&path, (uid, gid), modified).map_err(|e| {
                    Error::output("cannot set the time of the link").with_path(&path).caused_by(e)
                })?;
                findings.extend(not_kept(&file.name, &left));
            }
        }
    }
    dir.sync()?;
    dir.name(MANIFEST_NAME)?;
    dir.finish()?;
    findings.extend(dress_directory(dir.path(), listing)?);
    Ok(findings)
}

fn write_manifest(dir: &CopyDir, manifest: &CopyManifest) -> Result<()> {
    let fail = |e| Error::output("cannot write the manifest").with_path(dir.path()).caused_by(e);
    let text = describe::text(manifest)?;
    let mut file = dir.create(MANIFEST_NAME, 0)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(fail)
}

/// The directory's own attributes come last: every name in it changes its time.
fn dress_directory(path: &Path, listing: &Listing) -> Result<Option<Finding>> {
    let fail = |e| Error::output("cannot set the mode or time of the directory").with_path(path).caused_by(e);
    let dir = Dir::open(path).map_err(fail)?;
    let Attributes { uid, gid, mode, modified, .. } = listing.directory;
    let left = attributes::set(&dir, (uid, gid), mode, &listing.directory_xattrs).map_err(fail)?;
    attributes::set_modified(&dir, modified).map_err(fail)?;
    File::open(path).and_then(|dir| dir.sync_all()).map_err(fail)?;
    Ok(not_kept("the directory", &left))
}

fn not_kept(name: &str, left: &[String]) -> Option<Finding> {
    (!left.is_empty()).then(|| {
        Finding::new(
            Code::AttributesNotKept,
            format!("{name} could not be given: {}", left.join(", ")),
            "the data is not touched by it; an engine needs the files to be root's",
        )
        .on(name)
        .advise("run as root, on a file system that has owners and extended attributes; or note it down")
    })
}
