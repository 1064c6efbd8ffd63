//! An encrypted volume and a plain one are not each other's place.
//!
//! Longhorn keeps a LUKS container on `/dev/longhorn/<pv>`, and the file system on its mapping `/dev/mapper/<pv>`. A plain
//! volume written over the container destroys the header with its keys, and a container written into the mapping is
//! encrypted twice: both look like a success until somebody mounts the volume.

use std::path::Path;

use crate::error::{Error, Result};
use crate::guest::{Guest, GuestKind};
use crate::model::finding::{Code, Finding};

/// Refuses to mix the two up; `allowed` is the leave to do it all the same, where that can be meant.
///
/// `source` is what the volume to be written begins with, `target` what the device does; `target_carries_data` says whether
/// that is anything at all, and `target_is_mapping` whether it is itself the mapping of an encrypted device.
///
/// # Errors
/// `Refused`, with the way out.
pub fn refuse_mismatch(
    path: &Path,
    source: Option<Guest>,
    target: Option<Guest>,
    target_carries_data: bool,
    target_is_mapping: bool,
    allowed: bool,
) -> Result<()> {
    let refused = |what: &str, hint: &str| Err(Error::refused(what).with_path(path).with_hint(hint));
    match (is_luks(source), is_luks(target)) {
        (true, _) if target_is_mapping => refused(
            "the source is a LUKS container, and the target is the inside of one: it would be encrypted twice",
            "write it to the device under the mapping, /dev/longhorn/<pv>, after `cryptsetup close`",
        ),
        (true, false) if !allowed && target_carries_data => refused(
            "the source is a LUKS container, and the target carries other data",
            "take a volume of an encrypted StorageClass, with the same passphrase in its secret; if this one is meant, \
             give leave with --allow-luks-mismatch",
        ),
        (false, true) if !allowed => refused(
            "the target is a LUKS container, and the source is not encrypted: its header, with the keys, would be lost",
            "open it, and write to what is inside: cryptsetup open DEVICE NAME, then inject to /dev/mapper/NAME; to \
             replace the container, give leave with --allow-luks-mismatch",
        ),
        _ => Ok(()),
    }
}

fn is_luks(guest: Option<Guest>) -> bool {
    guest.is_some_and(|guest| guest.kind == GuestKind::Luks)
}

/// What cannot be told of a device that carries nothing: whether its volume is to be encrypted.
pub fn of_target(path: &Path, source: Option<Guest>, target: Option<Guest>) -> Option<Finding> {
    (is_luks(source) && target.is_none()).then(|| {
        Finding::new(
            Code::Encrypted,
            format!("the source is a LUKS container, and {} carries none", path.display()),
            "it is the right place only if the volume's StorageClass is encrypted, with the same passphrase in its secret",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_and_plain_volumes_stay_apart() {
        let luks = Some(Guest { kind: GuestKind::Luks, name: "a LUKS container" });
        let ext4 = Some(Guest { kind: GuestKind::FileSystem, name: "an ext4 file system" });
        let passes = |source, target: Option<Guest>, mapping, allowed| {
            refuse_mismatch(Path::new("/dev/x"), source, target, target.is_some(), mapping, allowed).is_ok()
        };
        assert!(passes(ext4, ext4, false, false) && passes(ext4, None, true, false));
        assert!(passes(luks, luks, false, false) && passes(luks, None, false, false));
        assert!(!passes(luks, ext4, false, false) && passes(luks, ext4, false, true));
        assert!(!passes(ext4, luks, false, false) && passes(ext4, luks, false, true));
        assert!(!passes(luks, None, true, true), "never twice");
        let unknown =
            |allowed| refuse_mismatch(Path::new("/dev/x"), luks, None, true, false, allowed).is_ok();
        assert!(!unknown(false) && unknown(true), "data that is not known is data");
    }
}
