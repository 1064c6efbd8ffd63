//! Everything about a file but its data, set by name; what cannot be set is noted.

use std::ffi::OsStr;
use std::io;

use crate::guest::ext::{Found, Kind};
use crate::sys::tree::{Times, Tree};
use crate::workflow::browse::extract::Extraction;
use crate::workflow::browse::extract::left::What;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// What a new file gets from the directory that it is made in.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// `EXT4_IMMUTABLE_FL` and `EXT4_APPEND_FL`.
const FLAGS_THAT_MATTER: u32 = 0x10 | 0x20;

impl Extraction<'_> {
    /// Gives `name` in `dir`, which was just made, what `found` has. Times come last, as everything else changes them.
    pub(super) fn set_attributes(&self, dir: &Tree, name: &[u8], found: &Found) {
        let (node, path) = (&found.node, found.path.as_slice());
        let owned = self.set_owner(dir, name, found);
        let xattrs = self.troubles.or_add(path, self.fs.xattrs(node)).unwrap_or_default();
        for inherited in ACLS.map(OsStr::new).into_iter().filter(|acl| !xattrs.contains_key(*acl)) {
            // That there is none is what is wanted.
            let _ = dir.remove_xattr(name, inherited);
        }
        for (attribute, value) in xattrs {
            if let Err(e) = dir.set_xattr(name, &attribute, &value) {
                self.left.add(What::Xattr(attribute.to_string_lossy().into_owned()), path, e);
            }
        }
        // After the attributes, which only those who may write can set.
        if node.kind != Kind::Symlink {
            let mut mode = node.mode;
            if !owned && mode & SET_ID != 0 {
                mode &= !SET_ID;
                self.left.add(What::SetId, path, "");
            }
            if let Err(e) = dir.set_mode(name, mode) {
                self.left.add(What::Mode, path, e);
            }
        }
        if node.flags & FLAGS_THAT_MATTER != 0 {
            self.left.add(What::Flags, path, "");
        }
        let times = Times { accessed: node.accessed, modified: node.modified };
        if let Err(e) = dir.set_times(name, times) {
            self.left.add(What::Times, path, e);
        }
    }

    /// Whether the file now belongs to whom it should.
    fn set_owner(&self, dir: &Tree, name: &[u8], found: &Found) -> bool {
        let (uid, gid) = (found.node.uid, found.node.gid);
        if self.options.no_owner {
            return false;
        }
        match dir.set_owner(name, uid, gid) {
            Ok(()) => true,
            Err(e) => {
                let why = match e.kind() {
                    io::ErrorKind::PermissionDenied => "only root may give files away".to_owned(),
                    _ => e.to_string(),
                };
                self.left.add(What::Owner, &found.path, why);
                false
            }
        }
    }
}
