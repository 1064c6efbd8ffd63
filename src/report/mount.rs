//! What `mount` and `umount` show: the JSON they print, and the lines for people.

use std::fmt::Write;

use serde::Serialize;

use crate::error::Error;
use crate::replica::View;
use crate::report::finding::{FindingReport, printable};
use crate::workflow::mount::state::{Entry, State};
use crate::workflow::mount::teardown::{TakenDown, is_whole};
use crate::workflow::mount::{Journal, Mounted};

/// The version of the JSON that these commands print.
pub const SCHEMA_VERSION: u32 = 1;

/// What was mounted.
#[derive(Clone, Debug, Serialize)]
pub struct MountReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The mount's name in the run directory.
    pub id: String,
    /// The replica directory or image.
    pub source: String,
    /// `head` or `snapshot`; `null` for an image.
    pub view: Option<&'static str>,
    /// The file name of the top layer; `null` for an image.
    pub top_layer: Option<String>,
    /// Where it is mounted.
    pub mountpoint: String,
    /// The partition that was taken; `null` for the whole volume.
    pub partition: Option<u32>,
    /// The file system; `null` when there is the image alone.
    pub file_system: Option<FileSystemReport>,
    /// `skip` or `replay`.
    pub journal: &'static str,
    /// The image file.
    pub image: String,
    /// The loop device; `null` when there is the image alone.
    pub loop_device: Option<String>,
    /// The process that serves the image.
    pub server_pid: Option<u32>,
    /// Where that process writes down what it cannot read.
    pub log: String,
    /// What is to be said of it, in words.
    pub notes: Vec<String>,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
}

/// A mounted file system.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystemReport {
    /// The kernel's name for it.
    pub name: &'static str,
    /// What it was mounted with.
    pub options: String,
}

/// Puts together what is shown of a mount.
pub fn mounted(mounted: &Mounted, journal: Journal) -> MountReport {
    let mut findings: Vec<_> = mounted.volume.findings.iter().map(FindingReport::from).collect();
    findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), f.code));
    let view = mounted.view();
    MountReport {
        schema_version: SCHEMA_VERSION,
        id: mounted.entry.id(),
        source: mounted.state.source.clone(),
        view: view.map(|view| match view {
            View::Head(_) => "head",
            View::Snapshot(_) => "snapshot",
        }),
        top_layer: view.map(|view| view.file().to_owned()),
        mountpoint: mounted.state.mountpoint.display().to_string(),
        partition: mounted.partition,
        file_system: mounted.file_system.as_ref().map(|(name, options)| FileSystemReport {
            name,
            options: ["ro,nosuid,nodev,noexec", options].join(",").trim_end_matches(',').to_owned(),
        }),
        journal: match journal {
            Journal::Skip => "skip",
            Journal::Replay => "replay",
        },
        image: mounted.image().display().to_string(),
        loop_device: mounted.loop_device.as_ref().map(|path| path.display().to_string()),
        server_pid: mounted.state.server.map(|server| server.pid),
        log: mounted.entry.log().display().to_string(),
        notes: mounted.notes.clone(),
        findings,
    }
}

/// The lines for people; findings are shown apart.
pub fn mounted_text(report: &MountReport) -> String {
    let mut text = String::new();
    let of = match &report.top_layer {
        Some(layer) => format!("{} as of {}", printable(&report.source), printable(layer)),
        None => printable(&report.source),
    };
    let point = printable(&report.mountpoint);
    // Writing to a String cannot fail.
    let _ = match &report.file_system {
        Some(file_system) => {
            writeln!(
                text,
                "mounted the {} file system in {of} at {point}\n  options {}",
                file_system.name, file_system.options
            )
        }
        None => writeln!(text, "mounted the image of {of}: {}", printable(&report.image)),
    };
    for note in &report.notes {
        let _ = writeln!(text, "  note: {}", printable(note));
    }
    let _ = writeln!(text, "  when you are done: lhrecover umount {point}");
    text
}

/// What was taken down.
#[derive(Clone, Debug, Serialize)]
pub struct UmountReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The mounts that are gone.
    pub unmounted: Vec<UnmountedReport>,
    /// Why others are not.
    pub failed: Vec<String>,
}

/// One mount that is gone.
#[derive(Clone, Debug, Serialize)]
pub struct UnmountedReport {
    /// Its name in the run directory.
    pub id: String,
    /// The replica directory or image.
    pub source: String,
    /// Where it was mounted.
    pub mountpoint: String,
    /// What was done, in words.
    pub steps: Vec<String>,
    /// What could not be read while it was served, and other trouble, with the time.
    pub trouble: Vec<String>,
}

/// Puts together what is shown of mounts that are gone, and of those that are not.
pub fn unmounted<'a>(
    done: impl IntoIterator<Item = &'a TakenDown>,
    failed: impl IntoIterator<Item = &'a Error>,
) -> UmountReport {
    let unmounted = done.into_iter().map(|down| UnmountedReport {
        id: down.id.clone(),
        source: down.source.clone(),
        mountpoint: down.mountpoint.display().to_string(),
        steps: down.steps.clone(),
        trouble: down.trouble.clone(),
    });
    UmountReport {
        schema_version: SCHEMA_VERSION,
        unmounted: unmounted.collect(),
        failed: failed.into_iter().map(Error::to_string).collect(),
    }
}

/// The lines for people; trouble and failures are shown apart.
pub fn unmounted_text(report: &UmountReport) -> String {
    let mut text = String::new();
    for down in &report.unmounted {
        let what = if down.mountpoint.is_empty() { &down.id } else { &down.mountpoint };
        let _ = writeln!(
            text,
            "{}: {}",
            printable(what),
            match down.steps.as_slice() {
                [] => "nothing was left to take down".to_owned(),
                steps => printable(&steps.join("; ")),
            }
        );
    }
    if report.unmounted.is_empty() && report.failed.is_empty() {
        text += "there was nothing to take down\n";
    }
    text
}

/// What is mounted.
#[derive(Clone, Debug, Serialize)]
pub struct ListReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Every mount that is known.
    pub mounts: Vec<ListedReport>,
}

/// One mount.
#[derive(Clone, Debug, Serialize)]
pub struct ListedReport {
    /// Its name in the run directory.
    pub id: String,
    /// The replica directory or image.
    pub source: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// The image file.
    pub image: String,
    /// Whether there is the image alone.
    pub image_only: bool,
    /// The process that serves the image.
    pub server_pid: Option<u32>,
    /// Whether all of it is there; if not, `umount --stale` takes the rest down.
    pub whole: bool,
}

/// Puts together what is mounted.
pub fn listed(known: &[(Entry, State)]) -> ListReport {
    let mounts = known.iter().map(|(entry, state)| ListedReport {
        id: entry.id(),
        source: state.source.clone(),
        mountpoint: state.mountpoint.display().to_string(),
        image: state.image(entry).display().to_string(),
        image_only: state.image_only,
        server_pid: state.server.map(|server| server.pid),
        whole: is_whole(entry, state),
    });
    ListReport { schema_version: SCHEMA_VERSION, mounts: mounts.collect() }
}

/// The lines for people.
pub fn listed_text(report: &ListReport) -> String {
    let mut text = String::new();
    for mount in &report.mounts {
        let what = if mount.image_only { "the image" } else { "the file system" };
        let state = if mount.whole { "" } else { " (a leftover: lhrecover umount --stale)" };
        let _ =
            writeln!(text, "{}: {what} of {}{state}", printable(&mount.mountpoint), printable(&mount.source));
    }
    if report.mounts.is_empty() {
        text += "nothing is mounted\n";
    }
    text
}
