//! LUKS: "LUKS1 On-Disk Format Specification" 1.2.3, and "LUKS2 On-Disk Format Specification" 1.1, section 2.1.
//!
//! Nothing of the content can be said without the key, but whether there is a header that a key can open: without it all
//! is lost, whoever knows the passphrase.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::guest::facts::{Facts, Kind, bytes_at};
use crate::guest::fields::Fields;
use crate::view::disk::Disk;

const MAGIC: &[u8] = b"LUKS\xba\xbe";
/// What the second header of LUKS2 begins with.
const SECOND_MAGIC: &[u8] = b"SKUL\xba\xbe";
/// Where the second header can be: right behind the first one, whose length is one of these.
const HEADER_BYTES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
/// How long the part before the JSON is, and where in it the sum is.
const BINARY_BYTES: usize = 4096;
const SUM: std::ops::Range<usize> = 448..512;
/// LUKS1: eight key slots of 48 bytes from here on, and what marks one in use.
const SLOTS: usize = 208;
const SLOT_IN_USE: u32 = 0x00ac_71f3;

/// What the header says; `None` when there is none.
///
/// # Errors
/// When a header of LUKS2 cannot be read to its end.
pub fn facts(head: &[u8], disk: &dyn Disk) -> Result<Option<Facts>> {
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let header = Fields::big(head);
    let mut facts = Facts { uuid: header.text(168, 40), ..Facts::of(Kind::Luks, "a LUKS container") };
    match header.u16(6) {
        Some(1) => {
            let in_use = (0..8).filter(|slot| header.u32(SLOTS + slot * 48) == Some(SLOT_IN_USE)).count();
            facts.name = "a LUKS1 container".to_owned();
            slots(&mut facts, in_use);
        }
        Some(2) => {
            facts.name = "a LUKS2 container".to_owned();
            facts.label = header.text(24, 48);
            second_version(&mut facts, header, disk)?;
        }
        version => facts.damage.push(format!("its header has a version that is not known: {version:?}")),
    }
    Ok(Some(facts))
}

/// The headers of LUKS2: one that matches its sum is enough.
fn second_version(facts: &mut Facts, header: Fields<'_>, disk: &dyn Disk) -> Result<()> {
    let stated = header.u64(8).filter(|bytes| HEADER_BYTES.contains(bytes));
    let mut whole = match stated {
        Some(bytes) => whole_header(disk, 0, bytes)?,
        None => None,
    };
    if whole.is_none() {
        facts.damage.push("its first header does not match its checksum".to_owned());
        for bytes in HEADER_BYTES {
            if bytes_at(disk, bytes, 6)? == SECOND_MAGIC {
                whole = whole_header(disk, bytes, bytes)?;
            }
        }
        facts.damage.push(match &whole {
            Some(_) => "its second header is whole: cryptsetup repair can restore the first one".to_owned(),
            None => "its second header is not whole, either: no passphrase opens it, only a backup of the header does"
                .to_owned(),
        });
    }
    if let Some(json) = whole {
        slots(facts, json["keyslots"].as_object().map_or(0, serde_json::Map::len));
    }
    Ok(())
}

/// The JSON of the header at `at`, if the header matches its sum.
fn whole_header(disk: &dyn Disk, at: u64, header_bytes: u64) -> Result<Option<Value>> {
    let bytes = bytes_at(disk, at, header_bytes)?;
    let Some((binary, json)) = bytes.split_at_checked(BINARY_BYTES) else { return Ok(None) };
    if Fields::big(binary).text(72, 32).as_deref() != Some("sha256") {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    digest.update(&binary[..SUM.start]);
    digest.update([0; 64]);
    digest.update(&binary[SUM.end..]);
    digest.update(json);
    if digest.finalize()[..] != binary[SUM.start..SUM.start + 32] {
        return Ok(None);
    }
    let text = json.split(|&b| b == 0).next().unwrap_or_default();
    Ok(serde_json::from_slice(text).ok())
}

fn slots(facts: &mut Facts, in_use: usize) {
    if in_use == 0 {
        facts.damage.push("it has no key slot in use: no passphrase opens it".to_owned());
    } else {
        facts.notes.push(format!("key slots in use: {in_use}"));
    }
}
