//! Records in an unlinked temporary file, in the order in which they were put there.
//!
//! A comparison can find millions of changes, and what comes before them in a report is known only when all were found.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};

/// Records in the making.
pub struct Spooling(BufWriter<File>);

/// Records that can be read back, as often as one likes.
pub struct Spool(File);

impl Spooling {
    /// None yet.
    ///
    /// # Errors
    /// `Output` when there is no place for a temporary file.
    pub fn new() -> Result<Self> {
        Ok(Spooling(BufWriter::new(tempfile::tempfile().map_err(failed)?)))
    }

    /// Puts one more there.
    ///
    /// # Errors
    /// `Output` when the temporary file cannot be written.
    pub fn add(&mut self, record: &[u8]) -> Result<()> {
        let len = u32::try_from(record.len()).map_err(|e| failed(io::Error::other(e)))?;
        self.0.write_all(&len.to_le_bytes()).and_then(|()| self.0.write_all(record)).map_err(failed)
    }

    /// That was all.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn finish(self) -> Result<Spool> {
        self.0.into_inner().map(Spool).map_err(|e| failed(e.into_error()))
    }
}

impl Spool {
    /// The records, in their order. An error is that of reading them, and the last item.
    pub fn iter(&self) -> Records<'_> {
        Records { reader: BufReader::new(Reading { file: &self.0, at_bytes: 0 }), is_over: false }
    }
}

/// Records on their way back.
pub struct Records<'a> {
    reader: BufReader<Reading<'a>>,
    is_over: bool,
}

/// A place in the file, of which several can be read at once.
struct Reading<'a> {
    file: &'a File,
    at_bytes: u64,
}

impl Read for Reading<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at_bytes)?;
        self.at_bytes += read as u64;
        Ok(read)
    }
}

impl Records<'_> {
    fn record(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut len = [0; 4];
        self.reader.read_exact(&mut len)?;
        let mut record = vec![0; usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?];
        self.reader.read_exact(&mut record)?;
        Ok(Some(record))
    }
}

impl Iterator for Records<'_> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = self.record().transpose();
        self.is_over = !matches!(record, Some(Ok(_)));
        record
    }
}

fn failed(cause: io::Error) -> Error {
    Error::output("cannot keep the changes in a temporary file")
        .with_path(std::env::temp_dir())
        .caused_by(cause)
        .with_hint("name a directory with more room in TMPDIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_their_order_and_more_than_once() {
        let records: Vec<_> = (1..3000usize).map(|len| vec![0xab; len % 97 * (len % 5)]).collect();
        let mut spooling = Spooling::new().unwrap();
        records.iter().for_each(|record| spooling.add(record).unwrap());
        let spool = spooling.finish().unwrap();
        let (mut one, mut other) = (spool.iter(), spool.iter());
        for record in &records {
            assert_eq!(
                (one.next().unwrap().unwrap(), other.next().unwrap().unwrap()),
                (record.clone(), record.clone())
            );
        }
        assert!(one.next().is_none() && other.next().is_none());
    }
}
