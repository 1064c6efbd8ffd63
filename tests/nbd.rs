//! The NBD protocol as `lhrecover serve` speaks it: random reads are the oracle, what makes no sense is refused, and nobody
//! who connects can stop it, or get a zero for a byte that could not be read.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.
#![allow(clippy::cast_possible_truncation)] // Volumes of a few MiB.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::chain::{BRANCH, image, snapshot};
use common::chains::chain_on_disk;
use common::nbd::{
    self, BLOCK_STATUS, CACHE, Chunk, Client, DF, FLUSH, READ, REQ_ONE, Server, TRIM, WRITE_ZEROES, chain,
    rig,
};
use common::scratch;
use common::strace::{self, READS};
use lhrecover::access::nbd::exports::{ExportOptions, Exports};
use lhrecover::access::nbd::listen::{Address, Listener};
use lhrecover::access::nbd::record::{Record, Watcher};
use lhrecover::access::nbd::server::serve;
use lhrecover::access::volume::VolumeOptions;
use lhrecover::error::Error;
use lhrecover::event::Cancel;
use lhrecover::model::finding::Finding;
use proptest::prelude::*;
use proptest::sample::Index;

const MIB: u64 = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const EOVERFLOW: u32 = 75;

/// The server within the test, which is quick to start.
fn served<T>(dir: &Path, client: impl FnOnce(&Path) -> T) -> T {
    struct Nobody;
    impl Watcher for Nobody {
        fn failed(&self, error: &Error) {
            panic!("{error}");
        }
        fn found(&self, _: &[Finding]) {}
    }
    let run = tempfile::tempdir().unwrap();
    let socket = run.path().join("s");
    let record = Record::new(&Nobody);
    let volume = VolumeOptions { accept_copy_damage: true, ..VolumeOptions::default() };
    let exports = Exports::new(dir, ExportOptions { volume, ..ExportOptions::default() }, &record).unwrap();
    let listener = Listener::bind(&Address::Unix(socket.clone()), false).unwrap();
    let cancel = Cancel::default();
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &exports, &record, &cancel));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client(&socket)));
        cancel.cancel();
        server.join().unwrap().unwrap();
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn range(bytes: &[u8], (start, len): &(Index, Index)) -> (usize, usize) {
    let start = start.index(bytes.len());
    (start, len.index(bytes.len() - start + 1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_reads_are_the_oracle(
        chain in chain_on_disk(),
        reads in proptest::collection::vec((any::<Index>(), any::<Index>()), 1..24),
    ) {
        let tmp = scratch();
        let dir = chain.write_to(tmp.path());
        let hides = common::scratch_has_fiemap();
        let head = chain.layers.len() - 1;
        let mut states = vec![(String::new(), chain.reads_as(head, hides))];
        states.extend((0..head).map(|place| (snapshot(place), chain.reads_as(place, hides))));
        states.extend(chain.branch_reads(hides).map(|bytes| (BRANCH.to_owned(), bytes)));
        served(&dir, |socket| {
            for (name, bytes) in &states {
                for connections in [1, 8] {
                    thread::scope(|scope| {
                        for number in 0..connections {
                            let reads = &reads;
                            scope.spawn(move || {
                                let mut client = Client::on(socket, name, number % 3 != 2);
                                for read in reads.iter().cycle().skip(number).take(reads.len()) {
                                    let (start, len) = range(bytes, read);
                                    let got = client.read(start as u64, len as u32).unwrap();
                                    assert!(got == bytes[start..start + len], "{name}: {len} at {start}");
                                }
                            });
                        }
                    });
                }
            }
        });
    }
}

#[test]
fn requests_in_flight_are_all_answered_and_long_ones_in_pieces() {
    let rig = rig();
    let bytes = chain().reads();
    let server = Server::of(&rig.dir, &[]);
    let mut client = Client::on(&server.socket, "", true);
    client.request(READ, 0, 0, 4 << 20);
    let chunks = client.chunks();
    let data = chunks.iter().filter(|chunk| matches!(chunk, Chunk::Data { .. })).count();
    assert!(data > 4, "1.6 MiB of data came in {data} chunks");
    let holes = chunks.iter().filter_map(|chunk| match chunk {
        Chunk::Hole { offset, length } => Some((*offset, *length)),
        _ => None,
    });
    assert_eq!(holes.collect::<Vec<_>>(), [(300 << 12, 200 << 12), (600 << 12, 424 << 12)]);
    assert_eq!(client.read(0, 4 << 20), Ok(bytes.clone()));
    assert_eq!(client.read(7, 0), Ok(vec![]));
    // Without fragments, if it is not too long.
    client.request(READ, DF, 290 << 12, 20 << 12);
    let expected = Chunk::Data { offset: 290 << 12, bytes: bytes[290 << 12..310 << 12].to_vec() };
    assert_eq!(client.chunks(), [expected]);
    client.request(READ, DF, 0, 4 << 20);
    assert!(matches!(&client.chunks()[..], [Chunk::Error { errno: EOVERFLOW, .. }]));
    // A simple reply has it all in one.
    let mut simple = Client::on(&server.socket, "", false);
    assert_eq!(simple.read(0, 4 << 20), Ok(bytes.clone()));
    assert_eq!(simple.read(1, 5000), Ok(bytes[1..5001].to_vec()));
    // Many at once, answered in any order.
    let mut many = Client::on(&server.socket, "", false);
    let cookies: Vec<_> = (0..200).map(|i| (many.request(READ, 0, i * 4096, 4096), i)).collect();
    let mut seen = [false; 200];
    for _ in 0..200 {
        let mut reply = [0; 16 + 4096];
        many.stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], *b"\x67\x44\x66\x98\0\0\0\0");
        let cookie = u64::from_be_bytes(reply[8..16].try_into().unwrap());
        let (_, i) = cookies.iter().find(|(known, _)| *known == cookie).unwrap();
        let at = *i as usize * 4096;
        assert!(reply[16..] == bytes[at..at + 4096] && !std::mem::replace(&mut seen[*i as usize], true));
    }
    server.stop().exits(0);
}

#[test]
fn what_makes_no_sense_is_refused_and_the_connection_goes_on() {
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    for structured in [true, false] {
        let mut client = Client::on(&server.socket, "", structured);
        let end = 4 * MIB;
        assert_eq!(client.read(end, 1), Err(EINVAL));
        assert_eq!(client.read(end - 1, 2), Err(EINVAL));
        assert_eq!(client.read(u64::MAX, 2), Err(EINVAL));
        assert_eq!(client.read(0, u32::MAX), Err(EINVAL));
        assert_eq!(client.ask(BLOCK_STATUS, end, 1), Err(EINVAL));
        assert_eq!(client.ask(BLOCK_STATUS, 0, 0), Err(EINVAL));
        assert_eq!(client.ask(99, 0, 0), Err(EINVAL));
        client.request(CACHE, 1 << 9, 0, 512);
        assert_eq!(client.simple(), Err(EINVAL));
        // Read-only, and what a write carries is read past.
        assert_eq!(client.write(0, &[1; 600_000]), Err(EPERM));
        assert_eq!(client.ask(WRITE_ZEROES, 0, 4096), Err(EPERM));
        assert_eq!(client.ask(TRIM, 0, 4096), Err(EPERM));
        assert_eq!(client.ask(CACHE, 0, 4 << 20), Ok(()));
        assert_eq!(client.ask(FLUSH, 0, 0), Ok(()));
        assert_eq!(client.read(0, 4096).unwrap(), chain().reads()[..4096]);
        if structured {
            client.request(BLOCK_STATUS, REQ_ONE, 299 << 12, 2 << 12);
            assert_eq!(client.chunks(), [Chunk::Status(vec![(1 << 12, 0)])]);
            client.request(BLOCK_STATUS, 0, 299 << 12, 2 << 12);
            assert_eq!(client.chunks(), [Chunk::Status(vec![(1 << 12, 0), (1 << 12, 3)])]);
        }
    }
    server.stop().exits(0);
}

#[test]
fn options_are_answered_as_the_protocol_has_it() {
    const ACK: u32 = 1;
    const UNSUP: u32 = 1 << 31 | 1;
    const INVALID: u32 = 1 << 31 | 3;
    const UNKNOWN: u32 = 1 << 31 | 6;
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    let mut client = Client::connect(&server.socket);
    let mut kinds = |option: u32, data: &[u8]| -> Vec<u32> {
        client.option(option, data).iter().map(|(kind, _)| *kind).collect()
    };
    let starttls = 5;
    assert_eq!(kinds(starttls, &[]), [UNSUP]);
    assert_eq!(kinds(4711, &[7; 60_000]), [UNSUP]);
    assert_eq!(kinds(3, b"x"), [INVALID]);
    assert_eq!(kinds(3, &[]), [2, 2, 2, 2, 2, ACK]);
    assert_eq!(kinds(10, b"\0\0\0\0\0\0\0\0"), [INVALID], "structured replies come first");
    assert_eq!(kinds(8, b"x"), [INVALID]);
    assert_eq!(kinds(8, &[]), [ACK]);
    assert_eq!(kinds(9, b"\0\0\0\0\0\0\0\0"), [4, ACK]);
    assert_eq!(kinds(9, b"\0\0\0\0\0\0\0\x01\0\0\0\x05base:"), [4, ACK]);
    assert_eq!(kinds(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x05base:"), [ACK]);
    assert_eq!(kinds(10, b"\0\0\0\x02no\0\0\0\0"), [UNKNOWN]);
    assert_eq!(kinds(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation"), [4, ACK]);
    assert_eq!(kinds(6, b"\0\0\0\x02no\0\0"), [UNKNOWN]);
    assert_eq!(kinds(6, b"\0\0\0\x09short\0\0"), [INVALID]);
    assert_eq!(kinds(6, b"\0\0\0\0\0\x03\0\x01\0\x02\0\x03"), [3, 3, 3, 3, ACK]);
    // The context was selected for another export.
    let mut other = client;
    let go = other.option(7, b"\0\0\0\x04s000\0\0");
    assert_eq!(go.last().unwrap().0, ACK);
    other.request(BLOCK_STATUS, 0, 0, 4096);
    assert!(matches!(&other.chunks()[..], [Chunk::Error { errno: EINVAL, .. }]));
    let mut leaving = Client::connect(&server.socket);
    assert_eq!(leaving.option(2, &[]), [(ACK, vec![])]);
    assert!(leaving.is_over());
    // The old way, with zeros after the answer.
    let mut old = UnixStream::connect(&server.socket).unwrap();
    old.read_exact(&mut [0; 18]).unwrap();
    old.write_all(b"\0\0\0\x01IHAVEOPT\0\0\0\x01\0\0\0\x04s000").unwrap();
    let mut told = [7; 134];
    old.read_exact(&mut told).unwrap();
    assert_eq!((&told[..8], &told[10..]), (&(4 * MIB).to_be_bytes()[..], &[0; 124][..]));
    server.stop().exits(0);
}

#[test]
fn hostile_clients_end_their_own_connection() {
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    let over = |sent: &[u8]| {
        let mut stream = UnixStream::connect(&server.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        // It may be over before all is sent.
        let _ = stream.write_all(sent);
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        rest.len()
    };
    assert_eq!(over(b"\xff\xff\xff\xff"), 0, "flags that are not known");
    assert_eq!(over(b"\0\0\0\x03GET / HTTP/1.1\r\n\r\n"), 0);
    assert_eq!(over(b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff"), 0, "an absurd length");
    assert_eq!(over(b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\x10\0abc"), 0, "cut off");
    assert_eq!(over(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02no"), 0, "the old way knows no errors");
    assert_eq!(over(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x02\xff\xfe"), 0);
    let many = b"IHAVEOPT\0\0\0\x63\0\0\0\0".repeat(5000);
    let answered = over(&[b"\0\0\0\x03", &many[..]].concat());
    assert!(answered < 1 << 17, "{answered} bytes of answers");
    for garbage in [vec![0; 28], vec![0xff; 100_000]] {
        let mut client = Client::on(&server.socket, "", true);
        let _ = client.stream.write_all(&garbage);
        assert!(client.is_over());
    }
    let mut client = Client::on(&server.socket, "", true);
    client.request(nbd::WRITE, 0, 0, u32::MAX);
    assert!(client.is_over(), "a write of 4 GiB");
    let mut client = Client::on(&server.socket, "", true);
    client.request(READ, 0, 0, 4096);
    client.stream.shutdown(Shutdown::Both).unwrap();
    // Those that say nothing, and those that take nothing, are in nobody's way until there are very many.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&server.socket).unwrap()).collect();
    let mut stuck: Vec<_> = (0..10).map(|_| Client::on(&server.socket, "", true)).collect();
    for client in &mut stuck {
        for _ in 0..100 {
            client.request(READ, 0, 0, 4 << 20);
        }
    }
    assert_eq!(Client::on(&server.socket, "", true).read(0, 4 << 20), Ok(chain().reads()));
    let more: Vec<_> = (0..100).map(|_| UnixStream::connect(&server.socket).unwrap()).collect();
    drop((silent, more));
    let began = Instant::now();
    let there = || {
        let mut stream = UnixStream::connect(&server.socket).unwrap();
        stream.read_exact(&mut [0; 18]).is_ok()
    };
    while !there() {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody is let in any more");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(
        Client::on(&server.socket, "s000", false).read(0, 4096).unwrap(),
        chain().reads_as(0, true)[..4096]
    );
    let began = Instant::now();
    let ran = server.stop().exits(0);
    assert!(began.elapsed() < Duration::from_secs(20), "clients that take nothing held it up");
    assert!(ran.peak_rss_kib < 128 << 10, "{} KiB", ran.peak_rss_kib);
    assert_eq!(ran.stderr, common::golden::without_circumstances(""), "clients' misbehaviour is no news");
}

#[test]
fn what_cannot_be_read_is_an_error_of_its_request_and_said_once() {
    if !strace::available("what_cannot_be_read_is_an_error_of_its_request_and_said_once") {
        return;
    }
    let rig = rig();
    let bytes = chain().reads();
    let base = rig.dir.join(image("s000"));
    let unreadable = [format!("{READS}:error=EIO")];
    let server = Server::under(&rig.dir, &[], |args| strace::tampered(&base, &unreadable, args));
    for structured in [true, false] {
        let mut client = Client::on(&server.socket, "", structured);
        assert_eq!(client.read(0, 4096), Err(EIO));
        assert_eq!(client.read(0, 4 << 20), Err(EIO));
        assert_eq!(client.ask(CACHE, 0, 4096), Err(EIO));
        let good = 500 << 12;
        assert_eq!(client.read(good as u64, 4096).unwrap(), bytes[good..good + 4096]);
    }
    let mut client = Client::on(&server.socket, "", true);
    client.request(READ, 0, 0, 4096);
    let [Chunk::Error { message, .. }] = &client.chunks()[..] else { panic!("no error") };
    assert!(message.contains(&image("s000")) && message.contains("offset 0"), "{message}");
    if nbd::available("what_cannot_be_read_is_an_error_of_its_request_and_said_once, with nbdcopy") {
        let copy = nbd::client("nbdcopy", &[server.uri("").as_str(), "null:"]);
        assert!(!copy.status.success());
    }
    let ran = server.stop().exits(1);
    let said =
        ran.stderr.matches(&format!("cannot read the layer: layer {}, offset 0:", image("s000"))).count();
    assert_eq!(said, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("[unreadable]") && ran.stderr.contains(" hint: "), "{}", ran.stderr);
}

#[test]
fn a_client_that_waits_is_let_go_in_the_end() {
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    let mut idle = Client::on(&server.socket, "", true);
    let mut half_open = Client::connect(&server.socket);
    assert!(idle.read(0, 4096).is_ok());
    let began = Instant::now();
    server.stop().exits(0);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(idle.is_over() && half_open.is_over());
}
