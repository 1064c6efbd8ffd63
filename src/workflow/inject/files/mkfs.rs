//! A file system like the source's, made without discarding anything.
//!
//! It gets the source's features and no others, whatever this machine's tools have for defaults: the node that will mount
//! it may be older. Discarded sectors of a Longhorn volume show older data after a restart, so nothing is discarded, and
//! mke2fs is told to write its zeros rather than to ask the device for them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::geometry::{Ext, Geometry, Xfs};
use crate::workflow::tool::{Call, Tool, Tools};

const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
const MKFS_XFS: Tool = Tool { program: "mkfs.xfs", package: "xfsprogs" };
/// Has e2fsprogs' I/O write zeros (`lib/ext2fs/unix_io.c`).
const WRITE_ZEROS: &[(&str, &str)] = &[("UNIX_IO_NOZEROOUT", "1")];
/// Below this mkfs.xfs makes none but for tests, since this version (`validate_supported` in `mkfs/xfs_mkfs.c`); earlier ones
/// do not know the option that has it make one all the same.
const XFS_MIN_BYTES: u64 = 300 << 20;
const XFS_MIN_SINCE: (u32, u32) = (5, 19);

/// How a file system is made.
#[derive(Clone, Copy, Debug)]
pub struct Making {
    /// With the source's UUID.
    pub keep_uuid: bool,
    /// The device carries something, which shows wherever nothing is written.
    pub is_used: bool,
    /// How large the device is.
    pub device_bytes: u64,
}

/// The call that makes a file system as `geometry` says on `device`.
///
/// # Errors
/// `Usage` when the tool is not installed, or too old to make such a one.
pub fn call(
    geometry: &Geometry,
    device: &Path,
    making: Making,
    tools: &Tools,
    run: &Run<'_>,
) -> Result<Call> {
    let mut call = match geometry {
        Geometry::Ext(ext) => {
            tools.must_have(MKE2FS)?;
            Call { env: WRITE_ZEROS, ..MKE2FS.call(ext_args(ext, making)) }
        }
        Geometry::Xfs(xfs) => {
            // Without a device it says what it can do, and that one is missing.
            let usage = tools.call(&MKFS_XFS.call(["-h"]), run, |_| {})?;
            let mut args = xfs_args(xfs, making.keep_uuid, &usage.words())?;
            if making.device_bytes < XFS_MIN_BYTES {
                let told = tools.call(&MKFS_XFS.call(["-V"]), run, |_| {})?.words();
                args.extend((version(&told) >= Some(XFS_MIN_SINCE)).then(|| "--unsupported".into()));
            }
            MKFS_XFS.call(args)
        }
    };
    call.args.push(device.into());
    Ok(call)
}

/// Makes it.
///
/// # Errors
/// `External` when that fails, with what the tool said.
pub fn make(call: &Call, device: &Path, tools: &Tools, run: &Run<'_>) -> Result<()> {
    run.event(Event::Phase { name: "making a file system", total_bytes: None });
    let ran = tools.call(call, run, |_| {})?;
    run.event(Event::PhaseDone);
    if ran.exit_code == Some(0) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::External, format!("{} failed: {}", call.tool.program, ran.words()))
        .with_path(device)
        .with_hint(format!("it was: {}; make one by hand, and inject again: it is kept", call.text())))
}

fn ext_args(ext: &Ext, making: Making) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-q".into(), "-F".into()];
    let mut add = |name: &str, value: OsString| args.extend([name.into(), value]);
    add("-b", ext.block_bytes.to_string().into());
    add("-I", ext.inode_bytes.to_string().into());
    add("-N", inodes(ext, making.device_bytes).to_string().into());
    add("-m", percent(ext.reserved_blocks, ext.blocks).into());
    // `none` clears what this machine's mke2fs.conf has for defaults.
    add("-O", format!("none,{}", ext.features.join(",")).trim_end_matches(',').into());
    // The kernel would zero inode tables later, and may do so by discarding.
    let now = if making.is_used { ",lazy_itable_init=0,lazy_journal_init=0" } else { "" };
    add("-E", format!("nodiscard{now}").into());
    if let Some(bytes) = ext.cluster_bytes {
        add("-C", bytes.to_string().into());
    }
    if !ext.label.is_empty() {
        add("-L", OsString::from_vec(ext.label.clone()));
    }
    if let Some(uuid) = ext.uuid.as_ref().filter(|_| making.keep_uuid) {
        add("-U", uuid.into());
    }
    args
}

/// How many inodes to ask for: mke2fs spreads them over the groups, and rounds down to a multiple of 8 in each
/// (`ext2fs_initialize` in `lib/ext2fs/initialize.c`).
fn inodes(ext: &Ext, device_bytes: u64) -> u64 {
    let group_bytes =
        ext.block_bytes.saturating_mul(8).saturating_mul(ext.cluster_bytes.unwrap_or(ext.block_bytes));
    let groups = device_bytes.div_ceil(group_bytes.max(1)).max(1);
    let in_each = ext.inodes.div_ceil(groups).next_multiple_of(8);
    in_each.saturating_mul(groups).min(u64::from(u32::MAX))
}

/// The version in what `mkfs.xfs -V` says: `mkfs.xfs version 6.1.0`.
fn version(told: &str) -> Option<(u32, u32)> {
    let mut numbers = told.split_whitespace().last()?.split('.').map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// A part of a whole in percent, as mke2fs takes it: with two decimals, and 50 at most.
fn percent(part: u64, whole: u64) -> String {
    let whole = u128::from(whole.max(1));
    let hundredths = (u128::from(part) * 10_000 + whole / 2) / whole;
    let hundredths = hundredths.min(5000);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

fn xfs_args(xfs: &Xfs, keep_uuid: bool, usage: &str) -> Result<Vec<OsString>> {
    let mut meta = Vec::new();
    let mut inode = vec![format!("size={}", xfs.inode_bytes), format!("maxpct={}", xfs.inode_percent)];
    let mut naming = vec![format!("size={}", xfs.directory_bytes)];
    for &(section, name, on) in &xfs.features {
        if !usage.contains(&format!("{name}=")) {
            // What it does not know it does not make.
            if on {
                return Err(Error::usage(format!(
                    "this machine's mkfs.xfs cannot make a file system with {name}, as the source has it"
                ))
                .with_hint("install a newer xfsprogs, or make a file system by hand: it is kept"));
            }
            continue;
        }
        let list = match section {
            "-i" => &mut inode,
            "-n" => &mut naming,
            _ => &mut meta,
        };
        list.push(format!("{name}={}", u8::from(on)));
    }
    if let Some(uuid) = xfs.uuid.as_ref().filter(|_| keep_uuid) {
        meta.push(format!("uuid={uuid}"));
    }
    let mut args: Vec<OsString> = vec!["-q".into(), "-f".into(), "-K".into()];
    let lists = [("-m", meta), ("-i", inode), ("-n", naming)];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        args.extend([name.into(), list.join(",").into()]);
    }
    args.extend(["-b".into(), format!("size={}", xfs.block_bytes).into()]);
    args.extend(["-s".into(), format!("size={}", xfs.sector_bytes).into()]);
    if !xfs.label.is_empty() {
        args.extend(["-L".into(), OsString::from_vec(xfs.label.clone())]);
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_mkfs_is_asked_for_nothing_it_does_not_know() {
        let features = vec![("-m", "crc", true), ("-m", "bigtime", false), ("-i", "nrext64", false)];
        let xfs = Xfs { block_bytes: 4096, blocks: 1 << 20, features, ..Xfs::default() };
        let args = xfs_args(&xfs, false, "[-m crc=0|1,finobt=0|1,uuid=xxx]").unwrap();
        assert!(args.contains(&"crc=1".into()), "{args:?}");
        assert!(!args.iter().any(|arg| arg.to_string_lossy().contains("nrext64")), "{args:?}");
        let features = vec![("-i", "nrext64", true)];
        assert!(xfs_args(&Xfs { features, ..xfs }, false, "crc=0|1").is_err());
    }

    #[test]
    fn inodes_do_not_become_fewer() {
        let ext = Ext { block_bytes: 1024, inodes: 128, ..Ext::default() };
        // 13 groups, of 8192 blocks each.
        assert_eq!(inodes(&ext, 100 << 20), 13 * 16);
        assert_eq!((inodes(&ext, 8 << 20), inodes(&ext, 0)), (128, 128));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("mkfs.xfs version 6.1.0") >= Some(XFS_MIN_SINCE));
        assert!(version("mkfs.xfs version 5.19.0") >= Some(XFS_MIN_SINCE));
        assert!(version("mkfs.xfs version 5.2.0") < Some(XFS_MIN_SINCE) && version("?").is_none());
    }

    #[test]
    fn reserved_room_stays_in_proportion() {
        assert_eq!(percent(0, 1000), "0.00");
        assert_eq!(percent(51, 1000), "5.10");
        assert_eq!((percent(1, 0), percent(u64::MAX, 1)), ("50.00".to_owned(), "50.00".to_owned()));
    }
}
