//! The file system as the search for databases sees it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::guest::ext::{ExtFs, Kind, LastLink};
use crate::guest::files::{Entry, FileKind, Files};

impl Files for ExtFs {
    fn list(&self, dir: &Path, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let found = self.resolve(dir.as_os_str().as_bytes(), LastLink::Keep)?;
        let mut listing = ExtFs::list(self, &found.node)?;
        for named in listing.entries {
            match self.named(&named) {
                Ok(node) => each(Entry {
                    name: OsString::from_vec(named.name),
                    kind: match node.kind {
                        Kind::Regular => FileKind::File,
                        Kind::Directory => FileKind::Directory,
                        Kind::Symlink => FileKind::Link,
                        _ => FileKind::Other,
                    },
                    size_bytes: if node.kind == Kind::Regular { node.size_bytes } else { 0 },
                    id: (0, node.ino.into()),
                })?,
                Err(e) => listing.troubles.push(e),
            }
        }
        // What could be read was told; now what could not.
        listing.troubles.into_iter().next().map_or(Ok(()), Err)
    }

    fn read(&self, path: &Path, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let found = self.resolve(path.as_os_str().as_bytes(), LastLink::Keep)?;
        if found.node.kind != Kind::Regular {
            return Err(Error::usage("not a regular file").with_path(path));
        }
        let mut file = self.open_file(&found.node)?;
        file.seek(offset_bytes)?;
        let mut read = 0;
        while read < buf.len() {
            match file.read(&mut buf[read..])? {
                0 => break,
                n => read += n,
            }
        }
        Ok(read)
    }
}
