//! Signals ask the work to stop; it then takes down what it has put up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use crate::error::{Error, Result};
use crate::event::Cancel;

/// A flag that SIGINT, SIGTERM and SIGHUP raise.
///
/// # Errors
/// When a handler cannot be installed.
pub fn cancel_on_signals() -> Result<Cancel> {
    let cancel = Cancel::default();
    let fail = |e: io::Error| Error::usage("cannot watch for signals").caused_by(e);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, cancel.flag()).map_err(fail)?;
    }
    // A file size limit is to be an error that is reported, not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(fail)?;
    Ok(cancel)
}
