//! The server's side: serves the image until it is unmounted.
//!
//! It never looks at what is mounted on its image: it would wait for itself. When it is asked to end, it starts another
//! process that takes everything down, and ends when that has unmounted the image; until then it goes on serving.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::server::{Answer, Order};
use super::state::{Entry, OVERLAY_MARK};
use crate::access::fuse::{SOURCE_NAME, ServedImage};
use crate::access::inside;
use crate::access::scratch::Scratch;
use crate::access::volume::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::model::units::sector_floor;
use crate::sys::daemon::{cut_loose, serves_writes};

/// How often is looked whether the image was unmounted.
const POLL: Duration = Duration::from_millis(50);

/// How often is tried to take down what nobody holds any more.
const RETRY: Duration = Duration::from_secs(1);

/// The most places of trouble that are written down.
const MAX_PLACES: usize = 1000;

/// Something the server must act on.
enum Notice {
    /// A signal asks it to end, or who started it has died.
    End,
    /// Everything is up.
    Up,
}

/// Serves what the first line of `orders` asks for, and answers on `answers`. Whether all went well: why it did not was told to
/// whoever ordered, or is in the log.
///
/// # Errors
/// When there is no log.
pub fn run(dir: &Path, orders: impl BufRead + Send + 'static, answers: &mut impl Write) -> Result<bool> {
    cut_loose(SOURCE_NAME)
        .map_err(|e| Error::usage("cannot leave the process that started this one").caused_by(e))?;
    let log = Arc::new(Log::open(&Entry::at(dir))?);
    let mut orders = orders;
    let mut answer = |failed: Option<&Error>| {
        let answer = Answer { failed: failed.map(Into::into) };
        // Who does not listen has died, and the next thing is that orders end.
        let _ = serde_json::to_string(&answer).map(|line| writeln!(answers, "{line}"));
        let _ = answers.flush();
    };
    let notices = notices_of_signals()?;
    let served = read_order(&mut orders).and_then(|order| serve(&order, &log));
    let (volume, image) = match served {
        Ok(served) => served,
        Err(e) => {
            answer(Some(&e));
            return Ok(false);
        }
    };
    answer(None);
    watch(dir, &image, orders, notices, &log);
    match volume.recheck() {
        Ok(()) => Ok(true),
        Err(e) => {
            log.trouble(&e);
            Ok(false)
        }
    }
}

fn read_order(orders: &mut impl BufRead) -> Result<Order> {
    let fail = |e| Error::usage("the server got no order").caused_by(e);
    let mut line = String::new();
    orders.read_line(&mut line).map_err(fail)?;
    serde_json::from_str(&line).map_err(|e| fail(e.into()))
}

/// Opens the volume and mounts its image.
fn serve(order: &Order, log: &Arc<Log>) -> Result<(Volume, ServedImage)> {
    let volume = Volume::open(Path::new(&order.source), &order.options())?;
    let mut disk = match order.partition {
        Some(number) => inside::partition(volume.whole(), number)?.disk,
        None => volume.whole(),
    };
    if let Some(overlay) = &order.overlay {
        serves_writes();
        disk = Arc::new(Scratch::new(disk, Path::new(&overlay.dir), overlay.max_bytes)?);
    }
    let log = Arc::clone(log);
    let allocated_bytes = volume.allocated_bytes;
    let image =
        ServedImage::mount(disk, Path::new(&order.image_dir), allocated_bytes, move |e| log.trouble(e))?;
    Ok((volume, image))
}

fn notices_of_signals() -> Result<(std::sync::mpsc::Sender<Notice>, Receiver<Notice>)> {
    let (sender, receiver) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::usage("cannot watch for signals").caused_by(e))?;
    let of_signals = sender.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            if of_signals.send(Notice::End).is_err() {
                break;
            }
        }
    });
    Ok((sender, receiver))
}

/// Waits until the image is unmounted. Whoever asks for an end before that gets everything taken down, by another process.
fn watch(
    dir: &Path,
    image: &ServedImage,
    mut orders: impl BufRead + Send + 'static,
    (sender, receiver): (std::sync::mpsc::Sender<Notice>, Receiver<Notice>),
    log: &Arc<Log>,
) {
    thread::spawn(move || {
        let mut line = String::new();
        if orders.read_line(&mut line).is_ok_and(|len| len > 0) {
            let _ = sender.send(Notice::Up);
            return;
        }
        // Whoever held it is gone, and nobody else will take it down; a tool that was left behind may use it for a while.
        while sender.send(Notice::End).is_ok() {
            thread::sleep(RETRY);
        }
    });
    let taking_down = Arc::new(Mutex::new(()));
    while !image.has_ended() {
        match receiver.recv_timeout(POLL) {
            Ok(Notice::End) => {
                let (dir, log, taking_down) = (dir.to_path_buf(), Arc::clone(log), Arc::clone(&taking_down));
                // This thread goes on looking whether the image is still there.
                thread::spawn(move || {
                    if let Ok(_alone) = taking_down.try_lock() {
                        have_taken_down(&dir, &log);
                    }
                });
            }
            Ok(Notice::Up) | Err(RecvTimeoutError::Timeout) => {}
            // Signals are no longer heard of; the image may still be unmounted.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
    }
}

/// Has another process take everything down. What it says when it could not is written down.
fn have_taken_down(dir: &Path, log: &Log) {
    let mut command = Command::new("/proc/self/exe");
    command.args(["umount", "--quiet", "--entry"]).arg(dir).current_dir("/");
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => log.once(&format!("asked to end: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(e) => log.once(&format!("asked to end, and cannot start the process for it: {e}")),
    }
}

/// What could not be read, each place once.
struct Log {
    file: File,
    places: Mutex<HashSet<(String, u64)>>,
}

impl Log {
    fn open(entry: &Entry) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(entry.log());
        let file =
            file.map_err(|e| Error::usage("cannot write a log").with_path(entry.log()).caused_by(e))?;
        Ok(Log { file, places: Mutex::default() })
    }

    fn trouble(&self, error: &Error) {
        // Only the throw-away copy is written to. Once it is full every write fails: that must not crowd out the source.
        let of_overlay = error.kind() == ErrorKind::Output;
        let place = if of_overlay {
            (format!("{OVERLAY_MARK}{}", error.what()), 0)
        } else {
            (error.layer().unwrap_or_default().to_owned(), sector_floor(error.offset_bytes().unwrap_or(0)))
        };
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= MAX_PLACES || !places.insert(place) {
            return;
        }
        let last = places.len() == MAX_PLACES;
        drop(places);
        let mark = if of_overlay { OVERLAY_MARK } else { "" };
        self.line(&format!("{mark}{error}"));
        if last {
            self.line("there are more places; they are not written down");
        }
    }

    /// The same line may come again and again.
    fn once(&self, text: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = places.len() < MAX_PLACES && places.insert((text.to_owned(), 0));
        drop(places);
        if is_new {
            self.line(text);
        }
    }

    fn line(&self, text: &str) {
        // A line in one write, so that lines of several threads do not mix. There is nobody to tell that it failed.
        let _ = (&self.file)
            .write_all(format!("{:.0} {}\n", Timestamp::now(), text.replace('\n', " ")).as_bytes());
    }
}
