//! A physical volume of LVM: `struct label_header`, `pv_header` and `mda_header` in LVM2's `lib/format_text/layout.h`.

use crate::error::Result;
use crate::guest::facts::{Facts, Kind, bytes_at};
use crate::guest::fields::Fields;
use crate::view::disk::Disk;

const SECTOR: usize = 512;
const MAGIC: &[u8] = b"LABELONE";
const AREA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// How many areas a header may list; there are two lists, and each has very few.
const MAX_AREAS: usize = 16;
/// How long the name of a volume group may be (`NAME_LEN`).
const NAME_BYTES: u64 = 128;
/// The groups that an identifier is written in.
const ID_GROUPS: [usize; 7] = [6, 4, 4, 4, 4, 4, 6];

/// What the label says; `None` when there is none.
///
/// # Errors
/// When the metadata cannot be read.
pub fn facts(head: &[u8], disk: &dyn Disk) -> Result<Option<Facts>> {
    let label = (0..4).find_map(|i| head.get(i * SECTOR..).filter(|rest| rest.starts_with(MAGIC)));
    let Some(label) = label.map(Fields::little) else { return Ok(None) };
    let mut facts = Facts::of(Kind::Lvm, "an LVM physical volume");
    let offset = label.u32(20).and_then(|offset| usize::try_from(offset).ok());
    let header = offset.and_then(|offset| label.bytes.get(offset..)).map(Fields::little);
    let Some(header) = header else {
        facts.damage.push("its label leads nowhere".to_owned());
        return Ok(Some(facts));
    };
    facts.uuid = header.text(0, 32).and_then(|id| grouped(&id));
    facts.size_bytes = header.u64(32);
    if let Some(area) = first_metadata_area(&header) {
        facts.notes.extend(group_name(disk, area)?.map(|name| format!("volume group {name}")));
    }
    Ok(Some(facts))
}

/// Where the first metadata area is: two lists of offsets and sizes end with zeros, data areas first.
fn first_metadata_area(header: &Fields<'_>) -> Option<u64> {
    let mut at = 40;
    for _ in 0..MAX_AREAS {
        let offset = header.u64(at)?;
        at += 16;
        if offset == 0 {
            return header.u64(at).filter(|&area| area > 0);
        }
    }
    None
}

/// The name that the metadata in the area at `area` begins with.
fn group_name(disk: &dyn Disk, area: u64) -> Result<Option<String>> {
    let bytes = bytes_at(disk, area, 512)?;
    let header = Fields::little(&bytes);
    let is_area = bytes.get(4..).is_some_and(|rest| rest.starts_with(AREA_MAGIC));
    let Some(text) = header.u64(40).filter(|_| is_area).and_then(|offset| area.checked_add(offset)) else {
        return Ok(None);
    };
    let text = bytes_at(disk, text, NAME_BYTES + 2)?;
    let name = text.split(|&b| b == b' ').next().unwrap_or_default();
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"+_.-".contains(b);
    let found = !name.is_empty() && name.len() < text.len() && name.iter().all(is_name);
    Ok(found.then(|| String::from_utf8_lossy(name).into_owned()))
}

fn grouped(id: &str) -> Option<String> {
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_graphic()) {
        return None;
    }
    let mut rest = id;
    let parts = ID_GROUPS.map(|len| {
        let (part, after) = rest.split_at(len);
        rest = after;
        part
    });
    Some(parts.join("-"))
}
