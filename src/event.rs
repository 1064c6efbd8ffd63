//! What the core tells the outside while it works, and how the outside tells it to stop.
//!
//! The core never prints and never asks. It reports a closed set of [`Event`]s to an [`Observer`], and looks
//! at a [`Cancel`] between pieces of work. Both travel together as a [`Run`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Something worth showing to a person who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A phase begins. `total_bytes` is what [`Event::Advanced`] will add up to, when that is known.
    Phase {
        /// What is being done, in words: `copying`, `verifying`, `syncing`.
        name: &'a str,
        /// The phase's size in bytes, if it has one.
        total_bytes: Option<u64>,
    },
    /// So many more bytes of the current phase are done.
    Advanced {
        /// Bytes since the last such event (from any thread).
        bytes: u64,
    },
    /// The current phase is over.
    PhaseDone,
}

/// Receives [`Event`]s, possibly from several threads at once.
pub trait Observer: Sync {
    /// Takes one event. Must be quick: workers wait for it.
    fn event(&self, event: Event<'_>);
}

/// An observer that does not look.
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// A flag that a signal handler raises and the core looks at between pieces of work.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Asks the work to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Forgets that it was asked to: it could not be done.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether the work was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How one piece of work is watched and stopped.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Who is told.
    pub observer: &'a dyn Observer,
    /// Who may stop it.
    pub cancel: &'a Cancel,
}

impl Run<'_> {
    /// Reports one event.
    pub fn event(&self, event: Event<'_>) {
        self.observer.event(event);
    }

    /// Fails with [`ErrorKind::Interrupted`](crate::error::ErrorKind::Interrupted) once asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::interrupted()) } else { Ok(()) }
    }
}
