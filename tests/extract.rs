//! `extract` against the kernel: for file systems of every kind of the ext family, what comes out is what a mount shows.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use common::cli::lhrecover;
use common::ext::{PLAIN, Recipe, make};
use common::loopdev::{LoopDevice, Mounted, available, skipped};
use common::same_tree::assert_same_tree;
use common::text;

/// Makes the file system, and compares what `extract` makes of it with what the kernel shows: after it was unmounted, and as
/// it was in the middle, with a journal to be replayed.
fn compare(recipe: &Recipe) {
    let test = format!("extract of {}", recipe.name);
    if !available(&test) {
        return;
    }
    let tmp = common::scratch();
    let Some((clean, dirty)) = recipe.images(tmp.path()) else {
        return skipped(&test, "mke2fs or the kernel does not know it");
    };
    for (state, image) in [("clean", clean), ("dirty", dirty)] {
        let what = format!("{}, {state}", recipe.name);
        let dir = tmp.path().join(state);
        fs::create_dir(&dir).unwrap();
        let before = state_of(&image.path);
        // A target that keeps all of it.
        let target = recipe.large_xattrs.then(|| {
            let image = make(&dir.join("target.img"), recipe.mke2fs, 256 << 20).unwrap();
            fs::create_dir(dir.join("target")).unwrap();
            let device = LoopDevice::over(&image.path);
            (Mounted::at(&device.path, &dir.join("target")), device)
        });
        let out = if target.is_some() { dir.join("target/out") } else { dir.join("out") };
        let ran = lhrecover(&["extract", text(&image.path), "--to", text(&out), "--json", "--no-sync"]);
        assert_eq!(ran.status.code(), Some(0), "{what}: {}{}", ran.text(), ran.stderr);
        assert_eq!(state_of(&image.path), before, "{what}: the image was changed");
        let _mounted = image.mounted(&dir.join("copy.img"), &dir.join("mnt"));
        assert_same_tree(&dir.join("mnt"), &out, &what);
        // A second time there is nothing left to do.
        let again = lhrecover(&["extract", text(&image.path), "--to", text(&out), "--json"]).exits(0).json();
        assert_eq!(
            (&again["files"], &again["symlinks"], &again["specials"]),
            (&0.into(), &0.into(), &0.into())
        );
        assert_same_tree(&dir.join("mnt"), &out, &format!("{what}, again"));
    }
}

/// An image's bytes, and what else must stay. Its extents are not looked at: in ranges that the loop device has only
/// preallocated, reading makes SEEK_DATA find data.
fn state_of(image: &Path) -> (String, [i64; 6]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(image).unwrap()).unwrap();
    let meta = fs::metadata(image).unwrap();
    let times =
        [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.atime(), meta.atime_nsec()];
    (hasher.finalize().to_hex().to_string(), times)
}

/// A test for each recipe.
macro_rules! recipes {
    ($($name:ident: $recipe:expr;)*) => {
        $(#[test] fn $name() { compare(&$recipe); })*
    };
}

recipes! {
    ext2_of_revision_0: Recipe { name: "ext2 of revision 0", mke2fs: &["-t", "ext2", "-r", "0"], extra_times: false, ..PLAIN };
    ext2: Recipe { name: "ext2", mke2fs: &["-t", "ext2", "-b", "1024", "-I", "128"], extra_times: false, ..PLAIN };
    ext3_1k: Recipe { name: "ext3, 1K", mke2fs: &["-t", "ext3", "-b", "1024"], ..PLAIN };
    ext3_data_in_journal: Recipe { name: "ext3, data=journal", mke2fs: &["-t", "ext3"], mount: "data=journal", ..PLAIN };
    ext4_1k: Recipe { name: "ext4, 1K", mke2fs: &["-t", "ext4", "-b", "1024"], ..PLAIN };
    ext4_2k: Recipe { name: "ext4, 2K", mke2fs: &["-t", "ext4", "-b", "2048"], ..PLAIN };
    ext4_4k: Recipe { name: "ext4, 4K", mke2fs: &["-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum"], ..PLAIN };
    ext4_data_in_journal: Recipe { name: "ext4, data=journal", mount: "data=journal", ..PLAIN };
    ext4_32bit: Recipe { name: "ext4 without 64bit", mke2fs: &["-t", "ext4", "-O", "^64bit"], ..PLAIN };
    ext4_without_checksums: Recipe { name: "ext4 without checksums", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"], ..PLAIN };
    ext4_group_checksums: Recipe { name: "ext4 with uninit_bg", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"], ..PLAIN };
    ext4_journal_checksum: Recipe {
        name: "ext4, journal_checksum", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,^64bit"], mount: "journal_checksum", ..PLAIN
    };
    ext4_async_commit: Recipe {
        name: "ext4, journal_async_commit", mke2fs: &["-t", "ext4", "-O", "^metadata_csum"],
        mount: "journal_async_commit,data=writeback", ..PLAIN
    };
    ext4_async_commit_v3: Recipe {
        name: "ext4, journal_async_commit, metadata_csum", mke2fs: &["-t", "ext4", "-O", "metadata_csum"],
        mount: "journal_async_commit,data=writeback", ..PLAIN
    };
    ext4_without_extents: Recipe { name: "ext4 without extents", mke2fs: &["-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"], ..PLAIN };
    ext4_inline_data: Recipe { name: "ext4 with inline_data", mke2fs: &["-t", "ext4", "-O", "inline_data"], ..PLAIN };
    ext4_inline_data_in_large_inodes: Recipe {
        name: "ext4 with inline_data, 1K inodes", mke2fs: &["-t", "ext4", "-O", "inline_data", "-I", "1024"], ..PLAIN
    };
    ext4_bigalloc: Recipe { name: "ext4 with bigalloc", mke2fs: &["-t", "ext4", "-O", "bigalloc", "-C", "65536", "-N", "4000"], ..PLAIN };
    ext4_large_xattrs: Recipe { name: "ext4 with ea_inode", mke2fs: &["-t", "ext4", "-O", "ea_inode"], large_xattrs: true, ..PLAIN };
    ext4_without_journal: Recipe { name: "ext4 without journal", mke2fs: &["-t", "ext4", "-O", "^has_journal"], ..PLAIN };
    ext4_small_inodes: Recipe {
        name: "ext4, 128-byte inodes", mke2fs: &["-t", "ext4", "-I", "128", "-O", "metadata_csum"], extra_times: false, ..PLAIN
    };
    ext4_meta_bg: Recipe {
        name: "ext4 with meta_bg", mke2fs: &["-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"], ..PLAIN
    };
    ext4_sparse_super2: Recipe { name: "ext4 with sparse_super2", mke2fs: &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,meta_bg,^resize_inode"], ..PLAIN };
    ext4_without_dir_index: Recipe { name: "ext4 without dir_index", mke2fs: &["-t", "ext4", "-O", "^dir_index,^filetype,^metadata_csum"], ..PLAIN };
    ext4_everything: Recipe {
        name: "ext4 with many features",
        mke2fs: &["-t", "ext4", "-O", "large_dir,mmp,orphan_file,metadata_csum_seed,encrypt,verity,stable_inodes"], ..PLAIN
    };
    ext4_small_journal: Recipe { name: "ext4, a journal that wraps", mke2fs: &["-t", "ext4", "-b", "1024", "-J", "size=1"], ..PLAIN };
}
