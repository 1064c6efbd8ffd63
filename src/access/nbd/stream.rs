//! A connection, of either kind, that reading and writing threads share.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// How long we wait for a client in all, before the transmission. One that says nothing must not keep its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a client.
#[derive(Debug)]
pub enum Stream {
    /// From this machine.
    Unix(UnixStream),
    /// From anywhere.
    Tcp(TcpStream),
}

impl Stream {
    /// Prepares a new connection: answers go out at once, and a machine that vanished is noticed.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn prepare(&self) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_nonblocking(false),
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(setsockopt(stream, sockopt::KeepAlive, &true)?)
            }
        }
    }

    /// Ends it, one way or both; whoever waits for it returns.
    pub fn shut_down(&self, how: Shutdown) {
        // It may have ended by itself.
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        };
    }

    fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write))
            }
            Stream::Tcp(stream) => {
                stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write))
            }
        }
    }
}

/// The end of a connection that is read from. At first with a limit on how long, until [`trust`](Self::trust).
pub struct Incoming {
    stream: Arc<Stream>,
    patience: Option<Duration>,
}

impl Incoming {
    /// What comes from there.
    pub fn new(stream: Arc<Stream>) -> Self {
        Incoming { stream, patience: Some(PATIENCE) }
    }

    /// From now on the client may take its time.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn trust(&mut self) -> io::Result<()> {
        self.patience = None;
        self.stream.set_timeouts(None, None)
    }
}

impl Read for Incoming {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        if let Some(patience) = self.patience {
            if patience.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_timeouts(Some(patience), Some(PATIENCE))?;
        }
        let read = match &*self.stream {
            Stream::Unix(stream) => (&mut &*stream).read(buf),
            Stream::Tcp(stream) => (&mut &*stream).read(buf),
        };
        self.patience = self.patience.map(|patience| patience.saturating_sub(began.elapsed()));
        read
    }
}

/// The end of a connection that is written to.
pub struct Outgoing(pub Arc<Stream>);

impl Write for Outgoing {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.0 {
            Stream::Unix(stream) => (&mut &*stream).write_vectored(parts),
            Stream::Tcp(stream) => (&mut &*stream).write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
