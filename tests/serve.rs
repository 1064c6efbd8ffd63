//! `lhrecover serve`: what the clients that people have read over NBD is what the engine reads; nobody who connects can
//! stop it, or get a zero for a byte that could not be read.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.
#![allow(clippy::cast_possible_truncation)] // Volumes of a few MiB.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::chain::{BRANCH, Chain, HEAD, Layer, Mark, image, snapshot, write_meta};
use common::chains::chain_on_disk;
use common::cli::{Lhrecover, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::nbd::{
    self, BLOCK_STATUS, CACHE, Chunk, Client, DF, FLUSH, READ, REQ_ONE, Server, TRIM, WRITE_ZEROES,
};
use common::strace::{self, READS};
use common::{Fixture, fixture, scratch, text};
use lhrecover::access::nbd::exports::{ExportOptions, Exports};
use lhrecover::access::nbd::listen::{Address, Listener};
use lhrecover::access::nbd::record::{Record, Watcher};
use lhrecover::access::nbd::server::serve;
use lhrecover::access::volume::VolumeOptions;
use lhrecover::engine::digest::{Algorithm, Hasher};
use lhrecover::error::Error;
use lhrecover::event::Cancel;
use lhrecover::model::finding::Finding;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const EOVERFLOW: u32 = 75;

/// 4 MiB: data, written zeros, a hole, preallocated room, and a snapshot off the live chain.
fn chain() -> Chain {
    let mut chain = Chain::of(
        4 * MIB,
        &[
            &[(0, 300, Mark::Data)],
            &[(10, 20, Mark::Zeros), (500, 100, Mark::Data)],
            &[(40, 3, Mark::Data), (900, 16, Mark::Preallocated)],
        ],
    );
    chain.branch = Some((0, Layer::new(4 * MIB, &[(20, 30, Mark::Data)])));
    chain
}

struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
}

fn rig() -> Rig {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    Rig { disk, dir }
}

fn sha256(path: &Path) -> String {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&fs::read(path).unwrap());
    hasher.finish()
}

/// Every state of the case's first replica by its export's name, and what the engine reads there.
fn truths(fixture: &Fixture) -> Vec<(String, String)> {
    let (_, truth) = fixture.replica();
    let of = |value: &Value| value["sha256"].as_str().unwrap().to_owned();
    let mut truths = vec![(String::new(), of(&truth)), ("head".to_owned(), of(&truth))];
    let snapshots = truth["snapshots"].as_array().unwrap();
    truths.extend(snapshots.iter().map(|s| (s["name"].as_str().unwrap().to_owned(), of(s))));
    truths
}

/// Copies every `step`th state of the case with nbdcopy; returns how many these are.
fn check(case: &str, step: usize) -> usize {
    let fixture = fixture(case);
    let (dir, _) = fixture.replica();
    let before = Fingerprint::of(&dir);
    let server = Server::of(&dir, &[]);
    let out = fixture.dir.path().join("out.img");
    let truths: Vec<_> = truths(&fixture).into_iter().step_by(step).collect();
    for (name, sha) in &truths {
        let _ = fs::remove_file(&out);
        let copied = nbd::client("nbdcopy", &[server.uri(name).as_str(), text(&out)]);
        assert!(copied.status.success(), "{case} {name}: {copied:?}");
        assert_eq!(sha256(&out), *sha, "{case}: {name}");
    }
    let ran = server.stop();
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{case}: {:?} {}", ran.status, ran.stderr);
    assert!(ran.peak_rss_kib < 64 << 10, "{case}: {} KiB", ran.peak_rss_kib);
    before.assert_unchanged(&dir, "serve");
    truths.len()
}

#[test]
fn every_state_is_what_the_engine_reads() {
    if !nbd::available("every_state_is_what_the_engine_reads") {
        return;
    }
    let cases = [
        "02-head-one-snapshot",
        "03-explicit-zeros",
        "07-expansion",
        "08-revert-branches",
        "10-512-unaligned",
        "11-raw-backing",
        "12a-qcow2-backing",
        "16-ext4-sqlite",
        "18-fragmented",
    ];
    let states: usize = thread::scope(|scope| {
        let deep = scope.spawn(|| check("05-deep-chain-40", 6));
        let threads = cases.map(|case| scope.spawn(move || check(case, 1)));
        deep.join().unwrap() + threads.map(|thread| thread.join().unwrap()).iter().sum::<usize>()
    });
    assert_eq!(states, 47);
}

#[test]
fn qemu_reads_the_same_as_a_merge() {
    if !nbd::available("qemu_reads_the_same_as_a_merge") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (dir, _) = fixture.replica();
    let server = Server::of(&dir, &[]);
    let (merged, converted) = (fixture.dir.path().join("merged"), fixture.dir.path().join("converted"));
    for (name, sha) in truths(&fixture) {
        let at = if matches!(&*name, "" | "head") { vec![] } else { vec!["--at", name.as_str()] };
        lhrecover(&[&["merge", text(&dir), text(&merged), "--force"][..], &at].concat()).exits(0);
        let uri = server.uri(&name);
        let same = nbd::client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, text(&merged)]);
        assert!(same.status.success(), "{name}: {same:?}");
        let convert = ["convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", &uri, text(&converted)];
        assert!(nbd::client("qemu-img", &convert).status.success(), "{name}");
        assert_eq!(sha256(&converted), sha, "{name}");
    }
    server.stop().exits(0);
}

#[test]
fn what_is_a_hole_is_told_to_those_who_ask() {
    if !nbd::available("what_is_a_hole_is_told_to_those_who_ask") {
        return;
    }
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    let map = nbd::client("nbdinfo", &["--json", "--map", &server.uri("")]);
    let map: Value = serde_json::from_slice(&map.stdout).unwrap();
    let told = map.as_array().unwrap().iter().map(|extent| {
        let number = |key: &str| extent[key].as_u64().unwrap();
        (number("offset"), number("length"), number("type"))
    });
    let sectors = |first: u64, end: u64, kind: u64| (first * 4096, (end - first) * 4096, kind);
    let unwritten = if common::scratch_has_fiemap() { 2 } else { 3 };
    let mut expected =
        vec![sectors(0, 300, 0), sectors(300, 500, 3), sectors(500, 600, 0), sectors(600, 900, 3)];
    expected.extend([sectors(900, 916, unwritten), sectors(916, 1024, 3)]);
    if unwritten == 3 {
        expected.splice(3.., [sectors(600, 1024, 3)]);
    }
    assert_eq!(told.collect::<Vec<_>>(), expected);
    let map = nbd::client("qemu-img", &["map", "--output=json", "-f", "raw", &server.uri("")]);
    let map: Value = serde_json::from_slice(&map.stdout).unwrap();
    assert_eq!(
        (map[0]["length"].as_u64(), map[0]["data"].as_bool()),
        (Some(300 * 4096), Some(true)),
        "{map}"
    );
    server.stop().exits(0);
}

#[test]
fn exports_are_listed_with_what_they_are() {
    if !nbd::available("exports_are_listed_with_what_they_are") {
        return;
    }
    let rig = rig();
    // A snapshot may be called head.
    fs::copy(rig.dir.join(image("s000")), rig.dir.join(image("head"))).unwrap();
    write_meta(&rig.dir, &image("head"), "");
    let listed = |more: &[&str]| {
        let server = Server::of(&rig.dir, more);
        let listed = nbd::client("nbdinfo", &["--list", "--json", &server.uri("")]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let exports: Vec<_> = listed["exports"].as_array().unwrap().clone();
        let reads =
            ["", "head", "s001"].map(|name| Client::on(&server.socket, name, true).read(0, 300 << 12));
        server.stop();
        (exports, reads.map(Result::unwrap))
    };
    let (exports, [default, head, s001]) = listed(&[]);
    let text = |export: &Value, key: &str| export[key].as_str().unwrap_or_default().to_owned();
    let names: Vec<_> = exports.iter().map(|e| (text(e, "export-name"), text(e, "description"))).collect();
    let taken = "snapshot of 2026-08-18T09:54:39Z";
    let expected = [("", "the head"), (BRANCH, taken), ("head", taken), ("s000", taken), ("s001", taken)];
    assert_eq!(names, expected.map(|(name, what)| (name.to_owned(), what.to_owned())));
    assert!(exports.iter().all(|e| e["export-size"] == 4 * MIB && e["is_read_only"] == true), "{exports:?}");
    assert!(exports.iter().all(|e| e["can_multi_conn"] == true && e["block_size_maximum"] == 32 * MIB));
    let reads = |place: usize| chain().reads_as(place, true)[..300 << 12].to_vec();
    assert!(default == reads(2) && head == reads(0) && s001 == reads(1));
    // With --at the default export is another one, and the others are what they were.
    fs::remove_file(rig.dir.join(image("head"))).unwrap();
    fs::remove_file(rig.dir.join(image("head") + ".meta")).unwrap();
    let (exports, [default, head, s001]) = listed(&["--at", "s001"]);
    assert_eq!(text(&exports[0], "description"), taken);
    assert!(default == reads(1) && head == reads(2) && s001 == reads(1));
}

#[test]
fn an_image_is_the_default_export_alone() {
    let dir = scratch();
    let image = dir.path().join("image");
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(&image, &bytes).unwrap();
    let server = Server::of(&image, &[]);
    assert_eq!(server.report["exports"].as_array().unwrap().len(), 1);
    assert_eq!(server.report["size_bytes"], 100_000);
    assert_eq!(Client::on(&server.socket, "", true).read(0, 100_000), Ok(bytes));
    let refused = Client::connect(&server.socket).option(7, b"\0\0\0\x04head\0\0");
    assert_eq!(refused, [(1 << 31 | 6, b"there is no export of that name".to_vec())]);
    server.stop().exits(0);
}

#[test]
fn a_partition_is_served_as_a_disk_of_its_own() {
    let dir = scratch();
    let image = dir.path().join("image");
    let mut bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    bytes[..512].fill(0);
    // An entry of type Linux, 100 sectors from sector 8 on.
    bytes[446..462].copy_from_slice(b"\0\0\0\0\x83\0\0\0\x08\0\0\0\x64\0\0\0");
    bytes[510..512].copy_from_slice(b"\x55\xaa");
    fs::write(&image, &bytes).unwrap();
    let server = Server::of(&image, &["--partition", "1"]);
    assert_eq!(server.report["size_bytes"], 51_200);
    assert!(Client::on(&server.socket, "", true).read(0, 51_200).unwrap() == bytes[4096..55_296]);
    server.stop().exits(0);
    let nbd = format!("unix:{}", text(&dir.path().join("s")));
    lhrecover(&["serve", text(&image), "--nbd", &nbd, "--partition", "7"]).exits(2).says(&["no partition 7"]);
}

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
    let mut seen = vec![false; 200];
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
    assert!(began.elapsed() < Duration::from_secs(10), "clients that take nothing held it up");
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
fn writes_are_taken_shared_limited_and_thrown_away() {
    let rig = rig();
    let before = Fingerprint::of(&rig.dir);
    let overlay = scratch();
    let limit = ["--writable", "--overlay", text(overlay.path()), "--overlay-max", "64K"];
    let server = Server::of(&rig.dir, &limit);
    assert_eq!(server.report["writable"], true);
    let mut bytes = chain().reads();
    let [mut one, mut two] = [true, false].map(|structured| Client::on(&server.socket, "", structured));
    one.write(1000, &[7; 5000]).unwrap();
    bytes[1000..6000].fill(7);
    two.ask(WRITE_ZEROES, 8192, 8192).unwrap();
    bytes[8192..16384].fill(0);
    one.ask(TRIM, 0, 4096).unwrap();
    one.ask(FLUSH, 0, 0).unwrap();
    for client in [&mut one, &mut two] {
        assert!(client.read(0, 4 << 20).unwrap() == bytes);
        assert_eq!(client.write(4 * MIB - 1, &[1; 2]), Err(ENOSPC));
        assert_eq!(client.ask(WRITE_ZEROES, 0, u32::MAX), Err(ENOSPC));
    }
    // Full: what was taken stays, and the error says what to do.
    assert_eq!(one.write(2 * MIB, &[9; 100_000]), Err(ENOSPC));
    assert!(two.read(0, 1 << 20).unwrap() == bytes[..1 << 20]);
    // Other exports are not touched.
    let mut snapshot = Client::on(&server.socket, "s001", true);
    assert!(snapshot.read(0, 4 << 20).unwrap() == chain().reads_as(1, true));
    assert_eq!(fs::read_dir(overlay.path()).unwrap().count(), 0, "the overlay has a name");
    server.stop().exits(0).says(&["has reached its limit of 65536 bytes", "--overlay-max"]);
    before.assert_unchanged(&rig.dir, "serve --writable");
    let again = Server::of(&rig.dir, &limit);
    assert!(Client::on(&again.socket, "", true).read(0, 4 << 20).unwrap() == chain().reads());
    again.kill();
    before.assert_unchanged(&rig.dir, "a server that was killed");
}

#[test]
fn qemu_writes_to_the_overlay() {
    if !nbd::available("qemu_writes_to_the_overlay") {
        return;
    }
    let rig = rig();
    let before = Fingerprint::of(&rig.dir);
    let other = rig.disk.path().join("other");
    let bytes: Vec<u8> = (0..4 * MIB).map(|i| if i % MIB < 4096 { 0 } else { (i % 249) as u8 }).collect();
    fs::write(&other, &bytes).unwrap();
    let server = Server::of(&rig.dir, &["--writable"]);
    let uri = server.uri("");
    assert!(nbd::client("nbdcopy", &[text(&other), &uri]).status.success());
    assert!(
        nbd::client("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri, text(&other)]).status.success()
    );
    server.stop().exits(0);
    before.assert_unchanged(&rig.dir, "nbdcopy to the overlay");
}

#[test]
fn over_tcp_on_this_machine() {
    let rig = rig();
    let server = Server::on("127.0.0.1:0", &rig.dir);
    let uri = server.uri("");
    let address = uri.strip_prefix("nbd://").and_then(|rest| rest.strip_suffix('/')).expect(&uri);
    let mut stream = TcpStream::connect(address).unwrap();
    let mut hello = [0; 18];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello[..8], b"NBDMAGIC");
    if nbd::available("over_tcp_on_this_machine, with nbdcopy") {
        let out = rig.disk.path().join("out");
        assert!(nbd::client("nbdcopy", &[uri.as_str(), text(&out)]).status.success());
        assert!(fs::read(&out).unwrap() == chain().reads());
    }
    server.stop().exits(0);
    let anywhere = lhrecover(&["serve", text(&rig.dir), "--nbd", "0.0.0.0:10809"]);
    assert_golden("serve/anywhere", rig.disk.path(), &anywhere);
    for (address, code, says) in [
        ("[::]:0", 5, "NBD has no password"),
        ("example.org:10809", 2, "unix:PATH"),
        ("/run/x.sock", 2, "unix:PATH"),
        ("unix:/no/such/directory/s", 2, "make it first"),
    ] {
        lhrecover(&["serve", text(&rig.dir), "--nbd", address]).exits(code).says(&[says]);
    }
}

#[test]
fn a_socket_takes_the_place_of_nothing() {
    let rig = rig();
    let dir = tempfile::tempdir().unwrap();
    let serve = |socket: &Path, code: i32, says: &[&str]| {
        let nbd = format!("unix:{}", text(socket));
        lhrecover(&["serve", text(&rig.dir), "--nbd", &nbd]).exits(code).says(says);
    };
    let taken = dir.path().join("file");
    fs::write(&taken, "precious").unwrap();
    serve(&taken, 5, &["taken by something else", "name another path"]);
    assert_eq!(fs::read(&taken).unwrap(), b"precious");
    let busy = dir.path().join("busy");
    let _listener = UnixListener::bind(&busy).unwrap();
    serve(&busy, 5, &["another server has this socket"]);
    serve(&dir.path().join("n".repeat(120)), 2, &["107 bytes"]);
    let before = Fingerprint::of(&rig.dir);
    serve(&rig.dir.join("s"), 5, &["inside the replica directory"]);
    let inside = ["serve", text(&rig.dir), "--nbd", "unix:s", "--writable", "--overlay", text(&rig.dir)];
    lhrecover(&inside).exits(5).says(&["inside the replica directory"]);
    before.assert_unchanged(&rig.dir, "a socket inside");
    let server = Server::of(&rig.dir, &[]);
    let socket = server.socket.clone();
    assert!(socket.exists());
    server.kill();
    let nbd = format!("unix:{}", text(&dir.path().join("s")));
    let usage = ["serve", text(&rig.dir), "--nbd", &nbd, "--overlay-max", "1G"];
    lhrecover(&usage).exits(2).says(&["--writable"]);
}

#[test]
fn a_socket_that_a_killed_server_left_is_taken_over() {
    let rig = rig();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    drop(UnixListener::bind(&socket).unwrap());
    let nbd = format!("unix:{}", text(&socket));
    let mut running = Lhrecover::new(&["serve", text(&rig.dir), "--nbd", &nbd]).spawn();
    let answers = || UnixStream::connect(&socket).is_ok();
    running.wait_until("it listens", answers);
    running.signal(nix::sys::signal::Signal::SIGINT);
    let ran = running.finish();
    assert!(!socket.exists(), "the socket is left behind");
    assert_golden("serve/served", dir.path(), &ran);
}

#[test]
fn snapshots_of_a_live_volume_are_served_and_its_head_is_refused() {
    let rig = rig();
    let _writer = fs::OpenOptions::new().append(true).open(rig.dir.join(HEAD)).unwrap();
    let server = Server::of(&rig.dir, &[]);
    assert!(server.report["size_bytes"].is_null());
    let refused = Client::connect(&server.socket).option(7, b"\0\0\0\0\0\0");
    let (policy, message) = &refused[0];
    let message = String::from_utf8_lossy(message);
    assert!(*policy == (1 << 31 | 2) && message.contains("--allow-live"), "{message}");
    let read = Client::on(&server.socket, "s001", true).read(0, 4 << 20).unwrap();
    assert!(read == chain().reads_as(1, true));
    server.stop().says(&["the replica is in use", "--allow-live"]);
    let server = Server::of(&rig.dir, &["--allow-live"]);
    assert!(Client::on(&server.socket, "", true).read(0, 4 << 20).unwrap() == chain().reads());
    server.stop().exits(1).says(&["[live-head]"]);
}

#[test]
fn where_nothing_can_be_served_nothing_is() {
    let fixture = fixture("13b-rebuilding-looks-complete");
    let socket = fixture.dir.path().join("s");
    let nbd = format!("unix:{}", text(&socket));
    let rebuilding = fixture.replicas().into_iter().find(|(dir, _)| {
        fs::read_to_string(dir.join("volume.meta")).unwrap().contains("\"Rebuilding\":true")
    });
    let (dir, _) = rebuilding.unwrap();
    lhrecover(&["serve", text(&dir), "--nbd", &nbd]).exits(5).says(&["--allow-rebuilding"]);
    lhrecover(&["serve", "/no/such/replica", "--nbd", &nbd]).exits(2);
    assert!(!socket.exists());
}

#[test]
fn a_source_that_changes_while_it_is_served_is_a_finding() {
    let rig = rig();
    let server = Server::of(&rig.dir, &[]);
    assert!(Client::on(&server.socket, "", true).read(0, 4096).is_ok());
    fs::OpenOptions::new().append(true).open(rig.dir.join(image("s001"))).unwrap().write_all(b"x").unwrap();
    server.stop().exits(1).says(&["[source-changed]", "the replica changed while it was read"]);
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
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(idle.is_over() && half_open.is_over());
}
