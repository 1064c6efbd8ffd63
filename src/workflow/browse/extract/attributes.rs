//! Everything about a file but its data, set by name; what cannot be set is noted.

use std::ffi::OsStr;
use std::io;

use crate::guest::ext::{Found, Kind};
use crate::sys::tree::{Existing, Times, Tree};
use crate::workflow::browse::extract::Extraction;
use crate::workflow::browse::extract::left::What;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;

/// What a new file gets from the directory that it is made in.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// The flags that `chattr` sets, or fs-verity, with their letters. What is only about how data is stored is not among them.
const FLAGS: [(u32, char); 17] = [
    (0x1, 's'),
    (0x2, 'u'),
    (0x4, 'c'),
    (0x8, 'S'),
    (0x10, 'i'),
    (0x20, 'a'),
    (0x40, 'd'),
    (0x80, 'A'),
    (0x4000, 'j'),
    (0x8000, 't'),
    (0x1_0000, 'D'),
    (0x2_0000, 'T'),
    (0x10_0000, 'V'),
    (0x80_0000, 'C'),
    (0x200_0000, 'x'),
    (0x2000_0000, 'P'),
    (0x4000_0000, 'F'),
];

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
        self.note_what_is_not_set(found);
        let times = Times { accessed: node.accessed, modified: node.modified };
        if let Err(e) = dir.set_times(name, times) {
            self.left.add(What::Times, path, e);
        }
    }

    /// Gives `name` in `dir`, which was there already, what it lacks: an earlier run may have been somebody else's, who could not.
    pub(super) fn complete_attributes(&self, dir: &Tree, name: &[u8], found: &Found, there: &Existing) {
        if self.has_attributes(dir, name, found, there) {
            self.note_what_is_not_set(found);
        } else {
            self.set_attributes(dir, name, found);
        }
    }

    /// Whether `name` in `dir`, which is `there`, has the owner, the mode and the extended attributes of `found`.
    pub(super) fn has_attributes(&self, dir: &Tree, name: &[u8], found: &Found, there: &Existing) -> bool {
        let node = &found.node;
        let is_owned = self.options.no_owner || (there.uid, there.gid) == (node.uid, node.gid);
        let has_mode = node.kind == Kind::Symlink || there.mode == node.mode;
        // What cannot be read is told when it is to be set.
        let Ok(xattrs) = self.fs.xattrs(node) else { return false };
        let has = |attribute: &OsStr| dir.xattr(name, attribute).ok().flatten();
        is_owned
            && has_mode
            && xattrs.iter().all(|(attribute, value)| has(attribute).as_ref() == Some(value))
            && ACLS.map(OsStr::new).into_iter().all(|acl| xattrs.contains_key(acl) || has(acl).is_none())
    }

    /// Notes what a file has that is never set here.
    fn note_what_is_not_set(&self, found: &Found) {
        let node = &found.node;
        for (_, letter) in FLAGS.into_iter().filter(|(flag, _)| node.flags & flag != 0) {
            self.left.add(What::Flag(letter), &found.path, "");
        }
        if node.project != 0 {
            self.left.add(What::Project, &found.path, format!("the first is of project {}", node.project));
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
