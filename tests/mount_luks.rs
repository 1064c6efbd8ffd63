//! `mount --key-file`, with a stand-in for `cryptsetup` that has decrypted everything before: what it is asked for, and in
//! which order things are taken down. Decrypting itself takes a device mapper, which few test machines have.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::cli::PROGRAM;
use common::fingerprint::Fingerprint;
use common::loopdev::{run, skipped, sparse_file};
use common::mounts::{Mounts, RUN_DIR};
use common::{fixture, text};

/// Writes down its arguments. `open` makes a loop device over `$PLAIN` the decrypted one, `close` takes it down.
const CRYPTSETUP: &str = r#"#!/bin/sh
echo "$*" >>"$TEST_DIR/said"
for name; do :; done
case $1 in
    open)
        [ "$KEY" = right ] || { echo "No key available with this passphrase." >&2; exit 2; }
        device=$(losetup --find --show --read-only "$TEST_DIR/plain") && ln -s "$device" "/dev/mapper/$name" ;;
    close)
        grep -q " $TEST_DIR/mnt " /proc/self/mounts && { echo "Device $name is still in use." >&2; exit 5; }
        losetup --detach "$(readlink "/dev/mapper/$name")" && rm "/dev/mapper/$name" ;;
esac
"#;

/// Runs `$@` where `/dev` has a device mapper, or seems to: in a mount namespace of its own.
const NAMESPACE: &str = r#"
    mkdir "$TEST_DIR/dev" "$TEST_DIR/dev/mapper" && cd "$TEST_DIR/dev" && touch mapper/control
    mknod null c 1 3 && mknod fuse c 10 229 && mknod loop-control c 10 237 || exit 77
    for i in $(seq 0 63); do mknod "loop$i" b 7 "$i"; done
    mount --bind "$TEST_DIR/dev" /dev || exit 77
    cd / && exec sh -c "$1"
"#;

#[test]
fn what_decrypts_is_put_up_and_taken_down_in_its_place() {
    let test = "what_decrypts_is_put_up_and_taken_down_in_its_place";
    let Some(mounts) = Mounts::new(test) else { return };
    let fixture = fixture("22-luks-encrypted");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let dir = mounts.tmp.path();
    let content = dir.join("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("secret.txt"), "in clear").unwrap();
    run("mkfs.ext4", &["-q", "-d", text(&content), text(&sparse_file(&dir.join("plain"), 16 << 20))]);
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("cryptsetup"), CRYPTSETUP).unwrap();
    fs::set_permissions(bin.join("cryptsetup"), fs::Permissions::from_mode(0o755)).unwrap();
    let mount =
        format!("'{PROGRAM}' mount '{}' '{}' --quiet --key-file /key", text(&replica), text(&mounts.point));
    let script = format!(
        "KEY=wrong {mount}; echo exit $?; KEY=right {mount}; echo exit $?; cat '{0}/secret.txt'; echo; \
         '{PROGRAM}' umount '{0}'; echo exit $?; ls /dev/mapper; grep -cE ' {1}/(mnt|run)' /proc/self/mounts",
        text(&mounts.point),
        text(dir)
    );
    let path = format!("{}:{}", text(&bin), std::env::var("PATH").unwrap());
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", NAMESPACE, "sh", &script])
        .env("TEST_DIR", dir)
        .env("PATH", path)
        .env(RUN_DIR, &mounts.run_dir)
        .output()
        .unwrap();
    if ran.status.code() == Some(77) {
        return skipped(test, "no device nodes can be made here");
    }
    let (out, said) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    let lines: Vec<_> = out.lines().collect();
    let [failed, mounted, secret, down, unmounted, control, left] = lines[..] else {
        panic!("{out}\n{said}")
    };
    assert_eq!((failed, mounted, secret), ("exit 6", "exit 0", "in clear"), "{said}");
    assert!(
        said.contains("No key available with this passphrase") && said.contains("is it this volume's key?"),
        "{said}"
    );
    let places: Vec<_> = ["unmounted the file system", "closed the decrypted device", "unmounted the image"]
        .map(|step| down.find(step))
        .into();
    assert!(places[0].is_some() && places.is_sorted() && !places.contains(&None), "{down}");
    assert_eq!((unmounted, control, left), ("exit 0", "control", "0"), "{out}");
    let asked = fs::read_to_string(dir.join("said")).unwrap();
    let asked: Vec<_> = asked.lines().collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        asked[1].starts_with("open --type luks --readonly --batch-mode --key-file /key -- /dev/loop"),
        "{asked:?}"
    );
    assert!(asked[2].starts_with("close -- lhrecover-mount-"), "{asked:?}");
    before.assert_unchanged(&replica, "an encrypted mount");
    mounts.assert_nothing_left("an encrypted mount");
}
