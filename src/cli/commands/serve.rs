//! `lhrecover serve`: the volume as a disk for programs elsewhere, over NBD.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::access::nbd::Catalog;
use crate::access::nbd::exports::{ExportOptions, Exports};
use crate::access::nbd::listen::{Address, Listener};
use crate::access::nbd::record::{Record, Watcher};
use crate::access::nbd::server::serve;
use crate::cli::Outcome;
use crate::cli::args::{LookArgs, OverlayArgs};
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::model::finding::Finding;
use crate::report::finding::FindingReport;
use crate::report::serve::{self as report, ServeReport};
use crate::sink::guard::SourceIdentity;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The default export is the head, or what --at names; it has the empty name, and the head is also called `head` unless a \
snapshot is. Every snapshot is an export of its own name, whatever --at says. An image has the default export only.

It serves until SIGINT, SIGTERM or SIGHUP ends it, which is no interruption: the exit code is then 0, or 1 if anything is \
doubtful, was unreadable, or changed while it was served.

  lhrecover serve REPLICA_DIR --nbd unix:/run/volume.sock
  qemu-img info 'nbd+unix:///?socket=/run/volume.sock'
  nbdcopy 'nbd+unix:///SNAPSHOT?socket=/run/volume.sock' snapshot.img")]
pub struct Args {
    /// The replica directory that holds volume.meta and the .img files; or an image, a file or a block device
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// Where to listen: a Unix socket, which only you can use, or a TCP port of this machine; port 0 is any that is free
    #[arg(long, value_name = "unix:PATH|HOST:PORT")]
    nbd: OsString,
    /// Listen where other machines can connect: NBD has no password, and all they need is the port
    #[arg(long)]
    listen_anywhere: bool,
    /// Take writes, and throw them away in the end; each export has an overlay of its own
    #[arg(long)]
    writable: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// Serves.
///
/// # Errors
/// When nothing can be served, or nobody can connect.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let address = args.check_usage()?;
    let cancel = cancel_on_signals()?;
    let record = Record::new(ui);
    let exports = Exports::new(&args.source, args.options(), &record)?;
    let listener = Listener::bind(&address, args.listen_anywhere)?;
    let report = ServeReport {
        size_bytes: exports.size_bytes(),
        writable: args.writable,
        ..report::build(&args.source, exports.list(), &record.findings(), |name| listener.uri(name))
    };
    ui.result(&report, &report::text(&report))?;
    let served = serve(&listener, &exports, &record, &cancel);
    drop(listener);
    exports.recheck();
    record.sum_up_unreadable();
    served?;
    Ok(Outcome::of(record.findings().iter().map(Finding::severity).max()))
}

impl Args {
    /// Where to listen, once nothing speaks against it.
    fn check_usage(&self) -> Result<Address> {
        let address = Address::parse(&self.nbd)?;
        if self.overlay.is_given() && !self.writable {
            return Err(Error::usage("--overlay and --overlay-max say where writes go, and none are taken")
                .with_hint("take writes, and throw them away in the end: --writable"));
        }
        if let Address::Unix(path) = &address {
            self.refuse_inside(path, "the socket would be inside the replica directory")?;
        }
        if self.writable {
            let inside = self.overlay.space().real_dir()?.join("file");
            self.refuse_inside(&inside, "the overlay would be inside the replica directory")?;
        }
        Ok(address)
    }

    fn refuse_inside(&self, path: &Path, what: &str) -> Result<()> {
        if SourceIdentity::at(&self.source).holds(path) {
            return Err(Error::refused(what)
                .with_path(path)
                .with_hint("a source is never written: name a place elsewhere"));
        }
        Ok(())
    }

    fn options(&self) -> ExportOptions {
        ExportOptions {
            volume: self.look.options(),
            partition: self.look.partition,
            overlay: self.writable.then(|| self.overlay.space()),
        }
    }
}

impl Watcher for Ui {
    fn failed(&self, error: &Error) {
        self.trouble(error);
    }

    fn found(&self, findings: &[Finding]) {
        self.findings(&findings.iter().map(FindingReport::from).collect::<Vec<_>>());
    }
}
