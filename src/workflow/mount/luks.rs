//! Encrypted volumes: the device mapper between the loop device and the file system.
//!
//! What decrypts is `cryptsetup`; without a key file, or on a kernel without device mapper, all that can be done is to say
//! how it is done by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::MountOptions;
use crate::access::volume::VolumeOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::model::overlay::Unwritten;

/// The nodes of the device mapper's devices.
const MAPPER_DIR: &str = "/dev/mapper";

/// The steps by hand, for a volume that is encrypted.
pub fn by_hand(source: &Path, mountpoint: &Path, options: &MountOptions) -> Error {
    let image = quoted(&image_words(source, options)).join(" ");
    let point = quoted(&[mountpoint.into()]).join(" ");
    Error::refused("the volume is encrypted (LUKS)").with_hint(format!(
        "with its key in a file: --key-file FILE. By hand: \
         `mkdir -p /run/volume && lhrecover mount --image-only {image} /run/volume`, \
         `cryptsetup open --readonly /run/volume/volume.img recovered`, \
         `mount -o ro,noload /dev/mapper/recovered {point}` (XFS: ro,norecovery,nouuid); \
         and back: `umount {point}`, `cryptsetup close recovered`, `lhrecover umount /run/volume`"
    ))
}

/// What names the volume, and the state of it, on a command line.
fn image_words(source: &Path, options: &MountOptions) -> Vec<OsString> {
    let VolumeOptions { source: from, accept_copy_damage, unwritten } = &options.volume;
    let size = from.size_bytes.map(|bytes| bytes.to_string().into());
    let partition = options.partition.map(|number| number.to_string().into());
    let with_value: [(&str, Option<OsString>); 6] = [
        ("--at", from.at.clone().map(Into::into)),
        ("--head", from.head.clone().map(Into::into)),
        ("--size", size),
        ("--backing-file", from.backing_file.clone().map(Into::into)),
        ("--partition", partition),
        ("--unwritten", (*unwritten == Unwritten::Hole).then(|| "hole".into())),
    ];
    let flags = [
        ("--allow-rebuilding", from.allow_rebuilding),
        ("--allow-live", from.allow_live),
        ("--accept-copy-damage", *accept_copy_damage),
    ];
    let with_value = with_value.into_iter().filter_map(|(name, value)| Some([OsString::from(name), value?]));
    let flags = flags.into_iter().filter(|(_, given)| *given).map(|(name, _)| OsString::from(name));
    with_value.flatten().chain(flags).chain([source.into()]).collect()
}

/// Words as a shell takes them.
fn quoted(words: &[OsString]) -> Vec<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    let quote = |word: &OsString| {
        let word = word.to_string_lossy();
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect()
}

/// Fails where a device cannot be decrypted, since the kernel or the program for it are missing.
///
/// # Errors
/// `Usage`, with what is missing.
pub fn check_available() -> Result<()> {
    if !Path::new(MAPPER_DIR).join("control").exists() {
        return Err(Error::usage(
            "this machine cannot decrypt a device: its kernel has no device mapper (/dev/mapper/control)",
        )
        .with_hint(
            "as root: `modprobe dm_crypt`; or on another machine: lhrecover merge --stream, lhrecover serve",
        ));
    }
    Ok(())
}

/// Decrypts `device`; the node that it can then be read at.
///
/// # Errors
/// `External` when `cryptsetup` fails: the key may be wrong.
pub fn open(device: &Path, name: &str, key_file: &Path, writable: bool) -> Result<PathBuf> {
    run(&open_arguments(device, name, key_file, writable)).map_err(|e| {
        e.with_hint("is it this volume's key? it is tried as it is in the file, its last line end included")
    })?;
    Ok(node(name))
}

/// The node of the decrypted device of that name.
pub fn node(name: &str) -> PathBuf {
    Path::new(MAPPER_DIR).join(name)
}

fn open_arguments(device: &Path, name: &str, key_file: &Path, writable: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["open".into(), "--type".into(), "luks".into()];
    if !writable {
        arguments.push("--readonly".into());
    }
    arguments.extend(["--batch-mode".into(), "--key-file".into(), key_file.into()]);
    arguments.extend(["--".into(), device.into(), name.into()]);
    arguments
}

/// Whether there is a decrypted device of that name.
pub fn is_open(name: &str) -> bool {
    node(name).exists()
}

/// Takes the decrypted device down.
///
/// # Errors
/// `External` when `cryptsetup` fails: the device may be in use.
pub fn close(name: &str) -> Result<()> {
    run(&["close".into(), "--".into(), name.into()])
}

fn run(arguments: &[OsString]) -> Result<()> {
    let output = Command::new("cryptsetup").args(arguments).stdin(Stdio::null()).output().map_err(|e| {
        Error::usage("cannot run cryptsetup")
            .caused_by(e)
            .with_hint("it is in Debian's package cryptsetup-bin")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(ErrorKind::External, format!("cryptsetup failed: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_opened_for_reading_only_and_never_asks() {
        let arguments =
            |writable| open_arguments(Path::new("/dev/loop3"), "name", Path::new("/key"), writable);
        assert_eq!(
            arguments(false).join(&OsString::from(" ")),
            "open --type luks --readonly --batch-mode --key-file /key -- /dev/loop3 name"
        );
        assert!(!arguments(true).contains(&"--readonly".into()));
    }

    #[test]
    fn the_steps_name_the_state_that_was_asked_for() {
        let mut options = MountOptions { partition: Some(2), ..MountOptions::default() };
        options.volume.source.at = Some("before it's lost".to_owned());
        options.volume.source.allow_live = true;
        let hint = by_hand(Path::new("/replicas/pv 1"), Path::new("/mnt"), &options);
        let command = r"--image-only --at 'before it'\''s lost' --partition 2 --allow-live '/replicas/pv 1' /run/volume";
        assert!(hint.hint().unwrap().contains(command), "{:?}", hint.hint());
    }
}
