//! Opening a backing image, whose format nothing but its first bytes tells.
//!
//! The engine asks `qemu-img info` and takes raw and qcow2 (`pkg/backingfile` in longhorn-engine 1.12). Whatever
//! is not known by a magic number is raw; so an image in one of the other formats `qemu-img` knows must not
//! pass for one, or the volume would be built on its metadata.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::format::qcow2;
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;
use crate::view::qcow2::Qcow2Image;

/// The engine opens no backing image whose size is not a multiple of this.
const SIZE_UNIT_BYTES: u64 = 512;

/// What other image formats are known by, and where it stands.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
];

/// What to do about a file of a size that no backing image has.
const CUT_SHORT: &str =
    "the file was probably cut short: take it from another node, or from where it was downloaded";

/// How much of the file's beginning the magic numbers need.
const BEGINNING_BYTES: usize = 68;

/// Opens a backing image of either format the engine reads. `name` is for messages.
///
/// # Errors
/// When the file cannot be read, has a format the engine does not read, has a size no backing image has, or is a
/// qcow2 image that is damaged or needs another file.
pub fn open_backing(name: String, file: File) -> Result<Box<dyn LayerImage>> {
    let image = open("backing image", name, file).map_err(|e| {
        let converts = e.hint().is_some_and(|hint| hint.contains("qemu-img convert"));
        e.and(if converts {
            "name that copy with --backing-file, if this is the right file at all"
        } else {
            "is it the right file? if so, a copy made with `qemu-img convert -O raw` can be named with --backing-file"
        })
    })?;
    if image.size_bytes() == 0 {
        return Err(Error::source("backing image of no bytes at all")
            .in_layer(image.name())
            .with_hint(CUT_SHORT));
    }
    if !image.size_bytes().is_multiple_of(SIZE_UNIT_BYTES) {
        return Err(Error::source(format!(
            "backing image of {} bytes, which is no multiple of {SIZE_UNIT_BYTES}",
            image.size_bytes()
        ))
        .in_layer(image.name())
        .with_hint(CUT_SHORT));
    }
    Ok(image)
}

/// Opens an image of a whole volume, in either of the same formats.
///
/// # Errors
/// When the file cannot be read, has another format, or is a qcow2 image that is damaged or needs another file.
pub fn open_flat(name: String, file: File) -> Result<Box<dyn LayerImage>> {
    open("image", name, file)
}

fn open(what: &str, name: String, file: File) -> Result<Box<dyn LayerImage>> {
    let start = beginning(&file)
        .map_err(|e| Error::source(format!("cannot read the {what}")).in_layer(&name).caused_by(e))?;
    let foreign =
        FOREIGN.iter().find(|(at, magic, _)| start.get(*at..).is_some_and(|s| s.starts_with(magic)));
    if let Some((_, _, format)) = foreign {
        return Err(Error::source(format!("{what} in {format} format, where raw and qcow2 can be read"))
            .in_layer(&name)
            .with_hint("`qemu-img convert -O raw` makes a copy that can be read"));
    }
    if start.starts_with(&qcow2::MAGIC) {
        return Ok(Box::new(Qcow2Image::open(name, file)?));
    }
    Ok(Box::new(LayerFile::new(name, file)?))
}

/// The file's first bytes; fewer than [`BEGINNING_BYTES`] if it has no more.
fn beginning(file: &File) -> io::Result<Vec<u8>> {
    let mut start = vec![0; BEGINNING_BYTES];
    let mut done = 0;
    while done < start.len() {
        match file.read_at(&mut start[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    start.truncate(done);
    Ok(start)
}
