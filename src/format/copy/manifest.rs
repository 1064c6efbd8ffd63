//! The manifest of a copy, `lhrecover-preserve.json`: every file of the source, and what it holds.
//!
//! It says what the copy must be, so that it can be checked when the source is gone. docs/JSON.md has its keys.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// The version of the manifest; it grows when a key changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// The most bytes a manifest may have: room for the 65,536 files a directory may hold.
pub const MAX_BYTES: u64 = 64 << 20;

/// How a copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// Data read and written.
    Copy,
    /// Blocks shared with the source.
    Clone,
    /// An archive.
    Archive,
}

/// All that is known of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyManifest {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that made it.
    pub lhrecover_version: String,
    /// The path of the source.
    pub source: String,
    /// How it was made.
    pub kind: CopyKind,
    /// What the directory itself has.
    pub directory: Attributes,
    /// The files, by name.
    pub files: Vec<CopiedFile>,
}

/// Mode, owner, time and extended attributes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// The permission bits, as a number.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last modified: seconds since 1970.
    pub modified_seconds: i64,
    /// And the rest, in nanoseconds.
    pub modified_nanoseconds: i64,
    /// Extended attributes by name; values in hexadecimal digits.
    pub xattrs: BTreeMap<String, String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// Another name of a regular file.
    Link,
    /// A symbolic link.
    Symlink,
}

/// One name of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedFile {
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// The file it is another name of, or the path a symbolic link holds.
    pub target: Option<String>,
    /// Mode, owner, time and extended attributes; those of another name are the file's.
    pub attributes: Option<Attributes>,
    /// What a regular file holds.
    pub content: Option<CopiedContent>,
}

/// What a regular file of a copy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedContent {
    /// Its length in bytes.
    pub size_bytes: u64,
    /// How many extents it has; one that goes on in the next 64 MiB counts as two.
    pub extents: u64,
    /// Bytes in written sectors.
    pub data_bytes: u64,
    /// Bytes in sectors that were preallocated and never written.
    pub unwritten_bytes: u64,
    /// Whether what is preallocated in the source are written zeros here.
    pub unwritten_as_zeros: bool,
    /// The digest of the layer, 64 hexadecimal digits; `null` for a clone, whose bytes were not read.
    pub digest: Option<String>,
}

impl CopyManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Why it cannot be used: what follows the file's name in a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| format!("cannot be understood ({e})"))?;
        if manifest.schema_version != SCHEMA_VERSION {
            return Err(format!(
                "has version {}, and this program knows {SCHEMA_VERSION}",
                manifest.schema_version
            ));
        }
        Ok(manifest)
    }

    /// The files by name.
    pub fn by_name(&self) -> HashMap<&str, &CopiedFile> {
        self.files.iter().map(|file| (file.name.as_str(), file)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused() {
        let manifest = CopyManifest {
            schema_version: SCHEMA_VERSION,
            lhrecover_version: "0.1.0".into(),
            source: "/var/lib/longhorn/replicas/a-1".into(),
            kind: CopyKind::Copy,
            directory: Attributes::default(),
            files: Vec::new(),
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert_eq!(CopyManifest::parse(text.as_bytes()), Ok(manifest));
        let newer = text.replace("\"schema_version\":1", "\"schema_version\":2");
        assert!(CopyManifest::parse(newer.as_bytes()).unwrap_err().contains("version 2"));
        assert!(CopyManifest::parse(b"").is_err());
    }
}
