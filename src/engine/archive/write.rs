//! Writes an archive, from its beginning to its end: to a file, or into a pipe.

use std::fmt::Write as _;

use tar::{EntryType, Header};

use crate::engine::archive::{DIRECTORY_NAME, MAX_RUNS, padding, pax};
use crate::engine::buffer::Buffer;
use crate::engine::layer_digest::{LayerDigest, WindowDigests, WindowHasher};
use crate::engine::pipeline::BUFFER_BYTES;
use crate::engine::windows::Windows;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::extent::{Extent, ExtentKind};
use crate::model::units::ByteRange;
use crate::sys::attributes::{self, Attributes, Xattrs};
use crate::view::LayerImage;

/// The largest number that the seven octal digits of an owner hold.
const MAX_OCTAL_OWNER: u32 = 0o777_7777;

/// The largest size that the eleven octal digits of a header hold.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// The longest name that a plain header holds.
const MAX_HEADER_NAME: usize = 100;

/// A block of zeros.
const ZEROS: [u8; 512] = [0; 512];

/// Takes the bytes of an archive, in order.
pub type Out<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// An archive in the making.
pub struct ArchiveWriter<'a> {
    out: &'a mut Out<'a>,
    held: Vec<u8>,
    run: &'a Run<'a>,
}

/// Where a member's bytes are, in one pass over its extents.
#[derive(Default)]
struct Layout {
    /// The map as it is written: the number of runs comes first, once it is known.
    map: String,
    runs: u64,
    data_bytes: u64,
    unwritten: String,
}

impl<'a> ArchiveWriter<'a> {
    /// An archive whose bytes go to `out`.
    pub fn new(out: &'a mut Out<'a>, run: &'a Run<'a>) -> Self {
        ArchiveWriter { out, held: Vec::with_capacity(2 * BUFFER_BYTES), run }
    }

    /// The directory itself, first of all.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn directory(&mut self, of: &Attributes, xattrs: &Xattrs) -> Result<()> {
        self.member(EntryType::Directory, DIRECTORY_NAME, of, xattrs, 0, &[])
    }

    /// A regular file; returns its digest, taken of what was written.
    ///
    /// # Errors
    /// `Source` when it cannot be read, `Refused` when it has more pieces than an archive takes; what the output fails
    /// with; interrupted when cancelled.
    pub fn file(
        &mut self,
        name: &str,
        of: &Attributes,
        xattrs: &Xattrs,
        layer: &dyn LayerImage,
    ) -> Result<LayerDigest> {
        let layout = Layout::of(layer, self.run)?;
        let size_bytes = layer.size_bytes();
        let whole = layout.data_bytes == size_bytes && layout.runs <= 1 && layout.unwritten.is_empty();
        if whole {
            self.member(EntryType::Regular, name, of, xattrs, size_bytes, &[])?;
            return self.data(layer, &layout);
        }
        let mut map = format!("{}\n{}", layout.runs, layout.map);
        let fill = usize::try_from(padding(map.len() as u64)).unwrap_or_default();
        map.extend(std::iter::repeat_n('\0', fill));
        let real_size = size_bytes.to_string();
        let mut records: Vec<(&str, &str)> = vec![
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", name),
            ("GNU.sparse.realsize", &real_size),
        ];
        if !layout.unwritten.is_empty() {
            records.push((pax::UNWRITTEN, &layout.unwritten));
        }
        let stored_bytes = map.len() as u64 + layout.data_bytes;
        self.member(
            EntryType::Regular,
            &format!("GNUSparseFile.0/{name}"),
            of,
            xattrs,
            stored_bytes,
            &records,
        )?;
        self.put(map.as_bytes())?;
        self.data(layer, &layout)
    }

    /// Another name of a file that was written before.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn link(&mut self, name: &str, target: &str, attributes: &Attributes) -> Result<()> {
        self.member(EntryType::Link, name, attributes, &Xattrs::new(), 0, &[("linkpath", target)])
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn symlink(&mut self, name: &str, target: &str, attributes: &Attributes) -> Result<()> {
        self.member(EntryType::Symlink, name, attributes, &Xattrs::new(), 0, &[("linkpath", target)])
    }

    /// A file of these bytes, with the attributes of another one.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn bytes(&mut self, name: &str, bytes: &[u8], attributes: &Attributes) -> Result<()> {
        let plain = Attributes { mode: 0o600, ..*attributes };
        self.member(EntryType::Regular, name, &plain, &Xattrs::new(), bytes.len() as u64, &[])?;
        self.put(bytes)?;
        self.fill(bytes.len() as u64)
    }

    /// The end of the archive.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn finish(mut self) -> Result<()> {
        // Two blocks of zeros.
        self.put(&ZEROS)?;
        self.put(&ZEROS)?;
        (self.out)(&self.held)
    }

    /// The headers of a member.
    fn member(
        &mut self,
        kind: EntryType,
        name: &str,
        of: &Attributes,
        xattrs: &Xattrs,
        stored_bytes: u64,
        records: &[(&str, &str)],
    ) -> Result<()> {
        let mut extended = Vec::new();
        pax::push(&mut extended, b"mtime", pax::time_text(of.modified.0, of.modified.1).as_bytes());
        if name.len() > MAX_HEADER_NAME && !records.iter().any(|(key, _)| *key == "GNU.sparse.name") {
            pax::push(&mut extended, b"path", name.as_bytes());
        }
        for (key, number, fits) in [
            ("size", stored_bytes, stored_bytes <= MAX_OCTAL_SIZE),
            ("uid", of.uid.into(), of.uid <= MAX_OCTAL_OWNER),
            ("gid", of.gid.into(), of.gid <= MAX_OCTAL_OWNER),
        ] {
            if !fits {
                pax::push(&mut extended, key.as_bytes(), number.to_string().as_bytes());
            }
        }
        for (key, value) in records {
            pax::push(&mut extended, key.as_bytes(), value.as_bytes());
        }
        for (key, value) in xattrs {
            let key = [pax::XATTR_PREFIX.as_bytes(), attributes::name_bytes(key)].concat();
            pax::push(&mut extended, &key, value);
        }
        if extended.len() as u64 > pax::MAX_BYTES {
            return Err(too_many_pieces(name));
        }
        let own = header(EntryType::XHeader, &format!("PaxHeaders/{name}"), of, extended.len() as u64);
        self.put(own.as_bytes())?;
        self.put(&extended)?;
        self.fill(extended.len() as u64)?;
        self.put(header(kind, name, of, stored_bytes).as_bytes())
    }

    /// The bytes of a member: every run of its map, one after the other.
    fn data(&mut self, layer: &dyn LayerImage, layout: &Layout) -> Result<LayerDigest> {
        let size_bytes = layer.size_bytes();
        let mut windows = Windows::of(layer)?;
        let mut digests = WindowDigests::default();
        let mut buffer = Buffer::new(BUFFER_BYTES);
        let mut stored_bytes = 0;
        while let Some(window) = windows.next_window()? {
            let mut hasher = WindowHasher::default();
            for extent in &window.extents {
                hasher.begin(extent);
                let mut at = extent.range.start_bytes;
                while at < extent.range.end_bytes {
                    self.run.check()?;
                    let left = usize::try_from(extent.range.end_bytes - at).unwrap_or(BUFFER_BYTES);
                    let bytes = &mut buffer[..left.min(BUFFER_BYTES)];
                    if extent.kind == ExtentKind::Data {
                        layer.read_exact_at(bytes, at)?;
                        hasher.update(bytes);
                        self.run.event(Event::Advanced { bytes: bytes.len() as u64 });
                    } else {
                        bytes.fill(0);
                    }
                    let within = usize::try_from(size_bytes.saturating_sub(at)).unwrap_or(bytes.len());
                    let stored = &bytes[..within.min(bytes.len())];
                    stored_bytes += stored.len() as u64;
                    at += bytes.len() as u64;
                    self.put(stored)?;
                }
            }
            digests.insert(&window, hasher.finish());
        }
        if stored_bytes != layout.data_bytes {
            return Err(Error::source("the file changed while it was read")
                .in_layer(layer.name())
                .with_hint("something still writes to this replica: stop it, and start again"));
        }
        self.fill(stored_bytes)?;
        Ok(digests.finish(size_bytes))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= BUFFER_BYTES {
            (self.out)(&self.held)?;
            self.held.clear();
        }
        Ok(())
    }

    /// Fills up what follows `bytes` of contents to a whole block.
    fn fill(&mut self, bytes: u64) -> Result<()> {
        let missing = usize::try_from(padding(bytes)).unwrap_or_default();
        self.put(&ZEROS[..missing])
    }
}

impl Layout {
    fn of(layer: &dyn LayerImage, run: &Run<'_>) -> Result<Self> {
        let whole = ByteRange::new(0, layer.size_bytes());
        let mut layout = Layout::default();
        let mut open: Option<ByteRange> = None;
        let mut windows = Windows::of(layer)?;
        while let Some(window) = windows.next_window()? {
            run.check()?;
            for Extent { range, kind } in window.extents {
                let range = range.clip(whole);
                if kind == ExtentKind::Unwritten {
                    let comma = if layout.unwritten.is_empty() { "" } else { "," };
                    // Writing to a String cannot fail.
                    let _ = write!(layout.unwritten, "{comma}{}+{}", range.start_bytes, range.len_bytes());
                }
                match &mut open {
                    Some(run) if run.end_bytes == range.start_bytes => run.end_bytes = range.end_bytes,
                    _ => layout.close(open.replace(range)),
                }
            }
            if layout.runs > MAX_RUNS || layout.unwritten.len() as u64 > pax::MAX_BYTES {
                return Err(too_many_pieces(layer.name()));
            }
        }
        let end_bytes = open.map_or(0, |run| run.end_bytes);
        layout.close(open);
        if end_bytes < whole.end_bytes {
            // A last run of no bytes makes the file as long as it must be.
            layout.close(Some(ByteRange::new(whole.end_bytes, whole.end_bytes)));
        }
        Ok(layout)
    }

    fn close(&mut self, run: Option<ByteRange>) {
        if let Some(run) = run {
            // Writing to a String cannot fail.
            let _ = write!(self.map, "{}\n{}\n", run.start_bytes, run.len_bytes());
            self.runs += 1;
            self.data_bytes += run.len_bytes();
        }
    }
}

fn too_many_pieces(name: &str) -> Error {
    Error::refused("the file has more pieces than an archive takes")
        .in_layer(name)
        .with_hint("copy the replica to a file system that keeps holes (ext4, XFS) instead")
}

/// A plain header; what does not fit stands in the extended one.
fn header(kind: EntryType, name: &str, of: &Attributes, size_bytes: u64) -> Header {
    let mut header = Header::new_ustar();
    let end =
        (0..=name.len().min(MAX_HEADER_NAME)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    header.as_old_mut().name[..end].copy_from_slice(&name.as_bytes()[..end]);
    header.set_entry_type(kind);
    header.set_size(size_bytes);
    header.set_mode(of.mode);
    header.set_uid(of.uid.into());
    header.set_gid(of.gid.into());
    header.set_mtime(u64::try_from(of.modified.0).unwrap_or(0));
    header.set_cksum();
    header
}
