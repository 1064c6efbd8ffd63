//! One compressed cluster in, its bytes out, and never more of them than a cluster has.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::format::qcow2::Compression;

/// Fills `cluster` from `packed`, which may have anything after the compressed data.
///
/// # Errors
/// When the data is damaged or ends early.
pub(super) fn inflate(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    match compression {
        Compression::Deflate => inflate_deflate(packed, cluster),
        Compression::Zstd => inflate_zstd(packed, cluster),
    }
}

fn inflate_deflate(packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    let mut decoder = Decompress::new(false);
    decoder.decompress(packed, cluster, FlushDecompress::Finish)?;
    match usize::try_from(decoder.total_out()) {
        Ok(done) if done == cluster.len() => Ok(()),
        _ => Err(ends_early()),
    }
}

fn inflate_zstd(mut packed: &[u8], cluster: &mut [u8]) -> io::Result<()> {
    let mut decoder = FrameDecoder::new();
    decoder.init(&mut packed).map_err(io::Error::other)?;
    // Stops soon after a cluster's worth: a small frame may unfold to any size.
    let enough = BlockDecodingStrategy::UptoBytes(cluster.len() + 1);
    let finished = decoder.decode_blocks(&mut packed, enough).map_err(io::Error::other)?;
    if !finished || decoder.can_collect() > cluster.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more than a cluster"));
    }
    decoder.read_exact(cluster).map_err(|_| ends_early())
}

fn ends_early() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "less than a cluster")
}
