//! A connection, of either kind, that reading and writing threads share.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

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
    /// What comes from there. `patience` is how long we wait for it in all, and each time for what we send to be taken.
    pub fn new(stream: Arc<Stream>, patience: Duration) -> Self {
        Incoming { stream, patience: Some(patience) }
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
            self.stream.set_timeouts(Some(patience), Some(patience))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_a_byte_now_and_then_uses_patience_up_until_it_is_trusted() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut incoming = Incoming::new(Arc::new(Stream::Unix(ours)), Duration::from_millis(100));
        let client = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(20));
                theirs.write_all(b"x").unwrap();
            }
            theirs
        });
        let taken = (0..20).take_while(|_| incoming.read(&mut [0]).is_ok()).count();
        assert!(taken < 20, "it was waited for all the time");
        incoming.trust().unwrap();
        let _theirs = client.join().unwrap();
        let mut rest = vec![0; 20 - taken];
        incoming.read_exact(&mut rest).unwrap();
    }
}
