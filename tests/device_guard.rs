//! The guard before every device, and writing to a device that passed it: on loop devices, as root.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::loopdev::{LoopDevice, Mounted, Swapped, available, run, skipped, sparse_file};
use lhrecover::error::{Error, ErrorKind, Result};
use lhrecover::event::{Cancel, Event, Observer, Run, Silent};
use lhrecover::model::units::ByteRange;
use lhrecover::sink::Contents;
use lhrecover::sink::Sink;
use lhrecover::sink::device::DeviceSink;
use lhrecover::sink::guard::{DeviceLeave, GuardedDevice, SourceIdentity, check, check_on};
use lhrecover::sys::device::{Host, Kind};

const MIB: u64 = 1 << 20;
const ANY: DeviceLeave = DeviceLeave { overwrite: false, any_device: true };
/// Every leave there is: what is refused all the same, no flag overrides.
const ALL: DeviceLeave = DeviceLeave { overwrite: true, any_device: true };

/// A directory with one backing file of 16 MiB and a loop device over it.
struct Rig {
    dir: tempfile::TempDir,
    backing: PathBuf,
    device: LoopDevice,
}

fn rig() -> Rig {
    rig_with(&[])
}

fn rig_with(options: &[&str]) -> Rig {
    let dir = common::scratch();
    let backing = sparse_file(&dir.path().join("disk.img"), 16 * MIB);
    let device = LoopDevice::with_options(&backing, options);
    Rig { dir, backing, device }
}

impl Rig {
    fn path(&self) -> &Path {
        &self.device.path
    }

    fn check(&self, leave: DeviceLeave) -> Result<GuardedDevice> {
        check(self.path(), 16 * MIB, &SourceIdentity::new(), leave)
    }

    fn write(&self, bytes: &[u8], offset_bytes: u64) {
        let device = OpenOptions::new().write(true).open(self.path()).unwrap();
        device.write_all_at(bytes, offset_bytes).unwrap();
        device.sync_all().unwrap();
    }

    fn new_directory(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// This machine, but with a `/dev/longhorn` that names our device.
    fn host_with_volume(&self) -> Host {
        let root = self.new_directory("host");
        symlink("/sys", root.join("sys")).unwrap();
        symlink("/proc", root.join("proc")).unwrap();
        fs::create_dir_all(root.join("dev/longhorn")).unwrap();
        symlink(self.path(), root.join("dev/longhorn/pvc-1")).unwrap();
        Host::at(root)
    }
}

/// What is refused, as a person reads it; fails the test when it was allowed or failed otherwise.
fn refusal(outcome: Result<impl Sized>) -> String {
    let error: Error = outcome.err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(error.kind().exit_code(), 5);
    format!("{error}\n{}", error.hint().expect("a hint"))
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

fn source_of(paths: &[&Path]) -> SourceIdentity {
    let mut source = SourceIdentity::new();
    for path in paths {
        source.add(&fs::metadata(path).unwrap());
    }
    source
}

/// A child that has `file` open until it is dropped.
struct OpenElsewhere(Child);

impl OpenElsewhere {
    fn new(file: File) -> Self {
        OpenElsewhere(Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap())
    }
}

impl Drop for OpenElsewhere {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_empty_device_passes_and_is_held_from_then_on() {
    if !available("an_empty_device_passes_and_is_held_from_then_on") {
        return;
    }
    let rig = rig();
    let guarded = rig.check(ANY).unwrap();
    assert_eq!(guarded.contents(), Contents::Nothing);
    assert_eq!((guarded.kind(), guarded.surplus_bytes()), (Kind::Loop, 0));
    assert_eq!(guarded.identity().name, rig.path().file_name().unwrap().to_str().unwrap());
    assert!(guarded.findings().iter().all(|finding| finding.code.as_str() != "device-larger"));
    guarded.recheck().unwrap();
    run("mkfs.ext4", &["-q", "-F", rig.backing.to_str().unwrap()]);
    let point = rig.new_directory("mnt");
    let mount = Command::new("mount").args([rig.path(), &point]).stderr(Stdio::null()).status().unwrap();
    assert!(!mount.success(), "the kernel must keep others from a device that is being written to");
    drop(guarded);
    Mounted::at(rig.path(), &point);
}

#[test]
fn a_device_that_is_no_longhorn_volume_needs_any_device() {
    if !available("a_device_that_is_no_longhorn_volume_needs_any_device") {
        return;
    }
    let rig = rig();
    let text = refusal(rig.check(DeviceLeave { overwrite: true, any_device: false }));
    assert_says(&text, &["not a Longhorn volume", rig.path().to_str().unwrap(), "--any-device"]);

    // By number, whatever path it is opened by.
    let host = rig.host_with_volume();
    let none = DeviceLeave::default();
    let guarded = check_on(&host, rig.path(), 16 * MIB, &SourceIdentity::new(), none).unwrap();
    assert_eq!(guarded.kind(), Kind::Longhorn);
    assert_eq!(guarded.identity().aliases.len(), 1);
    assert!(guarded.identity().aliases[0].ends_with("dev/longhorn/pvc-1"));
}

#[test]
fn a_mounted_device_is_refused() {
    if !available("a_mounted_device_is_refused") {
        return;
    }
    let rig = rig();
    run("mkfs.ext4", &["-q", rig.path().to_str().unwrap()]);
    let mounted = Mounted::at(rig.path(), &rig.new_directory("mount point"));
    let point = mounted.point.to_str().unwrap();
    assert_says(
        &refusal(rig.check(ALL)),
        &["the device is mounted at", point, "umount", "no flag overrides"],
    );
    // Another name for the same device changes nothing.
    let alias = rig.dir.path().join("pvc-2");
    symlink(rig.path(), &alias).unwrap();
    assert_says(&refusal(check(&alias, 16 * MIB, &SourceIdentity::new(), ALL)), &["mounted at", "pvc-2"]);
    drop(mounted);
    rig.check(ALL).unwrap();
}

#[test]
fn btrfs_makes_its_numbers_up_and_is_seen_all_the_same() {
    if !available("btrfs_makes_its_numbers_up_and_is_seen_all_the_same") {
        return;
    }
    if Command::new("mkfs.btrfs").arg("--version").output().is_err() {
        skipped("btrfs_makes_its_numbers_up_and_is_seen_all_the_same", "no mkfs.btrfs");
        return;
    }
    let dir = common::scratch();
    let device = LoopDevice::over(&sparse_file(&dir.path().join("disk.img"), 160 * MIB));
    run("mkfs.btrfs", &["-q", device.path.to_str().unwrap()]);
    let point = dir.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = Mounted::at(&device.path, &point);
    let text = refusal(check(&device.path, MIB, &SourceIdentity::new(), ALL));
    assert_says(&text, &["the device is mounted at", point.to_str().unwrap()]);
    refusal(check(&device.path, MIB, &source_of(&[&mounted.point]), ALL));
}

#[test]
fn swap_space_is_refused() {
    if !available("swap_space_is_refused") {
        return;
    }
    let rig = rig();
    let Some(_swapped) = Swapped::on(rig.path()) else {
        skipped("swap_space_is_refused", "the kernel has no swap");
        return;
    };
    assert_says(&refusal(rig.check(ALL)), &["the device is used as swap space", "swapoff"]);
}

#[test]
fn a_device_held_in_the_kernel_is_refused() {
    if !available("a_device_held_in_the_kernel_is_refused") {
        return;
    }
    let rig = rig();
    let held = OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(rig.path()).unwrap();
    assert_says(&refusal(rig.check(ALL)), &["holds the device", "no flag overrides"]);
    drop(held);
    rig.check(ALL).unwrap();
}

#[test]
fn a_device_open_for_writing_elsewhere_is_refused_and_one_open_for_reading_is_not() {
    if !available("a_device_open_for_writing_elsewhere_is_refused_and_one_open_for_reading_is_not") {
        return;
    }
    let rig = rig();
    let reader = OpenElsewhere::new(File::open(rig.path()).unwrap());
    let guarded = rig.check(ALL).unwrap();
    let writer = OpenElsewhere::new(OpenOptions::new().write(true).open(rig.path()).unwrap());
    // Somebody came after the first look; the second one sees it.
    assert_says(&refusal(guarded.recheck()), &["open for writing in process", "(sleep)"]);
    drop(guarded);
    let text = refusal(rig.check(ALL));
    assert_says(&text, &["open for writing in process", &writer.0.id().to_string(), "no flag overrides"]);
    drop((reader, writer));
    rig.check(ALL).unwrap();
}

#[test]
fn a_loop_device_on_top_holds_the_device() {
    if !available("a_loop_device_on_top_holds_the_device") {
        return;
    }
    let rig = rig();
    let upper = LoopDevice::over(rig.path());
    let name = upper.path.file_name().unwrap().to_str().unwrap();
    assert_says(&refusal(rig.check(ALL)), &["held", &format!("{name} on top of it"), "losetup -d"]);

    // Mounted through the one on top: neither is free, and the lower one is no less in use.
    run("mkfs.ext4", &["-q", upper.path.to_str().unwrap()]);
    let mounted = Mounted::at(&upper.path, &rig.new_directory("mnt"));
    assert_says(&refusal(rig.check(ALL)), &[&format!("{name} on top of it is mounted at")]);
    drop(mounted);

    // From the other side: what is below is what will be written to.
    let mounted = Mounted::at(rig.path(), &rig.dir.path().join("mnt"));
    let text = refusal(check(&upper.path, MIB, &SourceIdentity::new(), ALL));
    assert_says(&text, &["underneath it is mounted at"]);
    drop(mounted);
    check(&upper.path, MIB, &SourceIdentity::new(), ALL).unwrap();
}

/// Partitions as far as this can be had without the kernel's partition parser: parts of one file.
#[test]
fn loop_devices_over_the_same_bytes_hold_each_other() {
    if !available("loop_devices_over_the_same_bytes_hold_each_other") {
        return;
    }
    let rig = rig();
    let part = |offset_mib: u64| {
        let offset = (offset_mib * MIB).to_string();
        LoopDevice::with_options(&rig.backing, &["--offset", &offset, "--sizelimit", &(4 * MIB).to_string()])
    };
    let (first, second) = (part(4), part(8));
    run("mkfs.ext4", &["-q", first.path.to_str().unwrap()]);
    let mounted = Mounted::at(&first.path, &rig.new_directory("mnt"));
    let name = first.path.file_name().unwrap().to_str().unwrap();
    let text = refusal(rig.check(ALL));
    assert_says(&text, &[&format!("{name} over the same file is mounted at")]);
    // The loop device over the whole file holds the second part as well.
    let text = refusal(check(&second.path, 4 * MIB, &SourceIdentity::new(), ALL));
    assert_says(&text, &["held", "over the same file is set up", "losetup -d"]);
    drop((mounted, rig.device));
    // Neighbours in one file share nothing.
    let _mounted = Mounted::at(&first.path, &rig.dir.path().join("mnt"));
    check(&second.path, 4 * MIB, &SourceIdentity::new(), ALL).unwrap();
}

/// What this machine's kernel cannot show: our device as a disk `sdb` that has a partition and a LUKS mapping.
#[test]
fn partitions_and_mappings_hold_their_disk() {
    if !available("partitions_and_mappings_hold_their_disk") {
        return;
    }
    let rig = rig();
    let root = rig.new_directory("host");
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let rdev = fs::metadata(rig.path()).unwrap().rdev();
    let number = format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    put("sys/devices/sdb/dev", &number);
    put("sys/devices/sdb/sdb1/dev", "8:17");
    put("sys/devices/sdb/sdb1/partition", "1");
    fs::create_dir_all(root.join("sys/dev/block")).unwrap();
    symlink(root.join("sys/devices/sdb"), root.join("sys/dev/block").join(number)).unwrap();
    let checked = || check_on(&Host::at(&root), rig.path(), MIB, &SourceIdentity::new(), ALL);

    // Not being able to tell is no leave.
    assert_eq!(checked().unwrap_err().kind(), ErrorKind::Usage);
    put("proc/self/mountinfo", "30 1 8:33 / /other rw - ext4 /dev/sdc1 rw\n");
    checked().unwrap();
    put("proc/1/mountinfo", "30 1 8:17 / /data rw - ext4 /dev/sdb1 rw\n");
    assert_says(&refusal(checked()), &["its partition sdb1 is mounted at /data", "umount /data"]);
    put("proc/1/mountinfo", "");
    put("sys/devices/sdb/holders/dm-0/dev", "252:0");
    put("sys/devices/sdb/holders/dm-0/dm/name", "pvc-1");
    put("sys/devices/sdb/holders/dm-0/dm/uuid", "CRYPT-LUKS2-00-pvc-1");
    assert_says(&refusal(checked()), &["pvc-1 on top of it", "/dev/mapper/pvc-1", "cryptsetup close pvc-1"]);
}

#[test]
fn the_source_is_refused_in_every_shape() {
    if !available("the_source_is_refused_in_every_shape") {
        return;
    }
    let rig = rig();
    let needed = 16 * MIB;
    // The device itself, as an image to inject from.
    let text = refusal(check(rig.path(), needed, &source_of(&[rig.path()]), ALL));
    assert_says(&text, &["the device is the source", "no flag overrides"]);

    // A loop device over the source's head.
    let replica = rig.new_directory("replica");
    let head = sparse_file(&replica.join("volume-head-000.img"), needed);
    let over_head = LoopDevice::over(&head);
    let source = source_of(&[&replica, &head]);
    let text = refusal(check(&over_head.path, needed, &source, ALL));
    assert_says(&text, &["loop device over a file of the source"]);

    // A loop device over another file of the source's file system is nobody's source.
    check(rig.path(), needed, &source, ALL).unwrap();

    // The device that holds the replica.
    run("mkfs.ext4", &["-q", rig.path().to_str().unwrap()]);
    let mounted = Mounted::at(rig.path(), &rig.new_directory("mnt"));
    let text = refusal(check(rig.path(), needed, &source_of(&[&mounted.point]), ALL));
    assert_says(&text, &["the device holds the file system that the source is on"]);
}

#[test]
fn a_device_that_cannot_take_the_image_is_refused() {
    if !available("a_device_that_cannot_take_the_image_is_refused") {
        return;
    }
    let rig = rig();
    let text = refusal(check(rig.path(), 16 * MIB + 4096, &SourceIdentity::new(), ALL));
    assert_says(&text, &["too small", "16777216 bytes", "16781312", "4096 more", "no flag overrides"]);
    drop(rig.device);
    let read_only = LoopDevice::with_options(&rig.backing, &["--read-only"]);
    let text = refusal(check(&read_only.path, MIB, &SourceIdentity::new(), ALL));
    assert_says(&text, &["read-only", "no flag overrides"]);
}

#[test]
fn a_larger_device_is_allowed_and_said() {
    if !available("a_larger_device_is_allowed_and_said") {
        return;
    }
    let rig = rig();
    let guarded = check(rig.path(), 5 * MIB, &SourceIdentity::new(), ANY).unwrap();
    assert_eq!(guarded.surplus_bytes(), 11 * MIB);
    let finding = guarded.findings().into_iter().find(|f| f.code.as_str() == "device-larger").unwrap();
    assert_says(&finding.what, &["16777216", "5242880"]);
}

#[test]
fn a_device_that_carries_data_needs_overwrite() {
    if !available("a_device_that_carries_data_needs_overwrite") {
        return;
    }
    let rig = rig();
    rig.write(b"x", 9 * MIB + 12_345);
    let text = refusal(rig.check(ANY));
    assert_says(&text, &["carries data (unknown data at offset 9449529)", "--overwrite"]);
    assert_eq!(rig.check(ALL).unwrap().contents(), Contents::Unknown { offset_bytes: 9_449_529 });
    run("mkfs.ext4", &["-q", "-F", rig.path().to_str().unwrap()]);
    assert_says(
        &refusal(rig.check(ANY)),
        &["carries data (an ext2, ext3 or ext4 file system)", "--overwrite"],
    );
    rig.check(ALL).unwrap();
}

#[test]
fn what_is_no_device_is_refused() {
    let dir = common::scratch();
    let file = sparse_file(&dir.path().join("plain.img"), MIB);
    let error = check(&file, MIB, &SourceIdentity::new(), ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_says(&error.to_string(), &["not a block device", "plain.img"]);
    let error = check(&dir.path().join("sdz"), MIB, &SourceIdentity::new(), ALL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

fn silent(cancel: &Cancel) -> Run<'_> {
    Run { observer: &Silent, cancel }
}

/// Writes an image that is zeros but for one sector to a device that holds 0xee throughout.
fn zeros_end_up_as(rig: &Rig, guarded: GuardedDevice) {
    let cancel = Cancel::default();
    let image_bytes = guarded.needed_bytes();
    let sink = DeviceSink::new(guarded);
    assert!(sink.needs_zeros());
    sink.write_at(&[7; 4096], 4096).unwrap();
    sink.zero_range(ByteRange::new(0, 4096), &silent(&cancel)).unwrap();
    sink.zero_range(ByteRange::new(8192, image_bytes), &silent(&cancel)).unwrap();
    sink.finish().unwrap();
    drop(sink);
    let held = fs::read(rig.path()).unwrap();
    let image = usize::try_from(image_bytes).unwrap();
    assert!(held[..4096].iter().all(|&b| b == 0));
    assert!(held[4096..8192].iter().all(|&b| b == 7));
    assert!(held[8192..image].iter().all(|&b| b == 0));
    assert!(held[image..].iter().all(|&b| b == 0xee), "what is past the image is left alone");
}

#[test]
fn zeros_on_a_device_that_may_be_asked_stay_allocated() {
    if !available("zeros_on_a_device_that_may_be_asked_stay_allocated") {
        return;
    }
    for sector_bytes in ["512", "4096"] {
        let rig = rig_with(&["--sector-size", sector_bytes]);
        rig.write(&vec![0xee; 16 << 20], 0);
        let allocated_bytes = || fs::metadata(&rig.backing).unwrap().blocks() * 512;
        let before = allocated_bytes();
        // The end is a multiple of 512 only, as the tail of an odd volume is.
        zeros_end_up_as(&rig, check(rig.path(), 13 * MIB + 512, &SourceIdentity::new(), ALL).unwrap());
        assert!(allocated_bytes() >= before, "zeroed, not discarded");
        // The kernel did it: a range of the file below is allocated and not written.
        assert!(extents(&rig.backing).contains("unwritten"));
    }
}

/// The extents of a file, as filefrag(8) shows them.
fn extents(file: &Path) -> String {
    run("filefrag", &["-v", file.to_str().unwrap()])
}

#[test]
fn zeros_on_a_longhorn_volume_are_written() {
    if !available("zeros_on_a_longhorn_volume_are_written") {
        return;
    }
    let rig = rig();
    rig.write(&vec![0xee; 16 << 20], 0);
    let name = rig.path().file_name().unwrap().to_str().unwrap().to_owned();
    // Sectors written, and discards done, as the kernel counts them (Documentation/block/stat.rst).
    let stat = || -> (u64, u64) {
        let text = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        let fields: Vec<u64> = text.split_whitespace().map(|field| field.parse().unwrap()).collect();
        (fields[6] * 512, fields[11])
    };
    let before = stat();
    let host = rig.host_with_volume();
    let leave = DeviceLeave { overwrite: true, any_device: false };
    let image_bytes = 13 * MIB + 512;
    zeros_end_up_as(&rig, check_on(&host, rig.path(), image_bytes, &SourceIdentity::new(), leave).unwrap());
    let after = stat();
    assert!(after.0 - before.0 >= image_bytes, "{} bytes written", after.0 - before.0);
    assert_eq!(after.1, before.1, "nothing is discarded");
    // Written through: the file below holds zero blocks, not unwritten extents.
    assert!(!extents(&rig.backing).contains("unwritten"));
}

/// Adds up what it is told.
#[derive(Default)]
struct Counter(std::sync::Mutex<(u64, u64)>);

impl Observer for Counter {
    fn event(&self, event: Event<'_>) {
        let mut sums = self.0.lock().unwrap();
        match event {
            Event::Phase { total_bytes, .. } => sums.0 += total_bytes.unwrap(),
            Event::Advanced { bytes } => sums.1 += bytes,
            Event::PhaseDone => {}
        }
    }
}

#[test]
fn a_fresh_device_gets_no_zeros() {
    if !available("a_fresh_device_gets_no_zeros") {
        return;
    }
    let rig = rig();
    let (cancel, counter) = (Cancel::default(), Counter::default());
    let mut sink = DeviceSink::new(rig.check(ANY).unwrap());
    assert!(sink.look_if_fresh(&Run { observer: &counter, cancel: &cancel }).unwrap());
    assert_eq!(*counter.0.lock().unwrap(), (16 * MIB, 16 * MIB));
    sink.write_at(&[9; 4096], 8192).unwrap();
    sink.zero_range(ByteRange::new(12_288, 16 * MIB), &silent(&cancel)).unwrap();
    sink.finish().unwrap();
    assert_eq!(fs::metadata(&rig.backing).unwrap().blocks() * 512, 4096);
}

#[test]
fn a_byte_that_the_samples_miss_is_found_before_it_is_lost() {
    if !available("a_byte_that_the_samples_miss_is_found_before_it_is_lost") {
        return;
    }
    let dir = common::scratch();
    let size = 512 * MIB;
    let backing = sparse_file(&dir.path().join("disk.img"), size);
    // Steps between samples are just under 2 MiB: 1.5 MiB past the first MiB is between two of them.
    let odd_place = 2 * MIB + MIB / 2;
    OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(b"x", odd_place).unwrap();
    let device = LoopDevice::over(&backing);
    let guarded = |leave| {
        let guarded = check(&device.path, size, &SourceIdentity::new(), leave).unwrap();
        assert_eq!(guarded.contents(), Contents::Nothing, "the place is sampled: this shows nothing");
        guarded
    };
    let cancel = Cancel::default();
    let refused = DeviceSink::new(guarded(ANY)).look_if_fresh(&silent(&cancel)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert_says(&refused.to_string(), &[&format!("offset {odd_place}")]);
    assert_says(refused.hint().unwrap(), &["--overwrite"]);
    let mut sink = DeviceSink::new(guarded(ALL));
    assert!(!sink.look_if_fresh(&silent(&cancel)).unwrap());
    assert_eq!(sink.target().contents(), Contents::Unknown { offset_bytes: odd_place });
    assert!(sink.needs_zeros());
    cancel.cancel();
    let zeroing = sink.zero_range(ByteRange::new(0, size), &silent(&cancel));
    assert_eq!(zeroing.unwrap_err().kind(), ErrorKind::Interrupted);
    drop(sink);
    let looking = DeviceSink::new(guarded(ALL)).look_if_fresh(&silent(&cancel));
    assert_eq!(looking.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn nothing_is_written_past_the_image() {
    if !available("nothing_is_written_past_the_image") {
        return;
    }
    let rig = rig();
    let sink = DeviceSink::new(check(rig.path(), MIB, &SourceIdentity::new(), ANY).unwrap());
    for offset in [MIB, MIB - 1, u64::MAX] {
        let error = sink.write_at(b"xx", offset).unwrap_err();
        assert_eq!((error.kind(), error.offset_bytes()), (ErrorKind::Output, Some(offset)));
    }
    let cancel = Cancel::default();
    assert!(sink.zero_range(ByteRange::new(0, MIB + 512), &silent(&cancel)).is_err());
}

#[test]
fn a_failing_device_is_an_output_error() {
    if !available("a_failing_device_is_an_output_error") {
        return;
    }
    let rig = rig();
    let sink = DeviceSink::new(rig.check(ANY).unwrap());
    // The file below is cut off: the loop device fails what is written past the new end when it is full.
    let full = sink.write_at(&[1; 4096], 0).and_then(|()| {
        run("losetup", &["-c", rig.path().to_str().unwrap()]);
        File::options().write(true).open(&rig.backing).unwrap().set_len(MIB).unwrap();
        run("losetup", &["-c", rig.path().to_str().unwrap()]);
        sink.write_at(&[1; 4096], 8 * MIB)
    });
    let error = full.unwrap_err();
    assert_eq!((error.kind(), error.offset_bytes()), (ErrorKind::Output, Some(8 * MIB)));
    assert_says(&error.to_string(), &[rig.path().to_str().unwrap()]);
    assert_says(&refusal(sink.target().recheck()), &["too small"]);
}
