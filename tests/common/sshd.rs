//! Nodes for tests: each an `sshd` on a loopback port, with keys, known hosts and an ssh configuration of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::loopdev::{run, skipped};
use super::text;

/// Several nodes, and what this side needs to reach them.
pub struct Nodes {
    dir: TempDir,
    sshd: PathBuf,
    known_hosts: Vec<(String, String)>,
    aliases: String,
    running: Vec<Child>,
}

impl Nodes {
    /// No node yet. `None` where there is no sshd: says on stderr that the test was skipped.
    pub fn new(test: &str) -> Option<Self> {
        if std::env::var_os(super::cli::EMULATOR).is_some() {
            skipped(test, "a node cannot run a program for another machine");
            return None;
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|dir| dir.join("sshd"));
        // Debian keeps it where only root's PATH looks; and it wants to be called by its full name.
        let Some(sshd) =
            places.find(|p| p.is_file()).or_else(|| Some("/usr/sbin/sshd".into())).filter(|p| p.is_file())
        else {
            skipped(test, "sshd is not installed (package openssh-server)");
            return None;
        };
        if nix::unistd::geteuid().is_root() {
            // What the service of the package makes at boot.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let dir = tempfile::Builder::new().prefix("lhrecover-").tempdir().unwrap();
        for key in ["host", "user"] {
            run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", text(&dir.path().join(key))]);
        }
        let known_hosts = Vec::new();
        Some(Nodes { dir, sshd, known_hosts, aliases: String::new(), running: Vec::new() })
    }

    /// Starts a node that ssh knows as `name`. `more` goes into sshd's configuration, before the rest.
    ///
    /// Its home and its temporary directory are empty ones of its own.
    pub fn start(&mut self, name: &str, more: &str) {
        let port = self.add(name);
        for dir in [self.home(name), self.tmp(name)] {
            fs::create_dir_all(dir).unwrap();
        }
        let at = |file: &str| text(&self.dir.path().join(file)).to_owned();
        let config = self.dir.path().join(format!("{name}.sshd"));
        let environment = format!("SetEnv HOME={} TMPDIR={}", text(&self.home(name)), text(&self.tmp(name)));
        let settings = [
            // The first of each counts.
            more,
            &environment,
            &format!("Port {port}\nListenAddress 127.0.0.1\nHostKey {}", at("host")),
            &format!("AuthorizedKeysFile {}\nStrictModes no", at("user.pub")),
            "PidFile none\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no",
            "MaxStartups 100",
        ];
        fs::write(&config, settings.join("\n")).unwrap();
        let mut sshd = Command::new(&self.sshd);
        sshd.args(["-D", "-e", "-f", text(&config)]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = sshd.spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().unwrap().is_some();
            assert!(!ended && began.elapsed() < Duration::from_secs(20), "{}", {
                let _ = child.kill();
                String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned()
            });
            thread::sleep(Duration::from_millis(5));
        }
        self.running.push(child);
    }

    /// A node by this name that nobody has switched on. Returns its port.
    pub fn add(&mut self, name: &str) -> u16 {
        // Free now, and hardly taken by anybody else in the next moment.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let key = fs::read_to_string(self.dir.path().join("host.pub")).unwrap();
        self.known_hosts.push((name.to_owned(), format!("[127.0.0.1]:{port} {key}")));
        self.aliases += &format!("Host {name}\n  HostName 127.0.0.1\n  Port {port}\n");
        port
    }

    /// Forgets the node's host key.
    pub fn forget(&mut self, name: &str) {
        self.known_hosts.retain(|(of, _)| of != name);
    }

    /// Writes the configuration that this side uses (ssh's `-F`). `more` goes before the rest.
    pub fn config(&self, more: &str) -> PathBuf {
        let known_hosts = self.known_hosts();
        fs::write(&known_hosts, self.known_hosts.iter().map(|(_, line)| line.as_str()).collect::<String>())
            .unwrap();
        let config = self.dir.path().join("config");
        let user = self.dir.path().join("user");
        let common = format!(
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile /dev/null\n",
            text(&user),
            text(&known_hosts),
        );
        fs::write(&config, [more, &self.aliases, &common].join("\n")).unwrap();
        config
    }

    /// The file of known host keys.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// A directory for whatever the test likes.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The node's home directory.
    pub fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.home"))
    }

    /// Where the node puts temporary files.
    pub fn tmp(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.tmp"))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for sshd in &mut self.running {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}
