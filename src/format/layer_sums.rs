//! The digests of a replica's layers, kept outside of it to be compared with later: a file of our own.
//!
//! What is digested, and how, is documented with the JSON that commands print (docs/JSON.md, "layer digests"). New keys
//! may come; an unknown one is passed over.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a replica directory's name is followed by in the file's name.
pub const FILE_SUFFIX: &str = ".lhrecover-sums.json";

/// The most bytes such a file is read with: room for 100,000 layers.
pub const MAX_BYTES: u64 = 32 << 20;

/// The version that is written, and the only one that is read.
pub const SCHEMA_VERSION: u32 = 1;

/// The digests of a replica's layers at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSums {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that took them.
    pub lhrecover_version: String,
    /// The name of the replica directory.
    pub replica: String,
    /// When they were taken, by the clock of the machine.
    pub taken_at: Timestamp,
    /// Whether the file system told unwritten extents from holes.
    pub tells_unwritten: bool,
    /// The layers, by file name.
    pub layers: Vec<RecordedDigest>,
}

/// The digest of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDigest {
    /// The file name.
    pub file: String,
    /// The file's length in bytes.
    pub size_bytes: u64,
    /// Bytes in written sectors.
    pub data_bytes: u64,
    /// Bytes in sectors that were preallocated and never written.
    pub unwritten_bytes: u64,
    /// The digest of the layer: 64 lower-case hexadecimal digits.
    pub blake3: String,
}

/// Reads the bytes of such a file.
///
/// # Errors
/// What is wrong with it, in words that follow its name.
pub fn parse(bytes: &[u8]) -> Result<LayerSums, String> {
    let sums: LayerSums =
        serde_json::from_slice(bytes).map_err(|e| format!("is no list of layer digests ({e})"))?;
    if sums.schema_version != SCHEMA_VERSION {
        return Err(format!("has the schema version {}, and not {SCHEMA_VERSION}", sums.schema_version));
    }
    let is_digest =
        |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match sums.layers.iter().find(|layer| !is_digest(&layer.blake3)) {
        Some(layer) => Err(format!("has no digest of {:?}", layer.file)),
        None => Ok(sums),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums() -> LayerSums {
        LayerSums {
            schema_version: SCHEMA_VERSION,
            lhrecover_version: "0.1.0".into(),
            replica: "pvc-1-0a1b2c3d".into(),
            taken_at: Timestamp::UNIX_EPOCH,
            tells_unwritten: true,
            layers: vec![RecordedDigest {
                file: "volume-head-000.img".into(),
                size_bytes: 1 << 40,
                data_bytes: 4096,
                unwritten_bytes: 0,
                blake3: "0f".repeat(32),
            }],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = serde_json::to_string(&sums()).unwrap();
        assert_eq!(parse(text.as_bytes()), Ok(sums()));
        assert_eq!(parse(text.replacen('{', "{\"later\":[1],", 1).as_bytes()), Ok(sums()));
    }

    #[test]
    fn anything_else_is_refused() {
        let text = serde_json::to_string(&sums()).unwrap();
        let breaks = [
            ("\"schema_version\":1", "\"schema_version\":2"),
            ("0f0f", "0F0F"),
            ("0f0f", ""),
            ("layers", "l"),
        ];
        for (from, to) in breaks {
            assert!(parse(text.replacen(from, to, 1).as_bytes()).is_err(), "{from} {to}");
        }
        assert!(parse(b"").is_err() && parse(b"[]").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300) {
            let _ = parse(&bytes);
            let text = serde_json::to_string(&sums()).unwrap();
            prop_assert_eq!(parse(&text.as_bytes()[..cut.min(text.len())]).is_ok(), cut >= text.len());
        }
    }
}
