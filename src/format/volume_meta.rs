//! `volume.meta`: what the volume is, and which file is its head.
//!
//! Type `Info` in longhorn-engine `pkg/replica/replica.go` (1.12); the fields of older versions are taken too.
//! The file has no version number and no checksum.

use crate::format::json::{Damage, Object, Quirks};

/// The file's name.
pub const FILE_NAME: &str = "volume.meta";

/// The most bytes such a file is read with. The engine writes about 400; `Error` can be longer.
pub const MAX_BYTES: u64 = 256 << 10;

const KEYS: [&str; 9] =
    ["Size", "Head", "Dirty", "Rebuilding", "Error", "Parent", "SectorSize", "BackingFilePath", "Encrypted"];

/// The name of `BackingFilePath` up to 1.1.0.
const OLD_BACKING_KEY: &str = "BackingFileName";

/// What `volume.meta` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMeta {
    /// `Size`: the present size of the volume in bytes, as told; it may be nonsense.
    pub size_bytes: i64,
    /// `Head`: the head's file name.
    pub head: String,
    /// `Dirty`: open when this was written. Not a sign of damage.
    pub dirty: bool,
    /// `Rebuilding`: being filled from another replica; not to be trusted, however complete it looks.
    pub rebuilding: bool,
    /// `Error`: what made the engine give this replica up; empty when nothing did.
    pub error: String,
    /// `Parent`: of the head; only informational, the head's own metadata decides.
    pub parent: String,
    /// `SectorSize` in bytes: 512; not the unit of the layers.
    pub sector_size: i64,
    /// `BackingFilePath`: the backing image as the engine's container sees it; empty when there is none.
    pub backing_file_path: String,
    /// `Encrypted`: from 1.12 on; absent says nothing.
    pub encrypted: Option<bool>,
    /// What the engine would pass over in silence.
    pub quirks: Quirks,
}

/// Reads the bytes of a `volume.meta`.
///
/// # Errors
/// How they are damaged.
pub fn parse(bytes: &[u8]) -> Result<VolumeMeta, Damage> {
    let object = Object::parse(bytes)?;
    if !object.has_any(&KEYS) {
        return Err(Damage::Foreign("none of the keys of a volume.meta is there".into()));
    }
    let mut quirks = object.quirks(&KEYS);
    let mut backing_file_path = object.string("BackingFilePath")?;
    if object.has_any(&[OLD_BACKING_KEY]) {
        quirks.old_keys.push(OLD_BACKING_KEY.into());
        if backing_file_path.is_empty() {
            backing_file_path = object.string(OLD_BACKING_KEY)?;
        }
    }
    Ok(VolumeMeta {
        size_bytes: object.number("Size")?,
        head: object.string("Head")?,
        dirty: object.flag("Dirty")?.unwrap_or_default(),
        rebuilding: object.flag("Rebuilding")?.unwrap_or_default(),
        error: object.string("Error")?,
        parent: object.string("Parent")?,
        sector_size: object.number("SectorSize")?,
        backing_file_path,
        encrypted: object.flag("Encrypted")?,
        quirks,
    })
}

/// What can still be read of a `volume.meta` that is cut off: the members that are complete. A hint for people,
/// never something to act on.
pub fn salvage(bytes: &[u8]) -> Option<VolumeMeta> {
    let commas = bytes.iter().enumerate().rev().filter(|(_, b)| **b == b',').map(|(i, _)| i);
    commas.take(16).find_map(|cut| {
        let mut mended = bytes[..cut].to_vec();
        mended.push(b'}');
        parse(&mended).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_engine_writes_it() {
        let meta = parse(
            br#"{"Size":33554432,"Head":"volume-head-001.img","Dirty":true,"Rebuilding":false,"Error":"","Parent":"volume-snap-x.img","SectorSize":512,"BackingFilePath":"","Encrypted":false}
"#,
        )
        .unwrap();
        let expected = VolumeMeta {
            size_bytes: 33_554_432,
            head: "volume-head-001.img".into(),
            dirty: true,
            parent: "volume-snap-x.img".into(),
            sector_size: 512,
            encrypted: Some(false),
            ..VolumeMeta::default()
        };
        assert_eq!(meta, expected);
    }

    #[test]
    fn the_old_name_of_the_backing_file_is_understood() {
        let meta = parse(br#"{"Size":4096,"Head":"h","BackingFileName":"/b"}"#).unwrap();
        assert_eq!((meta.backing_file_path.as_str(), meta.encrypted), ("/b", None));
        assert_eq!(meta.quirks.old_keys, ["BackingFileName"]);
        let both = parse(br#"{"BackingFileName":"/old","BackingFilePath":"/new"}"#).unwrap();
        assert_eq!(both.backing_file_path, "/new");
    }

    #[test]
    fn another_programs_json_is_foreign() {
        assert!(matches!(parse(br#"{"kind":"Pod"}"#), Err(Damage::Foreign(_))));
    }

    #[test]
    fn the_complete_members_of_a_cut_file_can_be_salvaged() {
        let meta = salvage(br#"{"Size":16777216,"Head":"volume-head-002.img","Dirty":fal"#).unwrap();
        assert_eq!((meta.size_bytes, meta.head.as_str()), (16_777_216, "volume-head-002.img"));
        assert_eq!(salvage(b"{\"Si"), None);
    }
}
