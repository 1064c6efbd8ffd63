//! An NBD client that sends anything: the negotiation, and the transmission if it comes that far. Errors are fine;
//! panics, waiting, and memory that depends on what is claimed (`scripts/fuzz` limits it) are bugs.
//!
//! And: in chunks, whatever is told of the read-only export is true, and no chunk reaches past its end.

#![no_main]

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use lhrecover::access::nbd::negotiate::negotiate;
use lhrecover::access::nbd::record::{Record, Watcher};
use lhrecover::access::nbd::transmit::Transmission;
use lhrecover::access::nbd::{Catalog, Listed};
use lhrecover::error::{Error, Result};
use lhrecover::model::finding::Finding;
use lhrecover::model::units::ByteRange;
use lhrecover::view::disk::{Content, Disk, Stretch, check_range};
use libfuzzer_sys::fuzz_target;

/// Longer than a piece that is read at once.
const SIZE: usize = 300_000;

/// What there is: data, zeros, a hole, and data to the end.
const STRETCHES: [(usize, Content); 4] =
    [(8192, Content::Data), (12288, Content::Zeros), (280_000, Content::Hole), (SIZE, Content::Data)];

/// How much is taken of what the server says. Then the client is gone.
const MAX_SAID: usize = 1 << 20;

static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let is_data = |i: &usize| *i < 8192 || *i >= 280_000;
    (0..SIZE).map(|i| if is_data(&i) { u8::try_from(i % 251).unwrap_or(0) } else { 0 }).collect()
});

/// As it is; nobody can write to it.
static READ_ONLY: LazyLock<Arc<Fake>> = LazyLock::new(|| Arc::new(Fake::new(false)));

struct Fake {
    bytes: Mutex<Vec<u8>>,
    writable: bool,
}

impl Fake {
    fn new(writable: bool) -> Self {
        Fake { bytes: Mutex::new(CONTENT.clone()), writable }
    }
}

impl Disk for Fake {
    fn size_bytes(&self) -> u64 {
        SIZE as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let range = check_range(SIZE as u64, offset_bytes, buf.len())?;
        let at = range.start_bytes as usize;
        buf.copy_from_slice(&self.bytes.lock().unwrap()[at..at + buf.len()]);
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        let mut start = 0;
        let all = STRETCHES.map(|(end, content)| {
            let stretch = Stretch { range: ByteRange::new(start, end as u64).clip(range), content };
            start = end as u64;
            stretch
        });
        // What was written may be anywhere.
        let whole = |s: Stretch| if self.writable { Stretch { content: Content::Data, ..s } } else { s };
        Ok(all.into_iter().map(whole).filter(|stretch| !stretch.range.is_empty()).collect())
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn put(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let range = check_range(SIZE as u64, offset_bytes, bytes.len())?;
        let at = range.start_bytes as usize;
        self.bytes.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        self.bytes.lock().unwrap()[range.start_bytes as usize..range.end_bytes as usize].fill(0);
        Ok(())
    }
}

/// The default export is read-only, `w` is not, and `x` cannot be opened.
struct Fakes;

impl Catalog for Fakes {
    fn list(&self) -> Vec<Listed> {
        ["", "w", "x"].map(|name| Listed { name: name.to_owned(), description: "fake".to_owned() }).into()
    }

    fn describe(&self, name: &str) -> Option<String> {
        ["", "w", "x"].contains(&name).then(|| "fake".to_owned())
    }

    fn open(&self, name: &str) -> Option<Result<Arc<dyn Disk>>> {
        match name {
            "" => Some(Ok(READ_ONLY.clone())),
            "w" => Some(Ok(Arc::new(Fake::new(true)))),
            "x" => Some(Err(Error::refused("no").with_hint("never"))),
            _ => None,
        }
    }
}

struct Nobody;

impl Watcher for Nobody {
    fn failed(&self, _: &Error) {}
    fn found(&self, _: &[Finding]) {}
}

/// What the server says.
struct Said(Vec<u8>);

impl Write for &mut Said {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.0.len() > MAX_SAID {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut sent = bytes;
    let mut said = Said(Vec::new());
    let Ok(Some(session)) = negotiate(&mut sent, &mut &mut said, &Fakes) else { return };
    let checked = session.structured && !session.disk.is_writable();
    said.0.clear();
    let record = Record::new(&Nobody);
    let done = Transmission::new(session, sent, &mut said, &record).work();
    if checked && done.is_ok() {
        check(&said.0);
    }
});

/// Walks through replies; all reads are in chunks.
fn check(mut said: &[u8]) {
    while !said.is_empty() {
        if said.starts_with(&[0x67, 0x44, 0x66, 0x98]) {
            said = &said[16..];
            continue;
        }
        assert!(said.starts_with(&[0x66, 0x8e, 0x33, 0xef]), "neither a reply nor a chunk");
        let kind = u16::from_be_bytes([said[6], said[7]]);
        let len = u32::from_be_bytes([said[16], said[17], said[18], said[19]]) as usize;
        let payload = &said[20..20 + len];
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()) as usize;
        match kind {
            0 => assert_eq!(len, 0),
            1 => assert!(CONTENT[number(4)..][..len - 8] == payload[8..], "other bytes"),
            2 => assert!(CONTENT[number(4)..][..number(8)].iter().all(|&b| b == 0), "a hole with data"),
            5 => {
                let told: usize = (4..len).step_by(8).map(number).sum();
                assert!(told > 0 && told <= SIZE, "a status of {told} bytes");
            }
            0x8001 => assert_eq!(len, 6 + usize::from(u16::from_be_bytes([payload[4], payload[5]]))),
            other => panic!("a chunk of type {other}"),
        }
        said = &said[20 + len..];
    }
}
