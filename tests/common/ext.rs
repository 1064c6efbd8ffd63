//! File systems of the ext family in image files, filled through the kernel with one of everything.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{AT_FDCWD, FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::loopdev::{LoopDevice, Mounted, run, sparse_file};
use super::text;

/// How to make a file system.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub name: &'static str,
    /// Options of mke2fs.
    pub mke2fs: &'static [&'static str],
    /// Options of mount, for filling it.
    pub mount: &'static str,
    /// Whether an inode has room for extended attributes of any size.
    pub large_xattrs: bool,
    /// Whether times go past 2038 and have nanoseconds.
    pub extra_times: bool,
}

/// What everything else is like.
pub const PLAIN: Recipe = Recipe {
    name: "ext4",
    mke2fs: &["-t", "ext4"],
    mount: "defaults",
    large_xattrs: false,
    extra_times: true,
};

/// An image of a file system that is not mounted.
pub struct ExtImage {
    pub path: PathBuf,
}

/// Makes an empty image of `size_bytes` at `path`; `None` where mke2fs does not know an option.
pub fn make(path: &Path, options: &[&str], size_bytes: u64) -> Option<ExtImage> {
    sparse_file(path, size_bytes);
    let made = Command::new("mke2fs")
        .args(["-q", "-F"])
        .args(options)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .expect("mke2fs");
    made.status.success().then(|| ExtImage { path: path.to_path_buf() })
}

impl Recipe {
    /// Makes the image, fills it while it is mounted, and copies it in the middle: the copy has a journal to be replayed,
    /// if it has one. Returns both, the clean one first; `None` where the kernel or mke2fs does not know it.
    pub fn images(&self, dir: &Path) -> Option<(ExtImage, ExtImage)> {
        fs::create_dir(dir.join("images")).unwrap();
        let clean = make(&dir.join("images/clean.img"), self.mke2fs, 96 << 20)?;
        let dirty = ExtImage { path: dir.join("images/dirty.img") };
        let point = dir.join("made");
        fs::create_dir(&point).unwrap();
        {
            let device = LoopDevice::over(&clean.path);
            let status =
                Command::new("mount").args(["-o", self.mount]).args([&device.path, &point]).output().unwrap();
            if !status.status.success() {
                return None;
            }
            let _mounted = Mounted { point: point.clone() };
            self.fill(&point);
            // Into the journal, and not from there to its place.
            nix::unistd::syncfs(File::open(&point).unwrap()).unwrap();
            self.change(&point);
            nix::unistd::syncfs(File::open(&point).unwrap()).unwrap();
            run("cp", &["--sparse=always", text(&clean.path), text(&dirty.path)]);
        }
        Some((clean, dirty))
    }

    /// One of everything.
    fn fill(&self, root: &Path) {
        files(root);
        names(root);
        links(root);
        specials(root);
        self.attributes(root);
    }

    /// What is left for the journal: changes to what is there.
    fn change(&self, root: &Path) {
        fs::remove_file(root.join("sizes/4096")).unwrap();
        fs::write(root.join("sizes/new"), pattern(5000, 9)).unwrap();
        fs::rename(root.join("sizes/100"), root.join("sizes/renamed")).unwrap();
        for i in (0..400).step_by(3) {
            fs::remove_file(root.join(format!("many/file-{i:04}"))).unwrap();
        }
        // What was a directory's block becomes data.
        fs::remove_dir_all(root.join("gone")).unwrap();
        for i in 0..40 {
            fs::write(root.join(format!("sizes/reused-{i}")), pattern(3000, i)).unwrap();
        }
        // A block that begins like one of the journal's own.
        fs::write(root.join("escaped"), [&[0xc0, 0x3b, 0x39, 0x98][..], &pattern(8000, 3)].concat()).unwrap();
    }

    fn attributes(&self, root: &Path) {
        let dir = root.join("attributes");
        fs::create_dir(&dir).unwrap();
        for (i, mode) in [0o400, 0o644, 0o4755, 0o2755, 0o1777, 0].into_iter().enumerate() {
            let path = dir.join(format!("mode-{mode:o}"));
            fs::write(&path, "x").unwrap();
            let id = u32::try_from(i).unwrap();
            chown(&path, Some(1000 + id), Some(70_000 + id)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let mut times = vec![(0, 0), (-1_000_000_000, 0), (2_000_000_000, 0)];
        if self.extra_times {
            times.extend([(3_000_000_000, 999_999_999), (9_000_000_000, 1), (-1, 500_000_000)]);
        }
        for (seconds, nanos) in times {
            let path = dir.join(format!("time{seconds}"));
            fs::write(&path, "x").unwrap();
            set_time(&path, seconds, nanos);
        }
        let with = |name: &str, attributes: &[(&str, &[u8])]| {
            let path = dir.join(name);
            fs::write(&path, "x").unwrap();
            for (attribute, value) in attributes {
                xattr::set(&path, attribute, value).unwrap_or_else(|e| panic!("{attribute}: {e}"));
            }
        };
        with("xattr-small", &[("user.a", b"1"), ("user.empty", b""), ("trusted.t", b"\0\xff")]);
        let many: Vec<_> = (0..10).map(|i| (format!("user.number-{i}"), pattern(20, i))).collect();
        with("xattr-many", &many.iter().map(|(n, v)| (n.as_str(), v.as_slice())).collect::<Vec<_>>());
        with("xattr-shared-1", &[("user.shared", &[7; 300])]);
        with("xattr-shared-2", &[("user.shared", &[7; 300])]);
        if self.large_xattrs {
            with("xattr-large", &[("user.large", &pattern(20_000, 1)), ("user.other", &pattern(60_000, 2))]);
        }
        // User, a named user, group, mask, others, as setfacl -m u:1234:rw has it.
        let acl = |tags: &[(u16, u16, u32)]| {
            let mut bytes = 2u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in tags {
                bytes.extend(tag.to_le_bytes());
                bytes.extend(permissions.to_le_bytes());
                bytes.extend(id.to_le_bytes());
            }
            bytes
        };
        let all = [(1, 6, u32::MAX), (2, 6, 1234), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)];
        with("acl", &[("system.posix_acl_access", &acl(&all))]);
        fs::create_dir(dir.join("acl-default")).unwrap();
        xattr::set(dir.join("acl-default"), "system.posix_acl_default", &acl(&all)).unwrap();
        // cap_net_raw+ep, in version 2 of the format.
        let capability: Vec<u8> =
            [0x0200_0001u32, 0x2000, 0, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
        with("capability", &[("security.capability", &capability)]);
    }
}

/// Bytes that differ from block to block.
pub fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i / 512 + i * 7 + seed * 13 + 1) % 251).unwrap()).collect()
}

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let at = TimeSpec::new(seconds, nanos);
    utimensat(AT_FDCWD, path, &at, &at, UtimensatFlags::NoFollowSymlink).unwrap();
}

fn files(root: &Path) {
    let sizes = root.join("sizes");
    fs::create_dir(&sizes).unwrap();
    for len in [0, 1, 59, 60, 61, 100, 150, 200, 1023, 1024, 1025, 4096, 40_000, 300_000] {
        fs::write(sizes.join(len.to_string()), pattern(len, len)).unwrap();
    }
    // Holes, up to where a block map has three levels with 1K blocks.
    let sparse = File::create(root.join("sparse")).unwrap();
    for at in [0u64, 100 << 10, (270 << 10) + 7, 3 << 20, 66 << 20, 80 << 20] {
        sparse.write_all_at(&pattern(3000, 5), at).unwrap();
    }
    sparse.set_len((90 << 20) + 17).unwrap();
    fs::File::create(root.join("only-hole")).unwrap().set_len(1 << 30).unwrap();
    let fragmented = File::create(root.join("fragmented")).unwrap();
    for i in (0..600u64).step_by(2) {
        fragmented.write_all_at(&pattern(4096, 1), i * 4096).unwrap();
    }
    let unwritten = File::create(root.join("unwritten")).unwrap();
    // Not all of the family have such a thing.
    let _ = fallocate(&unwritten, FallocateFlags::empty(), 0, 1 << 20);
    let _ = fallocate(&unwritten, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 2 << 20);
    unwritten.write_all_at(&pattern(5000, 2), 200_000).unwrap();
    unwritten.set_len(1 << 20).unwrap();
    let many = root.join("many");
    fs::create_dir(&many).unwrap();
    fs::create_dir(root.join("gone")).unwrap();
    for i in 0..600 {
        fs::write(many.join(format!("file-{i:04}")), if i % 10 == 0 { "content" } else { "" }).unwrap();
        if i < 150 {
            fs::write(root.join(format!("gone/{i}-{}", "x".repeat(100))), "").unwrap();
        }
    }
}

fn names(root: &Path) {
    let dir = root.join("names");
    fs::create_dir(&dir).unwrap();
    let long = [b'n'; 255];
    let names: &[&[u8]] = &[
        b" ",
        b"with space",
        "é\u{1f600}".as_bytes(),
        b"\xff\xfe",
        b"a\nb\x1b[31m",
        b"-rf",
        b".hidden",
        b"...",
        &long,
    ];
    for name in names {
        fs::write(dir.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let mut deep = dir;
    for i in 0..40 {
        deep = deep.join(format!("level-{i}"));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "deep").unwrap();
}

fn links(root: &Path) {
    let dir = root.join("links");
    fs::create_dir(&dir).unwrap();
    for (name, target) in [
        ("relative", "../sizes/1".to_owned()),
        ("absolute", "/sizes/60".to_owned()),
        ("dangling", "nowhere".to_owned()),
        ("up", "../../../../../../sizes".to_owned()),
        ("self", "self".to_owned()),
        ("circle-a", "circle-b".to_owned()),
        ("circle-b", "circle-a".to_owned()),
        ("len-59", "x".repeat(59)),
        ("len-60", "y".repeat(60)),
        ("len-1000", "z/".repeat(500)),
    ] {
        symlink(target, dir.join(name)).unwrap();
    }
    lchown(dir.join("dangling"), Some(5), Some(6)).unwrap();
    set_time(&dir.join("dangling"), 1_000_000_000, 0);
    fs::write(dir.join("one"), "three names").unwrap();
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    fs::hard_link(dir.join("one"), root.join("three")).unwrap();
}

fn specials(root: &Path) {
    let dir = root.join("specials");
    fs::create_dir(&dir).unwrap();
    let mode = Mode::from_bits_truncate(0o640);
    mknod(&dir.join("fifo"), SFlag::S_IFIFO, mode, 0).unwrap();
    mknod(&dir.join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
    mknod(&dir.join("disk"), SFlag::S_IFBLK, mode, makedev(259, 70_000)).unwrap();
    // A socket's path has a limit.
    let open = File::open(&dir).unwrap();
    drop(UnixListener::bind(format!("/proc/self/fd/{}/socket", open.as_raw_fd())).unwrap());
}

impl ExtImage {
    /// The kernel's word on it: mounted, with the journal replayed, from a copy at `copy`; at `point`.
    pub fn mounted(&self, copy: &Path, point: &Path) -> (LoopDevice, Mounted) {
        run("cp", &["--sparse=always", text(&self.path), text(copy)]);
        fs::create_dir(point).unwrap();
        let device = LoopDevice::over(copy);
        run("mount", &["-o", "ro", text(&device.path), text(point)]);
        (device, Mounted { point: point.to_path_buf() })
    }
}

/// An image with fast commits in its journal, copied while it was mounted: changes to 30 files, their names and lengths, of
/// which e2fsck 1.47 makes damage. `None`, said on stderr, where that cannot be made.
pub fn with_fast_commits(test: &str, dir: &Path) -> Option<PathBuf> {
    if !super::loopdev::available(test) {
        return None;
    }
    let Some(image) = make(&dir.join("fast.img"), &["-t", "ext4", "-O", "fast_commit"], 96 << 20) else {
        super::loopdev::skipped(test, "mke2fs does not know fast commits");
        return None;
    };
    let (point, copy) = (dir.join("fast"), dir.join("fast-dirty.img"));
    fs::create_dir(&point).unwrap();
    let device = LoopDevice::over(&image.path);
    let _mounted = Mounted::at(&device.path, &point);
    fs::create_dir(point.join("d")).unwrap();
    nix::unistd::syncfs(File::open(&point).unwrap()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = File::options().create(true).truncate(false).write(true).open(point.join(name)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.sync_all().unwrap();
        file
    };
    for i in 0..30 {
        write(&format!("f{i}"), format!("{i}").repeat(3000).as_bytes());
    }
    fs::hard_link(point.join("f1"), point.join("link")).unwrap();
    write("f1", b"new");
    fs::rename(point.join("f2"), point.join("d/renamed")).unwrap();
    write("d/renamed", b"ren");
    fs::remove_file(point.join("f3")).unwrap();
    let short = write("f4", b"xx");
    short.set_len(10).unwrap();
    short.sync_all().unwrap();
    run("cp", &["--sparse=always", text(&image.path), text(&copy)]);
    Some(copy)
}
