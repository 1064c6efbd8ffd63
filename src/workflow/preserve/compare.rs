//! One file of a copy against the same file of its source, and against what its manifest says.

use std::sync::{Mutex, PoisonError};

use blake3::Hash;

use crate::engine::buffer::Buffer;
use crate::engine::layer_digest::{LayerDigest, WindowDigests, window_digest};
use crate::engine::medium::{Medium, OUTPUT};
use crate::engine::pipeline::BUFFER_BYTES;
use crate::engine::preserve::read_back;
use crate::engine::windows::{WINDOW_BYTES, Window, Windows, for_each_window};
use crate::error::{Error, Result};
use crate::event::{Run, Silent};
use crate::format::copy::manifest::CopiedContent;
use crate::model::extent::ExtentKind;
use crate::model::finding::{Code, Finding};
use crate::model::units::ByteRange;
use crate::replica::ReplicaDir;
use crate::sys::dir::Dir;
use crate::view::LayerImage;
use crate::view::as_data::UnwrittenAsData;
use crate::view::layer_file::LayerFile;
use crate::workflow::preserve::transfer::{first_other_map, of_the_copy};

/// Compares files of a copy.
pub struct Comparison<'a> {
    /// The source, if it is there.
    pub source: Option<&'a ReplicaDir>,
    /// The copy.
    pub copy: &'a Dir,
    /// How many threads work.
    pub workers: usize,
    /// Who watches; progress is that of reading the copy.
    pub run: &'a Run<'a>,
}

/// How a file compares.
pub struct Compared {
    /// What the copy holds.
    pub copy: LayerDigest,
    /// Whether the copy was read past every cache for certain.
    pub direct: bool,
    /// Where the copy first differs from the source, and in what.
    from_source: Option<(u64, &'static str)>,
    has_source: bool,
}

impl Comparison<'_> {
    /// Compares the file `name`, of which the manifest says `noted`.
    ///
    /// # Errors
    /// `Source` when the source cannot be read, `Output` when the copy cannot be; interrupted when cancelled.
    pub fn compare(&self, name: &str, noted: Option<&CopiedContent>) -> Result<Compared> {
        let path = self.copy.path().join(name);
        let cannot_open = |e| Error::output("cannot open the copy").with_path(&path).caused_by(e);
        let copy = LayerFile::new(name.to_owned(), self.copy.open_file(name).map_err(cannot_open)?);
        let copy = copy.map_err(of_the_copy)?;
        let medium = Medium::open(&path, &OUTPUT)?;
        let found = self.windows(&copy, |window, buffer| read_back(&medium, window, buffer, self.run));
        let found = found.map_err(of_the_copy)?;
        let mut compared = Compared {
            copy: found.finish(copy.size_bytes()),
            direct: medium.is_direct(),
            from_source: None,
            has_source: self.source.is_some(),
        };
        if let Some(source) = self.source {
            let original = source.open_image(name)?;
            let as_data = UnwrittenAsData(&original);
            let as_zeros = noted.is_some_and(|noted| noted.unwritten_as_zeros);
            let original: &dyn LayerImage = if as_zeros { &as_data } else { &original };
            let quiet = Run { observer: &Silent, ..*self.run };
            let wanted = self.windows(original, |window, buffer| {
                window_digest(window, buffer, &quiet, |buf, at| original.read_exact_at(buf, at))
            })?;
            compared.from_source =
                self.difference(original, &copy, &medium, wanted.first_difference(&found))?;
        }
        Ok(compared)
    }

    fn windows(
        &self,
        layer: &dyn LayerImage,
        digest: impl Fn(&Window, &mut Buffer) -> Result<Hash> + Sync,
    ) -> Result<WindowDigests> {
        let found = Mutex::new(WindowDigests::default());
        for_each_window(&[layer], self.workers, self.run, |_, window, buffer| {
            let digest = digest(window, buffer)?;
            found.lock().unwrap_or_else(PoisonError::into_inner).insert(window, digest);
            Ok(())
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where, and in what, a copy first differs from its source; `window` is the first with another digest.
    fn difference(
        &self,
        source: &dyn LayerImage,
        copy: &LayerFile,
        medium: &Medium,
        window: Option<u64>,
    ) -> Result<Option<(u64, &'static str)>> {
        if source.size_bytes() != copy.size_bytes() {
            return Ok(Some((source.size_bytes().min(copy.size_bytes()), "lengths differ")));
        }
        if let Some(offset) = first_other_map(source, copy, self.run)? {
            return Ok(Some((offset, "what is a hole and what is not differs")));
        }
        let Some(index) = window else { return Ok(None) };
        let offset = self.first_other_byte(source, medium, index)?;
        Ok(Some((offset.unwrap_or(index.saturating_mul(WINDOW_BYTES)), "bytes differ")))
    }

    /// The first byte of a window that differs; both have the same extents.
    fn first_other_byte(&self, source: &dyn LayerImage, medium: &Medium, index: u64) -> Result<Option<u64>> {
        let mut windows = Windows::of(source)?;
        let window = loop {
            match windows.next_window()? {
                Some(window) if window.index == index => break window,
                Some(_) => {}
                None => return Ok(None),
            }
        };
        let (mut ours, mut theirs) = (Buffer::new(BUFFER_BYTES), Buffer::new(BUFFER_BYTES));
        for extent in window.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
            let mut at = extent.range.start_bytes;
            while at < extent.range.end_bytes {
                self.run.check()?;
                let left = usize::try_from(extent.range.end_bytes - at).unwrap_or(BUFFER_BYTES);
                let len = left.min(BUFFER_BYTES);
                source.read_exact_at(&mut ours[..len], at)?;
                medium.read_sectors(&mut theirs[..len], at)?;
                if let Some(differs) = ours[..len].iter().zip(&theirs[..len]).position(|(a, b)| a != b) {
                    return Ok(Some(at + differs as u64));
                }
                at += len as u64;
            }
        }
        Ok(None)
    }
}

impl Compared {
    /// What there is to say of the file `name`, of which the manifest says `noted`.
    pub fn judge(&self, name: &str, noted: Option<&CopiedContent>) -> Option<Finding> {
        let as_noted = noted.and_then(|noted| self.is_as_noted(noted));
        let (code, what, meaning) = match (self.from_source, as_noted) {
            (Some((offset, what)), Some(true)) => (
                Code::SourceChanged,
                format!("{name} of the source is no longer what was copied: from byte {offset} on, {what}"),
                "the copy is what its manifest says, so it is the source that has changed, or is failing",
            ),
            (Some((offset, what)), _) => (
                Code::CopyContentDiffers,
                format!("{name} of the copy is not what the source has: from byte {offset} on, {what}"),
                "the copy cannot be used in place of the source",
            ),
            (None, Some(false)) if self.has_source => (
                Code::CopyContentDiffers,
                format!("{name} is the same in source and copy, and not what the manifest of the copy says"),
                "something has changed both in the same way, or the manifest belongs to another copy",
            ),
            (None, Some(false)) => (
                Code::CopyContentDiffers,
                format!("{name} of the copy is not what its manifest says"),
                "the copy was changed, or its disk is failing",
            ),
            (None, _) => return None,
        };
        let range = self.from_source.map(|(offset, _)| ByteRange::new(offset, offset.saturating_add(1)));
        let advice = match code {
            Code::SourceChanged => "keep this copy, and make another one in a new directory",
            _ => "make another copy, on another disk; do not remove the source",
        };
        Some(Finding::new(code, what, meaning).on(name).at(range.into_iter().collect()).advise(advice))
    }

    /// Whether the copy is what the manifest says, if that says enough.
    fn is_as_noted(&self, noted: &CopiedContent) -> Option<bool> {
        if self.copy.size_bytes != noted.size_bytes {
            return Some(false);
        }
        Some(noted.digest.as_ref()? == self.copy.digest.to_hex().as_str())
    }
}
