//! `<layer>.img.meta`: a layer's parent, which is the only source of the chain.
//!
//! Type `disk` in longhorn-engine `pkg/replica/replica.go`.

use crate::format::json::{Damage, Object, Quirks};

/// The most bytes such a file is read with. The engine writes about 200; labels can make it longer.
pub const MAX_BYTES: u64 = 256 << 10;

const KEYS: [&str; 6] = ["Name", "Parent", "Removed", "UserCreated", "Created", "Labels"];

/// The label of a snapshot that an expansion took; its value is the new size in bytes.
pub const EXPANSION_LABEL: &str = "replica-expansion";

/// What a layer's metadata says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerMeta {
    /// `Name`: not reliable. Snapshots keep the name of the head they were, rebuilt heads that of the source's.
    pub name: String,
    /// `Parent`: file name of the layer below; empty at the lowest.
    pub parent: String,
    /// Whether `Parent` is there at all, and not null; the engine always writes it.
    pub names_parent: bool,
    /// `Removed`: deleted, not yet purged. Its data is still needed.
    pub removed: bool,
    /// `UserCreated`: false for system snapshots (rebuild, expansion) and heads.
    pub user_created: bool,
    /// `Created`: RFC 3339; of a snapshot when it was taken, of a head when it began. Empty after a restore.
    pub created: String,
    /// `Labels`, in the order of the file.
    pub labels: Vec<(String, String)>,
    /// What the engine would pass over in silence.
    pub quirks: Quirks,
}

/// Reads the bytes of a layer's metadata.
///
/// # Errors
/// How they are damaged.
pub fn parse(bytes: &[u8]) -> Result<LayerMeta, Damage> {
    let object = Object::parse(bytes)?;
    if !object.has_any(&KEYS) {
        return Err(Damage::Foreign("none of the keys of a layer's metadata is there".into()));
    }
    Ok(LayerMeta {
        name: object.string("Name")?,
        parent: object.string("Parent")?,
        names_parent: object.says("Parent"),
        removed: object.flag("Removed")?.unwrap_or_default(),
        user_created: object.flag("UserCreated")?.unwrap_or_default(),
        created: object.string("Created")?,
        labels: object.labels("Labels")?,
        quirks: object.quirks(&KEYS),
    })
}

impl LayerMeta {
    /// Whether this is the bare `{"Parent":""}` that restoring a backup or cloning a volume writes.
    pub fn is_bare(&self) -> bool {
        self.name.is_empty() && self.created.is_empty() && !self.user_created
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_engine_writes_it() {
        let meta = parse(
            br#"{"Name":"volume-head-003.img","Parent":"volume-snap-a.img","Removed":false,"UserCreated":false,"Created":"2026-11-20T23:59:33Z","Labels":{"replica-expansion":"41943040"}}
"#,
        )
        .unwrap();
        assert_eq!(meta.parent, "volume-snap-a.img");
        assert_eq!(meta.labels, [(EXPANSION_LABEL.to_owned(), "41943040".to_owned())]);
        assert!(!meta.is_bare() && meta.names_parent && meta.quirks == Quirks::default());
    }

    #[test]
    fn a_restored_snapshot_says_only_that_it_has_no_parent() {
        let meta = parse(b"{\"Parent\":\"\"}\n").unwrap();
        assert!(meta.is_bare() && meta.names_parent && meta.parent.is_empty());
    }

    #[test]
    fn an_object_without_a_parent_is_taken_but_remembered() {
        for text in [r#"{"Name":"volume-head-000.img"}"#, r#"{"Name":"volume-head-000.img","Parent":null}"#] {
            assert!(!parse(text.as_bytes()).unwrap().names_parent, "{text}");
        }
        assert!(matches!(parse(b"{}"), Err(Damage::Foreign(_))));
    }
}
