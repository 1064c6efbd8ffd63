//! The server: lets clients in, gives each its threads, and sees them out.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::access::nbd::Catalog;
use crate::access::nbd::listen::Listener;
use crate::access::nbd::negotiate::negotiate;
use crate::access::nbd::record::Record;
use crate::access::nbd::stream::{Incoming, Outgoing, Stream};
use crate::access::nbd::transmit::Transmission;
use crate::error::{Error, Result};
use crate::event::Cancel;

/// The most clients at a time; further ones are turned away. Programs open up to a handful of connections each.
const MAX_CONNECTIONS: usize = 64;

/// How many threads answer the requests of one connection. They mostly wait for the disk, which likes to have several to
/// choose from.
const WORKERS: usize = 4;

/// How much of what a client sends is taken in at once, in bytes: some hundred requests.
const READ_AHEAD_BYTES: usize = 8 << 10;

/// How long we wait for a client in all, before it has chosen an export. One that says nothing must not keep its place.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often we look whether we are to stop, in milliseconds.
const LOOK_EVERY_MS: u8 = 100;

/// How long clients have to take their last answers when we stop.
const GRACE: Duration = Duration::from_secs(2);

/// Serves `catalog` to whoever connects, until asked to stop.
///
/// # Errors
/// When nobody can be let in any more.
pub fn serve(listener: &Listener, catalog: &dyn Catalog, record: &Record<'_>, cancel: &Cancel) -> Result<()> {
    let server = Server { catalog, record, clients: Mutex::default() };
    thread::scope(|threads| {
        let mut number = 0;
        let served = loop {
            if cancel.is_cancelled() {
                break Ok(());
            }
            match next_client(listener) {
                Ok(Some(stream)) => {
                    number += 1;
                    let stream = Arc::new(stream);
                    if !server.let_in(number, &stream) {
                        continue;
                    }
                    let server = &server;
                    let started =
                        thread::Builder::new().spawn_scoped(threads, move || server.attend(number, &stream));
                    if started.is_err() {
                        server.see_out(number);
                    }
                }
                Ok(None) => {}
                Err(e) => break Err(Error::usage("cannot let clients in any more").caused_by(e)),
            }
        };
        server.close();
        served
    })
}

/// Waits for a client, for a short while.
fn next_client(listener: &Listener) -> io::Result<Option<Stream>> {
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waiting, PollTimeout::from(LOOK_EVERY_MS)) {
        Ok(0) | Err(Errno::EINTR) => return Ok(None),
        Ok(_) => {}
        Err(e) => return Err(e.into()),
    }
    match listener.accept() {
        Ok(stream) => Ok(Some(stream)),
        // It went away, or there are no descriptors left for now: neither is a reason to leave the others.
        Err(_) => {
            thread::sleep(Duration::from_millis(20));
            Ok(None)
        }
    }
}

struct Server<'a> {
    catalog: &'a dyn Catalog,
    record: &'a Record<'a>,
    clients: Mutex<HashMap<u64, Arc<Stream>>>,
}

impl Server<'_> {
    fn clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn let_in(&self, number: u64, stream: &Arc<Stream>) -> bool {
        let mut clients = self.clients();
        let room = clients.len() < MAX_CONNECTIONS;
        if room {
            clients.insert(number, Arc::clone(stream));
        }
        room
    }

    fn see_out(&self, number: u64) {
        self.clients().remove(&number);
    }

    /// All of one client's business. How it ends is its own affair.
    fn attend(&self, number: u64, stream: &Arc<Stream>) {
        let _ = self.converse(stream);
        stream.shut_down(Shutdown::Both);
        self.see_out(number);
    }

    fn converse(&self, stream: &Arc<Stream>) -> io::Result<()> {
        let incoming = Incoming::new(Arc::clone(stream), PATIENCE);
        let mut reader = BufReader::with_capacity(READ_AHEAD_BYTES, incoming);
        let mut writer = Outgoing(Arc::clone(stream));
        let Some(session) = negotiate(&mut reader, &mut writer, self.catalog)? else { return Ok(()) };
        reader.get_mut().trust()?;
        let transmission = Transmission::new(session, reader, writer, self.record);
        let work = || {
            let done = transmission.work();
            if done.is_err() {
                // The others wait for requests, and there will be none.
                stream.shut_down(Shutdown::Both);
            }
            done
        };
        thread::scope(|threads| {
            for _ in 1..WORKERS {
                // One can do it alone, if it must.
                let _ = thread::Builder::new().spawn_scoped(threads, || drop(work()));
            }
            work()
        })
    }

    /// Lets nobody ask any more, and waits until the last answers are out; but not forever.
    fn close(&self) {
        let began = Instant::now();
        self.clients().values().for_each(|stream| stream.shut_down(Shutdown::Read));
        while !self.clients().is_empty() && began.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(5));
        }
        self.clients().values().for_each(|stream| stream.shut_down(Shutdown::Both));
    }
}
