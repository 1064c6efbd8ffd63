//! Which part of a volume is meant: all of it, or a partition.
//!
//! A volume nearly always holds one file system and nothing else. Where it holds a partition table, and just one of
//! the partitions has something to look into, that one is meant.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::guest::partition::{self as tables, Partition, Table};
use crate::guest::{Guest, GuestKind, on_disk};
use crate::model::units::ByteRange;
use crate::view::disk::{Disk, Part};

/// The most partitions that are looked into. A table may name thousands, and they all may be made up.
const MAX_LOOKED_INTO: usize = 128;

/// What a volume, or a partition of it, holds.
pub struct Inside {
    /// The disk to look into.
    pub disk: Arc<dyn Disk>,
    /// Where it is in the volume.
    pub range: ByteRange,
    /// The partition that it is; `None` for the whole volume.
    pub partition: Option<Partition>,
    /// What it was recognised as.
    pub guest: Option<Guest>,
    /// What is to be said of how it was found.
    pub note: Option<String>,
}

/// The partition of that number.
///
/// # Errors
/// `Usage` when there is none, with those there are; `Source` when the table is damaged, or the partition reaches past
/// the volume's end.
pub fn partition(whole: Arc<dyn Disk>, number: u32) -> Result<Inside> {
    let table = tables::read(&*whole)?.ok_or_else(|| {
        Error::usage("the volume has no partition table")
            .with_hint("leave out --partition to take the whole volume")
    })?;
    let found = table.partitions.iter().find(|partition| partition.number == number);
    let found = found.ok_or_else(|| {
        Error::usage(format!("the volume has no partition {number}"))
            .with_hint(format!("it has {}", listed(&whole, &table)))
    })?;
    Ok(Inside { note: table.doubt.map(str::to_owned), ..part(&whole, found)? })
}

/// The whole volume or, where that holds a partition table and one partition that can be looked into, that partition.
///
/// # Errors
/// `Usage` when there are several; as [`partition`] otherwise.
pub fn find(whole: Arc<dyn Disk>) -> Result<Inside> {
    let guest = on_disk(&*whole)?;
    let range = ByteRange::new(0, whole.size_bytes());
    let all = |disk| Inside { disk, range, partition: None, guest, note: None };
    if guest.is_some_and(|guest| guest.kind != GuestKind::Other) {
        return Ok(all(whole));
    }
    let Some(table) = tables::read(&*whole)? else { return Ok(all(whole)) };
    let parts =
        table.partitions.iter().take(MAX_LOOKED_INTO).filter_map(|partition| part(&whole, partition).ok());
    let mut candidates: Vec<_> = parts.filter(|inside| is_worth_a_look(inside.guest)).collect();
    match (candidates.pop(), candidates.len()) {
        (Some(only), 0) => Ok(Inside { note: Some(taken(&table, &only)), ..only }),
        (None, _) => Err(Error::source(format!("there is no file system in the volume's partitions: it has {}", listed(&whole, &table)))
            .with_hint("name one with --partition; or use the whole volume with other tools: lhrecover mount --image-only")),
        _ => Err(Error::usage("the volume has several partitions with a file system: which one is meant is not clear")
            .with_hint(format!("name one with --partition: {}", listed(&whole, &table)))),
    }
}

/// The partition `number`, or what [`find`] finds without one.
///
/// # Errors
/// As the two.
pub fn look(whole: Arc<dyn Disk>, number: Option<u32>) -> Result<Inside> {
    match number {
        Some(number) => partition(whole, number),
        None => find(whole),
    }
}

fn is_worth_a_look(guest: Option<Guest>) -> bool {
    guest.is_some_and(|guest| matches!(guest.kind, GuestKind::FileSystem | GuestKind::Luks))
}

fn part(whole: &Arc<dyn Disk>, partition: &Partition) -> Result<Inside> {
    let disk: Arc<dyn Disk> = Arc::new(Part::new(Arc::clone(whole), partition.range)?);
    let guest = on_disk(&*disk)?;
    Ok(Inside { disk, range: partition.range, partition: Some(partition.clone()), guest, note: None })
}

fn taken(table: &Table, only: &Inside) -> String {
    let number = only.partition.as_ref().map_or(0, |partition| partition.number);
    let doubt = table.doubt.map(|doubt| format!("; {doubt}")).unwrap_or_default();
    format!("the volume has {}: partition {number} is the one with a file system{doubt}", table.scheme.name())
}

/// The partitions in words: number, where they begin, how long they are, and what they hold.
fn listed(whole: &Arc<dyn Disk>, table: &Table) -> String {
    let words = table.partitions.iter().take(MAX_LOOKED_INTO).map(|partition| {
        let ByteRange { start_bytes, .. } = partition.range;
        let len = partition.range.len_bytes();
        let holds = match part(whole, partition) {
            Ok(Inside { guest: Some(guest), .. }) => guest.name,
            Ok(_) => "nothing that is known",
            Err(_) => "cannot be read, or reaches past the volume's end",
        };
        format!("{} (at byte {start_bytes}, {len} bytes: {holds})", partition.number)
    });
    let words: Vec<_> = words.collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
