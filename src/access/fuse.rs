//! A disk as an image file in a directory of its own (FUSE).
//!
//! The file system there has one file, [`IMAGE_NAME`]. Whoever can take a raw image can take it: a loop device, `qemu`,
//! `cryptsetup`. Reads that fail are errors there as they are here, and the reason is told to whoever serves.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow,
    WriteFlags,
};
use nix::libc;
use nix::unistd::{getegid, geteuid};

use crate::error::{Error, Result};
use crate::model::units::ByteRange;
use crate::view::disk::{Content, Disk};

/// The image's name in its directory.
pub const IMAGE_NAME: &str = "volume.img";

/// What the file system is called in the list of mounts.
pub const SOURCE_NAME: &str = "lhrecover";

/// How many requests are answered at once. More than cores: a thread that waits for a disk needs none.
const THREADS: usize = 8;

/// The most that one request reads or writes, in bytes; as much as kernels since 4.20 ask for at once.
const MAX_REQUEST_BYTES: u32 = 1 << 20;

/// Nothing there ever changes behind the kernel's back.
const FOREVER: Duration = Duration::from_secs(1 << 30);

const IMAGE: INodeNo = INodeNo(2);

/// A disk that is being served as a file, until somebody unmounts it.
pub struct ServedImage {
    /// Never dropped: that would unmount by path what may be somebody else's mount by then.
    session: ManuallyDrop<BackgroundSession>,
}

impl ServedImage {
    /// Mounts a file system with `disk` as its one file at the directory `dir`, and begins to serve it. What
    /// `allocated_bytes` of it are on a disk is shown as the file's blocks. `report` hears of every read or write that fails.
    ///
    /// # Errors
    /// `Usage` when FUSE cannot be had.
    pub fn mount(
        disk: Arc<dyn Disk>,
        dir: &Path,
        allocated_bytes: u64,
        report: impl Fn(&Error) + Send + Sync + 'static,
    ) -> Result<Self> {
        let image = ImageFs { disk, allocated_bytes, since: SystemTime::now(), report: Box::new(report) };
        let mut config = Config::default();
        let access = if image.disk.is_writable() { MountOption::RW } else { MountOption::RO };
        config.mount_options = vec![
            access,
            MountOption::NoDev,
            MountOption::NoSuid,
            MountOption::NoExec,
            MountOption::FSName(SOURCE_NAME.to_owned()),
            MountOption::Subtype(SOURCE_NAME.to_owned()),
        ];
        config.n_threads = Some(THREADS);
        let session = Session::new(image, dir, &config).and_then(Session::spawn).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::NotFound => "FUSE is not there: as root `modprobe fuse`, in a container `--device /dev/fuse`; who is \
                                            not root needs fusermount3, of Debian's package fuse3",
                _ => "who is not root needs fusermount3, of Debian's package fuse3, and the directory must be their own",
            };
            Error::usage("cannot mount the image's file system (FUSE)").with_path(dir).caused_by(e).with_hint(hint)
        })?;
        Ok(ServedImage { session: ManuallyDrop::new(session) })
    }

    /// Whether it was unmounted.
    pub fn has_ended(&self) -> bool {
        self.session.guard.is_finished()
    }
}

struct ImageFs {
    disk: Arc<dyn Disk>,
    allocated_bytes: u64,
    since: SystemTime,
    report: Box<dyn Fn(&Error) + Send + Sync>,
}

thread_local! {
    /// What a read is answered from: one that large is not to be had anew for each.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl ImageFs {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size, allocated) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o500, 0, 0),
            IMAGE => {
                let perm = if self.disk.is_writable() { 0o600 } else { 0o400 };
                (FileType::RegularFile, perm, self.disk.size_bytes(), self.allocated_bytes)
            }
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: allocated.min(size).div_ceil(512),
            atime: self.since,
            mtime: self.since,
            ctime: self.since,
            crtime: self.since,
            kind,
            perm,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Tells of an error, and what the kernel is to hear of it.
    fn failed(&self, error: &Error) -> Errno {
        (self.report)(error);
        let no_room = error.io_cause().is_some_and(|cause| cause.kind() == io::ErrorKind::StorageFull);
        if no_room { Errno::ENOSPC } else { Errno::EIO }
    }

    /// Where, from `offset_bytes` on, there is data first, or first none: `SEEK_DATA` and `SEEK_HOLE` of lseek(2).
    fn seek(&self, offset_bytes: u64, data: bool) -> std::result::Result<u64, Errno> {
        let size_bytes = self.disk.size_bytes();
        let mut at = offset_bytes;
        while at < size_bytes {
            let stretches =
                self.disk.stretches(ByteRange::new(at, size_bytes)).map_err(|e| self.failed(&e))?;
            let found = stretches.iter().find(|stretch| (stretch.content == Content::Data) == data);
            if let Some(stretch) = found {
                return Ok(stretch.range.start_bytes.max(offset_bytes));
            }
            let end = stretches.last().map_or(at, |last| last.range.end_bytes);
            if end <= at {
                return Err(Errno::EIO);
            }
            at = end;
        }
        // The end of a file counts as a hole.
        if data || offset_bytes >= size_bytes { Err(Errno::ENXIO) } else { Ok(size_bytes) }
    }
}

impl Filesystem for ImageFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The kernel has the last word; what it does not offer is done without.
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(IMAGE).filter(|_| parent == INodeNo::ROOT && name == IMAGE_NAME) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Times may be set, and are forgotten; anything else may not.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = size.is_some_and(|size| size != self.disk.size_bytes());
        match self.attributes(inode) {
            _ if mode.is_some() || uid.is_some() || gid.is_some() || resized => reply.error(Errno::EPERM),
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if inode != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (IMAGE, FileType::RegularFile, IMAGE_NAME),
        ];
        let left = (1..).zip(entries).filter(|(next, _)| *next > offset);
        for (next, (inode, kind, name)) in left {
            if reply.add(inode, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if inode != IMAGE {
            reply.error(Errno::EISDIR);
        } else if flags.acc_mode() != OpenAccMode::O_RDONLY && !self.disk.is_writable() {
            reply.error(Errno::EROFS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.disk.size_bytes().saturating_sub(offset);
        let len = usize::try_from(left.min(size.into())).unwrap_or_default();
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            match self.disk.read_exact_at(&mut buffer[..len], offset) {
                Ok(()) => reply.data(&buffer[..len]),
                Err(e) => reply.error(self.failed(&e)),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk.put(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(e) => reply.error(self.failed(&e)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// What is written is thrown away in the end: it need not reach a disk.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    /// A loop device asks for zeros and discards in this way.
    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
        if !zeroes || mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.disk.zero(ByteRange::new(offset, offset.saturating_add(length))) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(self.failed(&e)),
        }
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Ok(offset_bytes) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let found = match whence {
            libc::SEEK_DATA => self.seek(offset_bytes, true),
            libc::SEEK_HOLE => self.seek(offset_bytes, false),
            _ => Err(Errno::EINVAL),
        };
        match found.map(i64::try_from) {
            Ok(Ok(at)) => reply.offset(at),
            Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
            Err(errno) => reply.error(errno),
        }
    }
}
