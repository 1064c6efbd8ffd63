//! Arguments that several commands share: one flag, one meaning.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::access::scratch::ScratchSpace;
use crate::access::volume::VolumeOptions;
use crate::error::Result;
use crate::model::overlay::Unwritten;
use crate::node::{SshOptions, Target, parse_push, read_node_file};
use crate::replica::SourceOptions;
use crate::sink::guard::DeviceLeave;

/// How a command shows what it does.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct UiArgs {
    /// Print the result as JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors and warnings
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// How to show progress, on standard error; `auto`: a bar on a terminal, otherwise plain lines
    #[arg(long, global = true, value_name = "STYLE", default_value = "auto")]
    pub progress: Progress,
}

/// Styles of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, otherwise plain lines.
    Auto,
    /// A bar.
    Bar,
    /// A line every few seconds.
    Plain,
    /// A JSON object per line.
    Json,
    /// None.
    None,
}

/// What is known of a volume beyond its replica directory.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct VolumeArgs {
    /// Take this file as the head, whatever volume.meta says
    #[arg(long, value_name = "FILE")]
    pub head: Option<String>,
    /// Take this as the volume's size in bytes, whatever volume.meta says (suffixes K, M, G, T: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub size: Option<u64>,
    /// Where the backing image is now (raw or qcow2)
    #[arg(long, value_name = "PATH")]
    pub backing_file: Option<PathBuf>,
    /// What extents mean that were preallocated and never written: zeros, as the engine reads them, or holes
    /// through which older data shows
    #[arg(long, value_name = "MEANING", default_value = "zero")]
    pub unwritten: UnwrittenArg,
}

impl VolumeArgs {
    /// Options that open the volume's head, with no leave to pass any guard.
    pub fn options(&self) -> SourceOptions {
        SourceOptions {
            head: self.head.clone(),
            size_bytes: self.size,
            backing_file: self.backing_file.clone(),
            ..SourceOptions::default()
        }
    }

    /// What unwritten extents mean.
    pub fn unwritten(&self) -> Unwritten {
        match self.unwritten {
            UnwrittenArg::Zero => Unwritten::Zero,
            UnwrittenArg::Hole => Unwritten::Hole,
        }
    }
}

/// Which state of which volume is read, and what leave there is to read it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// Read the volume as of this snapshot, on the live chain or a branch: its name, its file name, or a unique
    /// beginning of it
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "head")]
    pub at: Option<String>,
    /// What is known of the volume.
    #[command(flatten)]
    pub volume: VolumeArgs,
    /// Read a replica that was being rebuilt: what it holds is not the volume
    #[arg(long)]
    pub allow_rebuilding: bool,
    /// Read the head though another process has it open for writing
    #[arg(long)]
    pub allow_live: bool,
    /// Read a replica in which every layer is fully allocated, as after a copy that turned holes into data
    #[arg(long)]
    pub accept_copy_damage: bool,
}

impl SourceArgs {
    /// The part of it that opening a source needs.
    pub fn options(&self) -> SourceOptions {
        SourceOptions {
            at: self.at.clone(),
            allow_rebuilding: self.allow_rebuilding,
            allow_live: self.allow_live,
            ..self.volume.options()
        }
    }
}

/// Which part of which state of a volume is looked into, and what leave there is to read it.
#[derive(Clone, Debug, Args)]
pub struct LookArgs {
    /// Look into this partition, by its number in the volume's partition table
    #[arg(long, value_name = "N", help_heading = "Source", value_parser = clap::value_parser!(u32).range(1..))]
    pub partition: Option<u32>,
    /// Which state.
    #[command(flatten)]
    pub source: SourceArgs,
}

impl LookArgs {
    /// What opening the volume needs.
    pub fn options(&self) -> VolumeOptions {
        VolumeOptions {
            source: self.source.options(),
            accept_copy_damage: self.source.accept_copy_damage,
            unwritten: self.source.volume.unwritten(),
        }
    }
}

/// Where a throw-away copy on write goes, and how large it may become.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Throw-away overlay")]
pub struct OverlayArgs {
    /// The directory for the temporary file that takes what is written, or a file in it; it has no name, and is gone in the
    /// end [default: $TMPDIR, or /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
    /// How large it may grow (suffixes K, M, G, T: powers of 1024) [default: 4G]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub overlay_max: Option<u64>,
}

impl OverlayArgs {
    /// Whether anything was said of it.
    pub fn is_given(&self) -> bool {
        self.overlay.is_some() || self.overlay_max.is_some()
    }

    /// Where it goes, and how large it may become.
    pub fn space(&self) -> ScratchSpace {
        let default = ScratchSpace::default();
        ScratchSpace {
            dir: self.overlay.clone().unwrap_or(default.dir),
            max_bytes: self.overlay_max.unwrap_or(default.max_bytes),
        }
    }
}

/// What unwritten extents mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnwrittenArg {
    /// Zeros that hide what is below, as the engine reads them.
    Zero,
    /// Holes: older data shows through.
    Hole,
}

/// Other nodes, and how they are reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Other nodes")]
pub struct NodeArgs {
    /// Look at this node, too, over ssh, as your own ssh reaches it; PATH as on this machine (may be given again)
    #[arg(long, value_name = "[USER@]HOST[:PATH]")]
    pub node: Vec<OsString>,
    /// Look at the nodes in this file, one to a line
    #[arg(long, value_name = "FILE")]
    pub node_file: Vec<PathBuf>,
    /// Be root on the nodes by sudo, which must not ask for a password
    #[arg(long)]
    pub sudo: bool,
    /// Use this configuration of ssh instead of your own
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,
    /// How long a node may take to answer, in seconds; with --deep, how long it may make no progress
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub node_timeout: u64,
    /// The program to bring along to nodes of another architecture, as `uname -m` has it there: aarch64=PATH (may be
    /// given again)
    #[arg(long, value_name = "ARCH=PATH")]
    pub push_binary: Vec<OsString>,
}

impl NodeArgs {
    /// The nodes.
    ///
    /// # Errors
    /// When one is not named as nodes are.
    pub fn targets(&self) -> Result<Vec<Target>> {
        let mut targets = self.node.iter().map(|text| Target::parse(text)).collect::<Result<Vec<_>>>()?;
        for file in &self.node_file {
            targets.extend(read_node_file(file)?);
        }
        Ok(targets)
    }

    /// How they are reached.
    ///
    /// # Errors
    /// When a program to bring along is not named as it should be.
    pub fn ssh(&self) -> Result<SshOptions> {
        Ok(SshOptions {
            config: self.ssh_config.clone(),
            sudo: self.sudo,
            timeout: Duration::from_secs(self.node_timeout),
            push: self.push_binary.iter().map(|text| parse_push(text)).collect::<Result<_>>()?,
        })
    }
}

/// What leave there is to write to a device.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Device output")]
pub struct DeviceArgs {
    /// Write to a device that carries data
    #[arg(long)]
    pub overwrite: bool,
    /// Write to a device that is not a Longhorn volume (not under /dev/longhorn)
    #[arg(long)]
    pub any_device: bool,
}

impl DeviceArgs {
    /// As the guard takes it.
    pub fn leave(self) -> DeviceLeave {
        DeviceLeave { overwrite: self.overwrite, any_device: self.any_device }
    }
}

/// A number of bytes, with an optional suffix K, M, G or T (powers of 1024; `KiB` and so on as well).
///
/// # Errors
/// When it is none, in words.
pub fn size(text: &str) -> std::result::Result<u64, String> {
    let trimmed = text.trim();
    let digits_end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, suffix) = trimmed.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a number of bytes"))?;
    let power = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{suffix:?} is no suffix: K, M, G and T are (powers of 1024)")),
    };
    number.checked_mul(1 << power).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_with_and_without_suffix() {
        assert_eq!(size("33554432"), Ok(33_554_432));
        assert_eq!(size("16G"), Ok(16 << 30));
        assert_eq!(size("2MiB"), Ok(2 << 20));
        assert!(size("16X").is_err() && size("").is_err() && size("-1").is_err());
        assert!(size("99999999999T").is_err());
    }
}
