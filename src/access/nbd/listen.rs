//! Where clients find us: a Unix socket that only its owner can use, or a TCP port of this machine.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};

use crate::access::nbd::stream::Stream;
use crate::error::{Error, Result};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On a Unix socket of this name.
    Unix(PathBuf),
    /// On a TCP port; port 0 is any that is free.
    Tcp(SocketAddr),
}

impl Address {
    /// Reads `unix:PATH`, or `HOST:PORT` with an IP address (IPv6 in brackets) or `localhost`. Other names are not looked
    /// up: what they mean may change.
    ///
    /// # Errors
    /// `Usage` when it is neither.
    pub fn parse(text: &OsStr) -> Result<Self> {
        if let Some(path) = text.as_bytes().strip_prefix(b"unix:").filter(|path| !path.is_empty()) {
            return Ok(Address::Unix(PathBuf::from(OsStr::from_bytes(path))));
        }
        let text = text.to_string_lossy();
        let address = match text.strip_prefix("localhost:") {
            Some(port) => {
                port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
            }
            None => text.parse().ok(),
        };
        address.map(Address::Tcp).ok_or_else(|| {
            Error::usage(format!("{text:?} is no place to listen on")).with_hint(
                "name a Unix socket as unix:PATH, or an address of this machine and a port: 127.0.0.1:10809, [::1]:0",
            )
        })
    }
}

/// A socket that clients connect to. A Unix socket is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, path: PathBuf, made: Option<(u64, u64)> },
    Tcp { listener: TcpListener, address: SocketAddr },
}

impl Listener {
    /// Begins to listen. `anywhere` is the leave to be reached from other machines.
    ///
    /// # Errors
    /// `Refused` when something else has the Unix socket's name, or other machines could connect and there is no leave;
    /// `Usage` when the address cannot be listened on.
    pub fn bind(address: &Address, anywhere: bool) -> Result<Self> {
        let socket = match address {
            Address::Unix(path) => bind_unix(path)?,
            Address::Tcp(address) if !address.ip().is_loopback() && !anywhere => {
                return Err(Error::refused(format!("{} can be reached from other machines", address.ip()))
                    .with_hint(
                        "NBD has no password: whoever reaches the port reads the volume; listen on 127.0.0.1 and connect \
                         through ssh -L, or give leave with --listen-anywhere",
                    ));
            }
            Address::Tcp(address) => {
                let fail = |e| {
                    Error::usage(format!("cannot listen on {address}"))
                        .caused_by(e)
                        .with_hint("another program may have the port: take port 0 for any that is free")
                };
                let listener = TcpListener::bind(address).map_err(fail)?;
                listener.set_nonblocking(true).map_err(fail)?;
                let address = listener.local_addr().map_err(fail)?;
                Socket::Tcp { listener, address }
            }
        };
        Ok(Listener { socket })
    }

    /// The next client that waits, if one does.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; others when this one cannot be had.
    pub fn accept(&self) -> io::Result<Stream> {
        let stream = match &self.socket {
            Socket::Unix { listener, .. } => Stream::Unix(listener.accept()?.0),
            Socket::Tcp { listener, .. } => Stream::Tcp(listener.accept()?.0),
        };
        stream.prepare()?;
        Ok(stream)
    }

    /// How a client names the export `name` (NBD's `doc/uri.md`).
    pub fn uri(&self, name: &str) -> String {
        let name = escaped(name.as_bytes(), b"");
        match &self.socket {
            Socket::Unix { path, .. } => {
                format!("nbd+unix:///{name}?socket={}", escaped(path.as_os_str().as_bytes(), b"/"))
            }
            Socket::Tcp { address, .. } => format!("nbd://{address}/{name}"),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.as_fd(),
            Socket::Tcp { listener, .. } => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { path, made, .. } = &self.socket {
            // By now the name may be somebody else's.
            if made.is_some() && fs::symlink_metadata(path).ok().map(|m| id(&m)) == *made {
                let _ = fs::remove_file(path);
            }
        }
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

fn bind_unix(path: &Path) -> Result<Socket> {
    let fail = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::InvalidFilename => {
                "the kernel takes no names of more than 107 bytes: take a shorter path"
            }
            io::ErrorKind::NotFound => "its directory is not there: make it first",
            _ => "name a path in a directory that can be written to",
        };
        Error::usage("cannot listen on the Unix socket").with_path(path).caused_by(e).with_hint(hint)
    };
    let path = std::path::absolute(path).map_err(fail)?;
    remove_stale(&path)?;
    let listener = private_socket(&path).map_err(|e| fail(e.into()))?;
    let made = fs::symlink_metadata(&path).ok().map(|m| id(&m));
    Ok(Socket::Unix { listener, path, made })
}

/// A socket of that name, which nobody but its owner could ever connect to: the kernel takes the mode of the name from
/// the socket's own when it makes it (`unix_bind` in `net/unix/af_unix.c`). The process's umask is left alone, as
/// other threads make files too.
fn private_socket(path: &Path) -> nix::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
}

/// Removes a socket that a server left which is gone; refuses whatever else has the name.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.file_type().is_socket() {
        return Err(Error::refused("the name of the socket is taken by something else")
            .with_path(path)
            .with_hint("name another path"));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(|e| {
            Error::usage("cannot remove the socket of a server that is gone").with_path(path).caused_by(e)
        }),
        _ => Err(Error::refused("another server has this socket")
            .with_path(path)
            .with_hint("stop that one, or name another path")),
    }
}

/// `bytes` with everything percent-encoded but what a URI may hold anywhere, and `also`.
fn escaped(bytes: &[u8], also: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || also.contains(&b);
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn address(text: &str) -> Option<Address> {
        Address::parse(OsStr::new(text)).ok()
    }

    #[test]
    fn places_to_listen_on() {
        assert_eq!(address("unix:/run/a b"), Some(Address::Unix("/run/a b".into())));
        for (text, means) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("localhost:10809", "127.0.0.1:10809"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(address(text), Some(Address::Tcp(means.parse().unwrap())), "{text}");
        }
        for text in
            ["", "unix:", "/run/x", "127.0.0.1", "::1:80", "example.org:80", "localhost:", "localhost:99999"]
        {
            assert_eq!(address(text), None, "{text}");
        }
    }

    #[test]
    fn only_the_owner_and_only_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a socket?");
        let unix = Listener::bind(&Address::Unix(path.clone()), false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(unix.uri("a/b").starts_with("nbd+unix:///a%2Fb?socket=/"), "{}", unix.uri("a/b"));
        assert!(unix.uri("").ends_with("/a%20socket%3F"));
        let taken = Listener::bind(&Address::Unix(path.clone()), false).unwrap_err();
        assert_eq!(taken.to_string(), format!("another server has this socket: {}", path.display()));
        drop(unix);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the name");
        drop(Listener::bind(&Address::Unix(path.clone()), false).unwrap());
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&Address::Unix(path.clone()), false).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let anywhere = Address::Tcp("0.0.0.0:0".parse().unwrap());
        let refused = Listener::bind(&anywhere, false).unwrap_err();
        assert!(refused.hint().unwrap().contains("--listen-anywhere"));
        let tcp = Listener::bind(&Address::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
        assert!(
            tcp.uri("").starts_with("nbd://127.0.0.1:") && !tcp.uri("").contains(":0/"),
            "{}",
            tcp.uri("")
        );
    }
}
