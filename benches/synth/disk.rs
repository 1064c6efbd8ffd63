//! A synthetic volume as files: a replica directory, the flat image it merges into, and the check of one.
//!
//! The directory looks as longhorn-engine leaves it after a clean close (names, modes, JSON fields of 1.12). The
//! flat image comes from the [`Layout`] alone, by no code that it is used to judge.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use lhrecover::model::units::ByteRange;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use rayon::prelude::*;

use super::recipe::{Dice, Layout, Piece};

/// Makes the replica directory `dir`, which must not exist, and syncs it.
pub fn write_replica(layout: &Layout, dir: &Path) -> io::Result<()> {
    let recipe = layout.recipe();
    DirBuilder::new().mode(0o700).create(dir)?;
    (0..recipe.layers).into_par_iter().try_for_each(|layer| {
        let name = layer_name(layout, layer);
        write_image(layout, layout.layer(layer), &dir.join(&name))?;
        write_small(&dir.join(format!("{name}.meta")), 0o644, layer_meta(layout, layer).as_bytes())
    })?;
    let head = layer_name(layout, recipe.layers - 1);
    let info = format!(
        r#"{{"Size":{},"Head":"{head}","Dirty":false,"Rebuilding":false,"Error":"","Parent":"{}","SectorSize":512,"BackingFilePath":"","Encrypted":false}}"#,
        recipe.volume_bytes,
        parent_name(layout, recipe.layers - 1),
    );
    write_small(&dir.join("volume.meta"), 0o644, (info + "\n").as_bytes())?;
    let mut counter = (recipe.writes + 1).to_string().into_bytes();
    counter.resize(4096, 0);
    write_small(&dir.join("revision.counter"), 0o600, &counter)?;
    File::open(dir)?.sync_all()
}

/// Writes the merged volume as a sparse file, which must not exist, and syncs it.
pub fn write_flat(layout: &Layout, path: &Path) -> io::Result<()> {
    write_image(layout, layout.merged(), path)
}

/// Writes as many bytes to the same places of a new file as the merged volume has, from memory, in one thread: what no copy
/// through the page cache can do without. Returns how long the writes took; nothing is synced.
pub fn write_bare(layout: &Layout, path: &Path) -> io::Result<Duration> {
    const MOST_BYTES: u64 = 1 << 20;
    let mut ranges: Vec<ByteRange> = Vec::new();
    for Piece { range, .. } in layout.merged() {
        match ranges.last_mut() {
            Some(last)
                if last.end_bytes == range.start_bytes
                    && last.len_bytes() + range.len_bytes() <= MOST_BYTES =>
            {
                last.end_bytes = range.end_bytes;
            }
            _ => ranges.push(range),
        }
    }
    let longest = ranges.iter().map(ByteRange::len_bytes).max().unwrap_or(0);
    let bytes = vec![b'x'; usize::try_from(longest).map_err(io::Error::other)?];
    let image = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    image.set_len(layout.recipe().volume_bytes)?;
    let started = Instant::now();
    for range in ranges {
        let len = usize::try_from(range.len_bytes()).map_err(io::Error::other)?;
        image.write_all_at(&bytes[..len], range.start_bytes)?;
    }
    Ok(started.elapsed())
}

/// Compares an image with the merged volume; holes count as zeros. Says where the first difference is.
pub fn check(layout: &Layout, path: &Path) -> io::Result<Option<String>> {
    let image = File::open(path)?;
    let (has, wanted) = (fs::metadata(path)?.len(), layout.recipe().volume_bytes);
    if has != wanted {
        return Ok(Some(format!("the image has {has} bytes, the volume {wanted}")));
    }
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    let mut at_bytes = 0;
    for Piece { range, age } in layout.merged() {
        if let Some(offset) = first_nonzero(&image, ByteRange::new(at_bytes, range.start_bytes), &mut found)?
        {
            return Ok(Some(format!("offset {offset} must be zero")));
        }
        let len = usize::try_from(range.len_bytes()).map_err(io::Error::other)?;
        expected.resize(len, 0);
        found.resize(len, 0);
        layout.fill(age, range.start_bytes, &mut expected);
        image.read_exact_at(&mut found, range.start_bytes)?;
        if let Some(at) = expected.iter().zip(&found).position(|(a, b)| a != b) {
            return Ok(Some(format!("the byte {at} after offset {} differs", range.start_bytes)));
        }
        at_bytes = range.end_bytes;
    }
    let rest = first_nonzero(&image, ByteRange::new(at_bytes, wanted), &mut found)?;
    Ok(rest.map(|offset| format!("offset {offset} must be zero")))
}

/// Where the first byte that is not zero lies, to within the buffer's length.
fn first_nonzero(image: &File, range: ByteRange, buf: &mut Vec<u8>) -> io::Result<Option<u64>> {
    const STEP_BYTES: u64 = 1 << 20;
    let mut at_bytes = range.start_bytes;
    while at_bytes < range.end_bytes {
        match seek_data(image, at_bytes)? {
            Some(data) if data < range.end_bytes => at_bytes = data,
            _ => break,
        }
        let len = STEP_BYTES.min(range.end_bytes - at_bytes);
        buf.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        image.read_exact_at(buf, at_bytes)?;
        if buf.iter().any(|&byte| byte != 0) {
            return Ok(Some(at_bytes));
        }
        at_bytes += len;
    }
    Ok(None)
}

fn seek_data(image: &File, from_bytes: u64) -> io::Result<Option<u64>> {
    let from = i64::try_from(from_bytes).map_err(io::Error::other)?;
    match lseek(image.as_fd(), from, Whence::SeekData) {
        Ok(data) => u64::try_from(data).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn write_image(layout: &Layout, pieces: impl Iterator<Item = Piece>, path: &Path) -> io::Result<()> {
    let image = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    image.set_len(layout.recipe().volume_bytes)?;
    let mut buf = Vec::new();
    for Piece { range, age } in pieces {
        buf.resize(usize::try_from(range.len_bytes()).map_err(io::Error::other)?, 0);
        layout.fill(age, range.start_bytes, &mut buf);
        image.write_all_at(&buf, range.start_bytes)?;
    }
    image.sync_all()
}

fn write_small(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn layer_name(layout: &Layout, layer: u64) -> String {
    if layer + 1 == layout.recipe().layers {
        return head_name(layer);
    }
    let mut dice = Dice::new(layout.recipe().seed, layer);
    let (a, b) = (dice.roll(), dice.roll());
    format!(
        "volume-snap-{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}.img",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// The head's name after so many snapshots: the engine counts on from the last digit, so 010 is followed by 001.
fn head_name(snapshots: u64) -> String {
    let number = if snapshots == 0 { 0 } else { (snapshots - 1) % 10 + 1 };
    format!("volume-head-{number:03}.img")
}

fn parent_name(layout: &Layout, layer: u64) -> String {
    layer.checked_sub(1).map(|parent| layer_name(layout, parent)).unwrap_or_default()
}

fn layer_meta(layout: &Layout, layer: u64) -> String {
    let is_head = layer + 1 == layout.recipe().layers;
    let labels = if is_head { "null" } else { r#"{"type":"snapshot"}"# };
    // A snapshot keeps the name that its file had as the head.
    format!(
        r#"{{"Name":"{}","Parent":"{}","Removed":false,"UserCreated":{},"Created":"2026-03-{:02}T{:02}:00:00Z","Labels":{labels}}}"#,
        head_name(layer),
        parent_name(layout, layer),
        !is_head,
        1 + layer / 24,
        layer % 24,
    ) + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::recipe::Recipe;
    use super::*;

    fn layout(layers: u64, overlap_percent: u64) -> Layout {
        Layout::new(Recipe {
            volume_bytes: 8 << 20,
            layers,
            writes: 100,
            write_bytes: 16 << 10,
            zero_percent: 10,
            overlap_percent,
            seed: 7,
        })
        .unwrap()
    }

    fn indices(range: ByteRange) -> std::ops::Range<usize> {
        usize::try_from(range.start_bytes).unwrap()..usize::try_from(range.end_bytes).unwrap()
    }

    /// Layer over layer in memory: the definition of a merge.
    fn painted(layout: &Layout) -> Vec<u8> {
        let mut volume = vec![0; usize::try_from(layout.recipe().volume_bytes).unwrap()];
        for layer in 0..layout.recipe().layers {
            for Piece { range, age } in layout.layer(layer) {
                layout.fill(age, range.start_bytes, &mut volume[indices(range)]);
            }
        }
        volume
    }

    fn runs(path: &Path) -> usize {
        let image = File::open(path).unwrap();
        let mut at = 0;
        let mut count = 0;
        while let Some(data) = seek_data(&image, at).unwrap() {
            let hole = lseek(image.as_fd(), i64::try_from(data).unwrap(), Whence::SeekHole).unwrap();
            at = u64::try_from(hole).unwrap();
            count += 1;
        }
        count
    }

    #[test]
    fn the_flat_image_is_the_layers_painted_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(7, 50);
        let flat = dir.path().join("flat");
        write_flat(&layout, &flat).unwrap();
        assert!(layout.merged().count() > 100, "some older writes must show");
        assert!(fs::read(&flat).unwrap() == painted(&layout));
        assert_eq!(check(&layout, &flat).unwrap(), None);
    }

    #[test]
    fn layers_on_disk_hold_each_write_as_an_extent_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(7, 50);
        let replica = dir.path().join("replica");
        write_replica(&layout, &replica).unwrap();
        let mut volume = vec![0; 8 << 20];
        for layer in 0..7 {
            let path = replica.join(layer_name(&layout, layer));
            assert_eq!(runs(&path), layout.layer(layer).count());
            let bytes = fs::read(&path).unwrap();
            for Piece { range, .. } in layout.layer(layer) {
                volume[indices(range)].copy_from_slice(&bytes[indices(range)]);
            }
        }
        assert!(volume == painted(&layout));
    }

    #[test]
    fn without_overlap_the_number_of_layers_changes_nothing_in_the_merge() {
        let one = layout(1, 0);
        let many = layout(50, 0);
        assert!(painted(&one) == painted(&many));
        assert!(one.merged().eq(many.merged()));
        assert_eq!((0..50).map(|l| many.layer(l).count()).sum::<usize>(), 100);
    }

    #[test]
    fn the_check_finds_one_wrong_byte_in_data_and_in_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(3, 0);
        let flat = dir.path().join("flat");
        write_flat(&layout, &flat).unwrap();
        let image = OpenOptions::new().read(true).write(true).open(&flat).unwrap();
        let first = layout.merged().next().unwrap().range;
        for offset in [first.start_bytes + 5, first.end_bytes, (8 << 20) - 1] {
            let mut byte = [0];
            image.read_exact_at(&mut byte, offset).unwrap();
            image.write_all_at(&[!byte[0]], offset).unwrap();
            assert!(check(&layout, &flat).unwrap().is_some(), "offset {offset}");
            image.write_all_at(&byte, offset).unwrap();
        }
        image.set_len(4096).unwrap();
        assert!(check(&layout, &flat).unwrap().is_some());
    }

    #[test]
    fn head_numbers_wrap_as_the_engine_wraps_them() {
        let names: Vec<_> = [0, 1, 9, 10, 11].map(head_name).into();
        assert_eq!(names[3..], ["volume-head-010.img", "volume-head-001.img"]);
        assert_eq!(names[2], "volume-head-009.img");
        assert!(layer_meta(&layout(1, 0), 0).contains(r#""Parent":"","#));
    }
}
