//! NBD from the client's side: the server as a process, the clients that people have, and one of our own that is free to
//! misbehave.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::chain::{Chain, Layer, Mark};
use super::cli::{Lhrecover, Ran, Running};
use super::loopdev::skipped;
use super::{scratch, text};

/// Whether `nbdinfo`, `nbdcopy` and `qemu-img` are here. If not, says on stderr that the test was skipped, and why.
pub fn available(test: &str) -> bool {
    let there = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    for (tool, package) in [("nbdinfo", "libnbd-bin"), ("nbdcopy", "libnbd-bin"), ("qemu-img", "qemu-utils")]
    {
        if !there(tool) {
            skipped(test, &format!("{tool} is not installed (package {package})"));
            return false;
        }
    }
    true
}

/// Runs a client.
pub fn client<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

/// 4 MiB: data, written zeros, a hole, preallocated room, and a snapshot off the live chain.
pub fn chain() -> Chain {
    let mut chain = Chain::of(
        4 << 20,
        &[
            &[(0, 300, Mark::Data)],
            &[(10, 20, Mark::Zeros), (500, 100, Mark::Data)],
            &[(40, 3, Mark::Data), (900, 16, Mark::Preallocated)],
        ],
    );
    chain.branch = Some((0, Layer::new(4 << 20, &[(20, 30, Mark::Data)])));
    chain
}

/// A disk with that replica on it.
pub struct Rig {
    pub disk: tempfile::TempDir,
    pub dir: PathBuf,
}

pub fn rig() -> Rig {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    Rig { disk, dir }
}

/// `lhrecover serve`, ready for clients; killed when it is dropped unfinished.
pub struct Server {
    running: Running,
    /// What it said when it was ready.
    pub report: Value,
    /// The Unix socket it listens on, if it does.
    pub socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Server {
    /// Serves `source` on a Unix socket.
    pub fn of(source: &Path, more: &[&str]) -> Self {
        Self::under(source, more, |args| Lhrecover::new(args))
    }

    /// The same with the program started in another way.
    pub fn under(source: &Path, more: &[&str], start: impl Fn(&[&str]) -> Lhrecover) -> Self {
        // Names of sockets are short.
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let nbd = format!("unix:{}", text(&socket));
        let args = [&["serve", text(source), "--nbd", &nbd][..], more].concat();
        let (running, report) = begin(&args, start);
        Server { running, report, socket, _dir: dir }
    }

    /// Serves on a TCP port.
    pub fn on(address: &str, source: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (running, report) =
            begin(&["serve", text(source), "--nbd", address], |args| Lhrecover::new(args));
        Server { running, report, socket: PathBuf::new(), _dir: dir }
    }

    /// What clients reach the export `name` with.
    pub fn uri(&self, name: &str) -> String {
        let mut exports = self.report["exports"].as_array().unwrap().iter();
        let export = exports.find(|export| export["name"] == name).unwrap_or_else(|| panic!("no {name:?}"));
        export["uri"].as_str().unwrap().to_owned()
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> Ran {
        self.running.signal(Signal::SIGTERM);
        self.running.finish()
    }

    pub fn kill(mut self) {
        self.running.signal(Signal::SIGKILL);
        self.running.finish();
    }
}

fn begin(args: &[&str], start: impl Fn(&[&str]) -> Lhrecover) -> (Running, Value) {
    let (reader, writer) = io::pipe().unwrap();
    let running = start(&[args, &["--json"]].concat()).stdout(writer).spawn();
    let mut said = String::new();
    // The brace that ends the object is the only one that begins a line.
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        said += &line;
        if line == "}" {
            break;
        }
    }
    let Ok(report) = serde_json::from_str::<Value>(&said) else {
        let ran = running.finish();
        panic!("it does not serve: {:?} {}", ran.status, ran.stderr);
    };
    assert!(report["error"].is_null(), "{report}");
    (running, report)
}

/// A client of our own.
pub struct Client {
    pub stream: UnixStream,
    structured: bool,
    cookie: u64,
}

/// A chunk of a structured reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    Data { offset: u64, bytes: Vec<u8> },
    Hole { offset: u64, length: u32 },
    Status(Vec<(u32, u32)>),
    Error { errno: u32, message: String },
    None,
}

/// Types of requests.
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const WRITE_ZEROES: u16 = 6;
pub const BLOCK_STATUS: u16 = 7;

/// Flags of requests.
pub const DF: u16 = 1 << 2;
pub const REQ_ONE: u16 = 1 << 3;

impl Client {
    /// Connects, and says hello.
    pub fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut hello = [0; 18];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        Client { stream, structured: false, cookie: 0 }
    }

    /// On this export, with chunks and block status, or with simple replies.
    pub fn on(socket: &Path, export: &str, structured: bool) -> Self {
        let mut client = Self::connect(socket);
        let named = [&u32::try_from(export.len()).unwrap().to_be_bytes()[..], export.as_bytes()].concat();
        if structured {
            assert_eq!(client.option(8, &[]), [(1, vec![])]);
            let query = [&1u32.to_be_bytes()[..], &15u32.to_be_bytes(), b"base:allocation"].concat();
            let replies = client.option(10, &[&named[..], &query].concat());
            assert_eq!(replies[0], (4, b"\0\0\0\x01base:allocation".to_vec()));
        }
        let replies = client.option(7, &[&named[..], &[0, 0]].concat());
        assert_eq!(replies.last().unwrap().0, 1, "{replies:?}");
        client.structured = structured;
        client
    }

    /// Sends an option; returns all replies, by their type and data.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let length = u32::try_from(data.len()).unwrap();
        let header = [&b"IHAVEOPT"[..], &option.to_be_bytes(), &length.to_be_bytes()].concat();
        self.stream.write_all(&[&header, data].concat()).unwrap();
        let mut replies = Vec::new();
        loop {
            let head: [u8; 20] = self.exactly();
            assert_eq!(head[..8], 0x0003_e889_0455_65a9u64.to_be_bytes());
            assert_eq!(head[8..12], option.to_be_bytes());
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let mut data = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
            self.stream.read_exact(&mut data).unwrap();
            replies.push((kind, data));
            if kind == 1 || kind >> 31 == 1 {
                return replies;
            }
        }
    }

    /// Sends a request; returns its cookie.
    pub fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> u64 {
        self.cookie += 1;
        let request = [
            &0x2560_9513u32.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        self.stream.write_all(&request.concat()).unwrap();
        self.cookie
    }

    fn exactly<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The chunks of the one reply that is due; a simple one is a `None` or an `Error` chunk.
    pub fn chunks(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        loop {
            let magic = u32::from_be_bytes(self.exactly());
            if magic == 0x6744_6698 {
                let errno = u32::from_be_bytes(self.exactly());
                assert_eq!(self.exactly(), self.cookie.to_be_bytes());
                let error = Chunk::Error { errno, message: String::new() };
                return vec![if errno == 0 { Chunk::None } else { error }];
            }
            assert_eq!(magic, 0x668e_33ef);
            let [flags, kind] = [self.exactly(), self.exactly()].map(u16::from_be_bytes);
            assert_eq!(self.exactly(), self.cookie.to_be_bytes());
            let length = u32::from_be_bytes(self.exactly()) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).unwrap();
            chunks.push(chunk(kind, &payload));
            if flags & 1 == 1 {
                return chunks;
            }
        }
    }

    /// Reads a range in one request; the errno when that fails.
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        self.request(READ, 0, offset, length);
        let mut bytes = vec![0xa5; length as usize];
        if !self.structured {
            self.simple()?;
            self.stream.read_exact(&mut bytes).unwrap();
            return Ok(bytes);
        }
        let mut told = 0;
        for chunk in self.chunks() {
            let mut place = |at: u64, len: usize| {
                told += len;
                let start = usize::try_from(at - offset).unwrap();
                start..start + len
            };
            match chunk {
                Chunk::Data { offset, bytes: data } => {
                    bytes[place(offset, data.len())].copy_from_slice(&data);
                }
                Chunk::Hole { offset, length } => bytes[place(offset, length as usize)].fill(0),
                Chunk::Error { errno, .. } => return Err(errno),
                Chunk::None => {}
                Chunk::Status(_) => panic!("a status as an answer to a read"),
            }
        }
        assert_eq!(told, length as usize, "a part of the read is not answered");
        Ok(bytes)
    }

    /// The simple reply that is due.
    pub fn simple(&mut self) -> Result<(), u32> {
        match self.chunks().pop().unwrap() {
            Chunk::Error { errno, .. } => Err(errno),
            _ => Ok(()),
        }
    }

    /// Writes a range; the errno when that fails.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), u32> {
        self.request(WRITE, 0, offset, u32::try_from(bytes.len()).unwrap());
        self.stream.write_all(bytes).unwrap();
        self.simple()
    }

    /// Another request without payload; the errno when that fails.
    pub fn ask(&mut self, command: u16, offset: u64, length: u32) -> Result<(), u32> {
        self.request(command, 0, offset, length);
        self.simple()
    }

    /// Whether the server has ended the connection.
    pub fn is_over(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(n) => n == 0,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

fn chunk(kind: u16, payload: &[u8]) -> Chunk {
    let be32 = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    let offset = || u64::from_be_bytes(payload[..8].try_into().unwrap());
    match kind {
        0 => Chunk::None,
        1 => Chunk::Data { offset: offset(), bytes: payload[8..].to_vec() },
        2 => Chunk::Hole { offset: offset(), length: be32(8) },
        5 => Chunk::Status((4..payload.len()).step_by(8).map(|at| (be32(at), be32(at + 4))).collect()),
        0x8001 => Chunk::Error { errno: be32(0), message: String::from_utf8(payload[6..].to_vec()).unwrap() },
        other => panic!("a chunk of type {other}"),
    }
}
