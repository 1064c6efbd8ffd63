//! Nodes over ssh: real connections to an sshd of the test's own, with everything that can go wrong on the way.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::cli::PROGRAM;
use common::fingerprint::Fingerprint;
use common::loopdev::{self, Mounted, run, skipped};
use common::sshd::Nodes;
use common::{fixture, text};
use lhrecover::error::{Error, ErrorKind, Result};
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::node::{RemoteOutput, SshOptions, Target, run_remote};
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn this_machine() -> String {
    run("uname", &["-m"])
}

/// The program under test for nodes like this machine, a deadline that nobody should need, and no sudo.
fn options(config: PathBuf) -> SshOptions {
    SshOptions {
        config: Some(config),
        sudo: false,
        timeout: Duration::from_secs(60),
        push: BTreeMap::from([(this_machine(), PathBuf::from(PROGRAM))]),
    }
}

fn on_node(name: &str, args: &[&OsStr], options: &SshOptions) -> Result<RemoteOutput> {
    let target = Target::parse(OsStr::new(name)).unwrap();
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let ran = run_remote(&target, &args, options, &Run { observer: &Silent, cancel: &Cancel::default() });
    assert_eq!(children(), 0, "an ssh is left");
    ran
}

/// How many ssh processes this thread has started that are not buried.
fn children() -> usize {
    let is_ssh =
        |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "ssh\n");
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_whitespace().filter(is_ssh).count()
}

/// What `inspect --json` says of a replica directory on a node.
fn inspect(name: &str, dir: &Path, options: &SshOptions) -> Result<RemoteOutput> {
    let args = ["inspect", "--json", "--"].map(OsStr::new);
    on_node(name, &[&args[..], &[dir.as_os_str()]].concat(), options)
}

#[track_caller]
fn fails(ran: Result<RemoteOutput>, says: &[&str]) -> Error {
    let e = ran.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::External, "{e}");
    let all = format!("{e}\n{}", e.hint().unwrap_or_default());
    for part in says {
        assert!(all.contains(part), "{part:?} is not said in\n{all}");
    }
    e
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "not so after 20 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Puts a program into a node's home that says it is `version`, and does `body` otherwise.
fn install(home: &Path, version: &str, body: &str) {
    let path = home.join(".local/bin/lhrecover");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text =
        format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo lhrecover {version}; exit; fi\n{body}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_node_without_the_program_gets_it_and_loses_it_again() {
    let Some(mut nodes) = Nodes::new("a_node_without_the_program_gets_it_and_loses_it_again") else { return };
    nodes.start("pi4", "");
    let replica = fixture("02-head-one-snapshot");
    let (dir, _) = replica.replica();
    let before = Fingerprint::of(&dir);
    let ran = inspect("pi4", &dir, &options(nodes.config(""))).unwrap();
    assert_eq!((ran.exit_code, ran.pushed, &ran.warnings[..]), (0, true, &[][..]), "{}", ran.stderr);
    let local = common::cli::lhrecover(&["inspect", "--json", text(&dir)]).json();
    assert_eq!(serde_json::from_slice::<Value>(&ran.stdout).unwrap(), local);
    assert!(is_empty(&nodes.tmp("pi4")) && is_empty(&nodes.home("pi4")));
    let clock = ran.clock.unwrap();
    // The node is this machine; it leaves out the fraction of a second.
    assert!(ran.sent_at == clock.sent_at && clock.received_at <= ran.received_at);
    assert!(clock.read_at.as_second() >= clock.sent_at.as_second() && clock.read_at <= clock.received_at);
    assert_eq!(before, Fingerprint::of(&dir));
}

#[test]
fn one_that_is_there_is_used_and_exit_codes_come_through() {
    let Some(mut nodes) = Nodes::new("one_that_is_there_is_used_and_exit_codes_come_through") else { return };
    nodes.start("a", "");
    install(&nodes.home("a"), VERSION, "printf 'no line break'; printf 'one\\ntwo\\n\\033[2J' >&2; exit 3");
    let ran = on_node("a", &[], &options(nodes.config(""))).unwrap();
    assert_eq!((&ran.stdout[..], ran.exit_code, ran.pushed), (&b"no line break"[..], 3, false));
    assert_eq!(ran.stderr, "one; two; \\u{1b}[2J");
    install(&nodes.home("a"), VERSION, "cat; kill -9 $$");
    let ran = on_node("a", &[], &options(nodes.config(""))).unwrap();
    assert_eq!((ran.stdout.len(), ran.exit_code), (0, 128 + 9));
}

#[test]
fn no_name_reaches_a_shell_unquoted() {
    let Some(mut nodes) = Nodes::new("no_name_reaches_a_shell_unquoted") else { return };
    let shells = ["sh", "bash", "fish", "tcsh", "csh"];
    let here = |shell: &&str| {
        let found = Path::new("/bin").join(shell).exists() || Path::new("/usr/bin").join(shell).exists();
        if !found {
            skipped("no_name_reaches_a_shell_unquoted", &format!("{shell} is not installed"));
        }
        found
    };
    let mark = format!("lhrecover-touched-{}", std::process::id());
    let names = [
        "a  b".to_owned(),
        format!("it's \"quoted\" $(touch {mark}) `touch {mark}` ;touch {mark}; \\' \\\\ !! % * ~ &|<>#"),
        format!("-rf\n'\ntouch {mark}\n"),
        "$HOME ${x} !$ ''".to_owned(),
    ];
    let parent = fixture("02-head-one-snapshot");
    let (dir, _) = parent.replica();
    for shell in shells.into_iter().filter(here) {
        // What a login shell does with the line that ssh sends.
        nodes.start(shell, &format!("ForceCommand exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
        install(&nodes.home(shell), VERSION, &format!("exec {PROGRAM} \"$@\""));
        let options = options(nodes.config(""));
        for name in names.iter().map(OsStr::new).chain([OsStr::from_bytes(b"\xff\x01\x7f\xc3")]) {
            let odd = parent.dir.path().join(name);
            fs::rename(&dir, &odd).unwrap();
            let ran = inspect(shell, &odd, &options);
            fs::rename(&odd, &dir).unwrap();
            let ran = ran.unwrap_or_else(|e| panic!("{shell}, {name:?}: {e}"));
            assert_eq!(ran.exit_code, 0, "{shell}, {name:?}: {}", ran.stderr);
            let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
            assert_eq!(report["layers"].as_array().unwrap().len(), 2, "{shell}, {name:?}: {report}");
        }
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
    for place in [Path::new("."), Path::new("/"), &user.dir, &nodes.home("sh"), parent.dir.path(), &dir] {
        assert!(!place.join(&mark).exists(), "a name was run as a command");
    }
}

#[test]
fn host_keys_are_never_taken_unseen() {
    let Some(mut nodes) = Nodes::new("host_keys_are_never_taken_unseen") else { return };
    nodes.start("new", "");
    nodes.forget("new");
    let lax = "StrictHostKeyChecking no\nCheckHostIP no\nUpdateHostKeys yes\nNoHostAuthenticationForLocalhost yes\n";
    let options = options(nodes.config(lax));
    fails(
        on_node("new", &[], &options),
        &["node new", "Host key verification failed", "connect once by hand", "ssh -F", " new"],
    );
    assert_eq!(fs::read(nodes.known_hosts()).unwrap(), b"");
}

#[test]
fn what_stands_in_the_way_is_said() {
    let Some(mut nodes) = Nodes::new("what_stands_in_the_way_is_said") else { return };
    nodes.add("down");
    nodes.start("strange", "AuthorizedKeysFile none");
    nodes.start("forced", "ForceCommand echo only backups here");
    nodes.start("mute", "ForceCommand true");
    nodes.start("dies", "");
    install(&nodes.home("dies"), VERSION, "kill -9 $PPID; sleep 0.1");
    let options = options(nodes.config(""));
    fails(on_node("down", &[], &options), &["node down", "Connection refused", "is it running"]);
    fails(on_node("strange", &[], &options), &["Permission denied (publickey)", "ssh-add"]);
    fails(on_node("nowhere.invalid", &[], &options), &["Could not resolve hostname", "is the name right?"]);
    fails(on_node("forced", &[], &options), &["only backups here", "force no other command"]);
    fails(on_node("mute", &[], &options), &["did not run what it was told"]);
    fails(on_node("dies", &[], &options), &["the connection ended while running"]);
    let broken = SshOptions { config: Some("/nowhere".into()), ..options };
    fails(on_node("dies", &[], &broken), &["/nowhere"]);
}

#[test]
fn a_slow_node_is_given_up_in_time() {
    let Some(mut nodes) = Nodes::new("a_slow_node_is_given_up_in_time") else { return };
    nodes.start("asleep", "ForceCommand exec sleep 90");
    nodes.start("at-work", "");
    install(&nodes.home("at-work"), VERSION, "echo $$ >\"$HOME/pid\"; exec sleep 90");
    let options = SshOptions { timeout: Duration::from_secs(5), ..options(nodes.config("")) };
    let cases = [
        ("asleep", "timed out after 5 s, while connecting"),
        ("at-work", "said nothing for 5 s while running"),
    ];
    for (node, what) in cases {
        let began = Instant::now();
        fails(on_node(node, &[], &options), &[what, "--node-timeout"]);
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    let pid = fs::read_to_string(nodes.home("at-work").join("pid")).unwrap();
    eventually("what ran there has ended", || !Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn a_node_that_says_how_far_it_is_may_take_its_time() {
    let Some(mut nodes) = Nodes::new("a_node_that_says_how_far_it_is_may_take_its_time") else { return };
    nodes.start("at-work", "");
    install(&nodes.home("at-work"), VERSION, "for i in 1 2 3 4 5; do echo far >&2; sleep 1; done; echo done");
    let options = SshOptions { timeout: Duration::from_secs(3), ..options(nodes.config("")) };
    assert_eq!(on_node("at-work", &[], &options).unwrap().stdout, b"done\n");
}

#[test]
fn nothing_is_left_on_a_node_when_we_go_away() {
    let Some(mut nodes) = Nodes::new("nothing_is_left_on_a_node_when_we_go_away") else { return };
    nodes.start("a", "");
    let options = options(nodes.config(""));
    go_away(&nodes, &options);
    if has_sudo() {
        let options = SshOptions { sudo: true, ..options };
        go_away(&nodes, &options);
    }
}

/// Where the program is that was called with this argument.
fn program_of(arg: &Path) -> Option<PathBuf> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
    let called_with = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        line.split(|&b| b == 0).any(|word| word == arg.as_os_str().as_bytes())
    };
    let exe = |process: PathBuf| fs::read_link(process.join("exe")).ok();
    processes.filter(called_with).filter_map(exe).find(|exe| exe.ends_with("lhrecover"))
}

fn go_away(nodes: &Nodes, options: &SshOptions) {
    let replica = fixture("23-huge-sparse");
    let (dir, _) = replica.replica();
    // Takes hours: the digest of a volume of many TiB.
    let out = nodes.dir().join("image");
    let args = ["merge", "--digest", "sha256", "--no-sync", text(&dir), text(&out)].map(OsString::from);
    let cancel = Cancel::default();
    let running = || fs::metadata(nodes.dir().join("image.partial")).is_ok();
    let there = thread::scope(|scope| {
        let target = Target::parse(OsStr::new("a")).unwrap();
        let cancel = &cancel;
        let args = &args;
        let ran = scope.spawn(move || run_remote(&target, args, options, &Run { observer: &Silent, cancel }));
        eventually("it runs", running);
        let there = program_of(&out).unwrap();
        assert!(there.exists() && there != Path::new(PROGRAM), "{there:?}");
        cancel.cancel();
        assert_eq!(ran.join().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
        there
    });
    eventually("the program and what it wrote are removed", || {
        !there.parent().unwrap().exists() && !running()
    });
    assert_eq!(program_of(&out), None);
}

#[test]
fn endless_output_is_cut_off() {
    let Some(mut nodes) = Nodes::new("endless_output_is_cut_off") else { return };
    nodes.start("greets", "ForceCommand yes");
    nodes.start("talks", "");
    install(&nodes.home("talks"), VERSION, "yes | head -c 1000000000");
    nodes.start("complains", "");
    install(&nodes.home("complains"), VERSION, "yes complaint | head -c 50000000 >&2; echo done");
    let options = options(nodes.config(""));
    fails(on_node("greets", &[], &options), &["more than 1 MiB while connecting"]);
    fails(on_node("talks", &[], &options), &["more than 64 MiB while running"]);
    let ran = on_node("complains", &[], &options).unwrap();
    assert_eq!((&ran.stdout[..], ran.stderr.as_str()), (&b"done\n"[..], "complaint; complaint; complaint"));
}

#[test]
fn greetings_do_not_spoil_the_answer() {
    let Some(mut nodes) = Nodes::new("greetings_do_not_spoil_the_answer") else { return };
    nodes.start(
        "a",
        "ForceCommand printf 'hello x86_64 same\\nno end'; echo oops >&2; eval \"$SSH_ORIGINAL_COMMAND\"",
    );
    let replica = fixture("02-head-one-snapshot");
    let ran = inspect("a", &replica.replica().0, &options(nodes.config(""))).unwrap();
    assert_eq!(ran.exit_code, 0);
    assert!(serde_json::from_slice::<Value>(&ran.stdout).is_ok());
}

#[test]
fn another_version_is_replaced_or_used_with_a_warning() {
    let Some(mut nodes) = Nodes::new("another_version_is_replaced_or_used_with_a_warning") else { return };
    nodes.start("a", "");
    install(&nodes.home("a"), "0.0.1", "echo old");
    let config = nodes.config("");
    let replica = fixture("02-head-one-snapshot");
    let ran = inspect("a", &replica.replica().0, &options(config.clone())).unwrap();
    assert!(ran.pushed && ran.warnings.is_empty() && ran.stdout.starts_with(b"{"));
    // A program that is none: the test itself, and one for another machine.
    let unfit = SshOptions { push: BTreeMap::new(), ..options(config.clone()) };
    let ran = on_node("a", &[], &unfit).unwrap();
    assert_eq!((&ran.stdout[..], ran.pushed), (&b"old\n"[..], false));
    assert!(ran.warnings[0].contains("it ran its own lhrecover 0.0.1"), "{:?}", ran.warnings);
    assert!(ran.warnings[0].contains("does not run there"), "{:?}", ran.warnings);
    assert!(is_empty(&nodes.tmp("a")));
    fs::remove_dir_all(nodes.home("a").join(".local")).unwrap();
    fails(on_node("a", &[], &unfit), &["node a has no lhrecover", "does not run there", "--push-binary"]);
    let none = SshOptions { push: BTreeMap::from([(this_machine(), "/etc/passwd".into())]), ..unfit };
    assert_eq!(on_node("a", &[], &none).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_node_of_another_kind_needs_another_program() {
    let Some(mut nodes) = Nodes::new("a_node_of_another_kind_needs_another_program") else { return };
    let bin = nodes.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("uname"), "#!/bin/sh\necho \"$UNAME\"\n").unwrap();
    fs::set_permissions(bin.join("uname"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, uname) in [("other", "s390x"), ("liar", "../../etc/x"), ("strange", "mips")] {
        let path = format!("SetEnv PATH={}:/usr/bin:/bin UNAME={uname}", text(&bin));
        let rest = format!(" HOME={} TMPDIR={}", text(&nodes.home(name)), text(&nodes.tmp(name)));
        nodes.start(name, &(path + &rest));
    }
    let options = options(nodes.config(""));
    fails(
        on_node("other", &[], &options),
        &["none of this version here", "s390x", "--push-binary s390x=PATH"],
    );
    fails(on_node("liar", &[], &options), &["its architecture is said to be"]);
    let wrong =
        SshOptions { push: BTreeMap::from([("s390x".to_owned(), PROGRAM.into())]), ..options.clone() };
    let e = on_node("other", &[], &wrong).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
    assert!(e.to_string().contains(&format!("built for {}, and the node is s390x", this_machine())), "{e}");
    // Of a machine that we know nothing of, the node is the judge.
    let given = SshOptions { push: BTreeMap::from([("mips".to_owned(), PROGRAM.into())]), ..options };
    assert!(on_node("strange", &[OsStr::new("--version")], &given).unwrap().pushed);
}

#[test]
fn a_directory_that_lets_nothing_run_or_has_no_room_is_passed_over() {
    let test = "a_directory_that_lets_nothing_run_or_has_no_room_is_passed_over";
    let Some(mut nodes) = Nodes::new(test) else { return };
    if !loopdev::available(test) {
        return;
    }
    for (name, options) in [("noexec", "noexec,size=200m"), ("full", "size=1m")] {
        nodes.start(name, "");
        let tmp = nodes.tmp(name);
        let ssh = self::options(nodes.config(""));
        let _mounted = Mounted::tmpfs(options, &tmp);
        let ran = on_node(name, &[OsStr::new("--version")], &ssh).unwrap();
        assert!(ran.pushed && is_empty(&tmp), "{name}");
        assert_eq!(ran.stdout, format!("lhrecover {VERSION}\n").as_bytes(), "{name}");
    }
}

#[test]
fn sudo_is_root_or_says_why_not() {
    let Some(mut nodes) = Nodes::new("sudo_is_root_or_says_why_not") else { return };
    for (name, says) in
        [("asks", "sudo: a password is required"), ("none", "env: 'sudo': No such file or directory")]
    {
        let path = format!("SetEnv PATH={}:/usr/bin:/bin", text(&nodes.dir().join(name)));
        fs::create_dir(nodes.dir().join(name)).unwrap();
        let sudo = nodes.dir().join(name).join("sudo");
        fs::write(&sudo, format!("#!/bin/sh\necho \"{says}\" >&2; exit 1\n")).unwrap();
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).unwrap();
        nodes.start(name, &path);
    }
    nodes.start("real", "");
    let options = SshOptions { sudo: true, ..options(nodes.config("")) };
    fails(on_node("asks", &[], &options), &["a password is required", "NOPASSWD"]);
    fails(on_node("none", &[], &options), &["there is no sudo on the node"]);
    if !has_sudo() {
        skipped(
            "sudo_is_root_or_says_why_not",
            "sudo is not installed (package sudo), or asks for a password",
        );
        return;
    }
    let replica = fixture("02-head-one-snapshot");
    let ran = inspect("real", &replica.replica().0, &options).unwrap();
    assert_eq!((ran.exit_code, ran.pushed), (0, true), "{}", ran.stderr);
}

/// Whether sudo may be used without a password.
fn has_sudo() -> bool {
    let allowed = std::process::Command::new("sudo").args(["-n", "true"]).output();
    allowed.is_ok_and(|output| output.status.success())
}

#[test]
fn any_posix_shell_will_do() {
    let test = "any_posix_shell_will_do";
    let Some(mut nodes) = Nodes::new(test) else { return };
    let replica = fixture("02-head-one-snapshot");
    let tools = ["head", "mktemp", "wc", "date", "rm", "cat", "uname", "sleep", "chmod", "printf"];
    for shell in ["dash", "bash", "mksh", "busybox"] {
        let find = |tool: &str| {
            ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(tool)).into_iter().find(|p| p.exists())
        };
        let Some(sh) = find(shell) else {
            skipped(test, &format!("{shell} is not installed"));
            continue;
        };
        // Nothing but what the script needs; with busybox, all of it busybox's own.
        let bin = nodes.dir().join(format!("{shell}.bin"));
        fs::create_dir(&bin).unwrap();
        symlink(&sh, bin.join("sh")).unwrap();
        for tool in tools {
            let program = if shell == "busybox" { sh.clone() } else { find(tool).unwrap() };
            symlink(program, bin.join(tool)).unwrap();
        }
        let tmp = nodes.tmp(shell);
        nodes.start(shell, &format!("SetEnv PATH={} HOME={} TMPDIR={}", text(&bin), text(&tmp), text(&tmp)));
        let options = options(nodes.config(""));
        let ran = inspect(shell, &replica.replica().0, &options).unwrap_or_else(|e| panic!("{shell}: {e}"));
        assert_eq!((ran.exit_code, ran.pushed, ran.stderr.as_str()), (0, true, ""), "{shell}");
        assert!(is_empty(&tmp) && ran.clock.is_some(), "{shell}");
        install(&tmp, VERSION, "kill -15 $$");
        let ran = on_node(shell, &[], &options).unwrap_or_else(|e| panic!("{shell}: {e}"));
        assert_eq!((ran.exit_code, ran.pushed), (128 + 15, false), "{shell}: {}", ran.stderr);
    }
}

#[test]
fn the_users_configuration_does_not_get_in_the_way() {
    let Some(mut nodes) = Nodes::new("the_users_configuration_does_not_get_in_the_way") else { return };
    nodes.start("a", "Banner /etc/passwd");
    let replica = fixture("02-head-one-snapshot");
    let control = nodes.dir().join("control");
    let habits = format!(
        "Host *\n  RemoteCommand echo no\n  RequestTTY force\n  LogLevel DEBUG3\n  LocalForward 127.0.0.1:1 [::1]:1\n  \
         ExitOnForwardFailure yes\n  ForwardAgent yes\n  BatchMode no\n  ControlMaster auto\n  ControlPersist 60\n  \
         ControlPath {}\n",
        text(&control)
    );
    let ran = inspect("a", &replica.replica().0, &options(nodes.config(&habits))).unwrap();
    assert_eq!((ran.exit_code, ran.stderr.as_str()), (0, ""));
    assert!(serde_json::from_slice::<Value>(&ran.stdout).is_ok());
    assert!(!control.exists(), "a master connection is left");
}

#[test]
fn many_nodes_at_once() {
    let Some(mut nodes) = Nodes::new("many_nodes_at_once") else { return };
    let names = ["a", "b", "c"];
    for name in names {
        nodes.start(name, "");
    }
    let options = options(nodes.config(""));
    let replica = fixture("02-head-one-snapshot");
    let (dir, _) = replica.replica();
    thread::scope(|scope| {
        let runs: Vec<_> = names
            .iter()
            .cycle()
            .take(6)
            .map(|name| scope.spawn(|| inspect(name, &dir, &options).unwrap()))
            .collect();
        for ran in runs {
            assert_eq!(ran.join().unwrap().exit_code, 0);
        }
    });
    for name in names {
        assert!(is_empty(&nodes.tmp(name)));
    }
}
