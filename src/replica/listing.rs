//! Every name in a replica directory, Longhorn's or not, as a copy must keep it: whatever lies there may matter, so
//! all of it is copied, and what cannot be is named.

use std::collections::HashMap;
use std::io;

use crate::error::{Error, Result};
use crate::format::copy::journal::Stamp;
use crate::format::copy::partial_name;
use crate::format::names::{FileKind, classify, is_plain};
use crate::replica::inventory::MAX_NAMES;
use crate::sys::attributes::{self, Attributes, FileType, Xattrs};
use crate::sys::dir::{Dir, FileId};

/// All that a directory has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Of the directory itself.
    pub directory: Attributes,
    /// Of the directory itself.
    pub directory_xattrs: Xattrs,
    /// The files, in the order in which a copy gives them their names: what a replica is recognised by comes last.
    pub files: Vec<Listed>,
    /// Names that cannot be copied, and what follows them in a sentence.
    pub left_out: Vec<(String, &'static str)>,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: String,
    /// What the file system says of it.
    pub attributes: Attributes,
    /// What it is.
    pub what: What,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A regular file, and its extended attributes.
    File(Xattrs),
    /// Another name of the regular file that is listed under this one.
    Link(String),
    /// A symbolic link, and what it holds.
    Symlink(String),
}

impl Listing {
    /// Looks at everything in `dir`; what `preserve` itself leaves in a directory is passed over.
    ///
    /// # Errors
    /// `Source` when something cannot be looked at.
    pub fn of(dir: &Dir) -> Result<Self> {
        let fail =
            |e: io::Error| Error::source("cannot list the directory").with_path(dir.path()).caused_by(e);
        let mut listing = Listing {
            directory: Attributes::of(dir).map_err(fail)?,
            directory_xattrs: attributes::xattrs(dir).map_err(fail)?,
            files: Vec::new(),
            left_out: Vec::new(),
        };
        let mut names = Vec::new();
        for name in dir.names(MAX_NAMES + 1).map_err(fail)? {
            match name.into_string() {
                Ok(name) => names.push(name),
                Err(name) => {
                    let shown = name.to_string_lossy().into_owned();
                    listing.left_out.push((shown, "has a name that is not UTF-8"));
                }
            }
        }
        if names.len() > MAX_NAMES {
            return Err(Error::source(format!("more than {MAX_NAMES} files")).with_path(dir.path()));
        }
        names.retain(|name| classify(name) != FileKind::Ours);
        names.sort_by_cached_key(|name| order(name));
        let mut seen = HashMap::new();
        for name in names {
            listing.take(dir, name, &mut seen).map_err(|(name, e)| {
                Error::source("cannot look at the file")
                    .with_path(dir.path().join(name))
                    .caused_by(e)
                    .with_hint("replica directories belong to root: run as root")
            })?;
        }
        listing.left_out.sort_unstable();
        Ok(listing)
    }

    fn take(
        &mut self,
        dir: &Dir,
        name: String,
        seen: &mut HashMap<FileId, String>,
    ) -> std::result::Result<(), (String, io::Error)> {
        let look = || -> io::Result<std::result::Result<(Attributes, What), &'static str>> {
            let attributes = Attributes::at(dir, &name)?;
            Ok(match attributes.kind {
                FileType::Regular if !is_plain(&partial_name(&name)) => Err("has too long a name"),
                FileType::Regular => match seen.get(&attributes.id) {
                    Some(first) => Ok((attributes, What::Link(first.clone()))),
                    None => Ok((attributes, What::File(attributes::xattrs(&dir.open_file(&name)?)?))),
                },
                FileType::Symlink => match attributes::read_link(dir, &name)?.into_string() {
                    Ok(target) => Ok((attributes, What::Symlink(target))),
                    Err(_) => Err("is a symbolic link to a name that is not UTF-8"),
                },
                FileType::Directory => Err("is a directory"),
                FileType::Special => Err("is a pipe, a socket or a device"),
            })
        };
        match look() {
            Ok(Ok((attributes, what))) => {
                if matches!(what, What::File(_)) {
                    seen.insert(attributes.id, name.clone());
                }
                self.files.push(Listed { name, attributes, what });
            }
            // Every file system of its own has one.
            Ok(Err(_)) if name == LOST_AND_FOUND => {}
            Ok(Err(why)) => self.left_out.push((name, why)),
            Err(e) => return Err((name, e)),
        }
        Ok(())
    }

    /// The name `name`, if it is there.
    pub fn file(&self, name: &str) -> Option<&Listed> {
        let wanted = (place(name), name);
        let found = self.files.binary_search_by(|file| (place(&file.name), file.name.as_str()).cmp(&wanted));
        found.ok().map(|i| &self.files[i])
    }

    /// The first name that stands for something else in `now`, or is there in only one of the two.
    pub fn first_change<'a>(&'a self, now: &'a Listing) -> Option<&'a str> {
        let same = |a: &Listed, b: &Listed| a.what == b.what && a.stamp() == b.stamp();
        // Both are in the same order: the first place in which they differ has a name that is new, gone or changed.
        let differs = self.files.iter().zip(&now.files).find(|(a, b)| a.name != b.name || !same(a, b));
        let beyond = || self.files.get(now.files.len()).or(now.files.get(self.files.len()));
        let gone = |a: &'a Listed, b: &'a Listed| if now.file(&a.name).is_some() { b } else { a };
        differs.map(|(a, b)| gone(a, b)).or_else(beyond).map(|file| file.name.as_str())
    }
}

impl Listed {
    /// What tells whether it is still the file that was looked at.
    pub fn stamp(&self) -> Stamp {
        let Attributes { id, size_bytes, modified, changed, .. } = self.attributes;
        Stamp { inode: id.ino, size_bytes, modified, changed }
    }
}

/// The directory that file systems keep at their root.
pub const LOST_AND_FOUND: &str = "lost+found";

/// What files of a copy are sorted by: nothing is a replica without metadata, and `volume.meta` is the last.
pub fn order(name: &str) -> (u8, String) {
    (place(name), name.to_owned())
}

fn place(name: &str) -> u8 {
    match classify(name) {
        FileKind::VolumeMeta => 2,
        FileKind::Meta { .. } => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn images_come_first_and_volume_meta_last() {
        let tmp = tempfile::tempdir().unwrap();
        let path = |name: &str| tmp.path().join(name);
        for name in ["volume.meta", "volume-head-001.img.meta", "volume-head-001.img", "notes", "aaa.json"] {
            fs::write(path(name), name).unwrap();
        }
        fs::hard_link(path("notes"), path("other-notes")).unwrap();
        symlink("../x", path("link")).unwrap();
        fs::create_dir(path("sub")).unwrap();
        fs::create_dir(path("lost+found")).unwrap();
        fs::write(path("lhrecover-preserve.json"), "{}").unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let listing = Listing::of(&dir).unwrap();
        let names: Vec<_> = listing.files.iter().map(|file| file.name.as_str()).collect();
        let images = ["aaa.json", "link", "notes", "other-notes", "volume-head-001.img"];
        assert_eq!(names, [&images[..], &["volume-head-001.img.meta", "volume.meta"]].concat());
        assert_eq!(listing.file("other-notes").unwrap().what, What::Link("notes".into()));
        assert_eq!(listing.file("link").unwrap().what, What::Symlink("../x".into()));
        assert_eq!(listing.left_out, [("sub".to_owned(), "is a directory")]);
        assert_eq!(listing.first_change(&Listing::of(&dir).unwrap()), None);
        fs::write(path("notes"), "longer than before").unwrap();
        assert_eq!(listing.first_change(&Listing::of(&dir).unwrap()), Some("notes"));
    }
}
