//! `lhrecover serve`: what the clients that people have read over NBD is what the engine reads, every snapshot has its
//! name, and the source stays what it was. (`tests/nbd.rs` has the protocol itself.)

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.
#![allow(clippy::cast_possible_truncation)] // Volumes of a few MiB.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use common::chain::{BRANCH, HEAD, image, write_meta};
use common::cli::{Lhrecover, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::nbd::{self, Client, FLUSH, Server, TRIM, WRITE_ZEROES, chain, rig};
use common::{Fixture, fixture, scratch, text};
use lhrecover::engine::digest::{Algorithm, Hasher};
use serde_json::Value;

const MIB: u64 = 1 << 20;
const ENOSPC: u32 = 28;

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
fn very_many_exports_need_not_be_open_all_at_once() {
    let fixture = fixture("06-deep-chain-249");
    let (dir, truth) = fixture.replica();
    // 249 states of up to 250 layers, with no more files than for two of them.
    let under = ["sh", "-c", "ulimit -n 900; exec \"$@\"", "sh"];
    let server = Server::under(&dir, &[], |args| Lhrecover::under(&under, args));
    let snapshots = truth["snapshots"].as_array().unwrap();
    assert!(snapshots.len() > 240);
    let mut used = Client::on(&server.socket, "", true);
    let first = used.read(0, 1 << 20).unwrap();
    for snapshot in snapshots {
        let name = snapshot["name"].as_str().unwrap();
        assert!(Client::on(&server.socket, name, true).read(0, 4096).is_ok(), "{name}");
    }
    assert!(used.read(0, 1 << 20).unwrap() == first);
    server.stop().exits(0);
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
