//! What kind of device it is, as far as zeroing it goes.
//!
//! A sector discarded on a Longhorn volume reads as zeros until the engine restarts, and then shows older data.
//! The kernel may carry out "zero this range" as an unmap, so only devices that are known not to may be asked.
//! When in doubt the answer is [`Kind::Unknown`], and zeros are written: slower, never wrong.

use std::path::Path;

use super::{DeviceNumber, Host, topology::Node};
use crate::error::Result;

/// What kind of device, as far as zeroing it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A loop device over a file. The kernel zeroes a range of the file, keeping it allocated.
    Loop,
    /// A local disk: NVMe on PCIe, an MMC card, or ATA/SCSI without thin provisioning.
    PlainDisk,
    /// A Longhorn volume, or the encrypted mapping of one.
    Longhorn,
    /// A SCSI disk that unmaps, or says that it might.
    ScsiThin,
    /// Anything else: virtio, device mapper, a network disk.
    Unknown,
}

impl Kind {
    /// Whether BLKZEROOUT makes zeros that stay.
    pub fn may_zero_out(self) -> bool {
        matches!(self, Kind::Loop | Kind::PlainDisk)
    }
}

impl Host {
    /// What kind of device `number` is.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) without sysfs.
    pub fn kind(&self, number: DeviceNumber) -> Result<Kind> {
        if self.is_longhorn(number) {
            return Ok(Kind::Longhorn);
        }
        let node = self.node(number)?;
        if let Some(disk) = node.disk() {
            return self.kind(disk.number);
        }
        if node.name.starts_with("loop") {
            let below = self.loop_backing(number).and_then(|backing| backing.device);
            // A loop device hands the request on; over a device it is as good as that one.
            return below.filter(|below| *below != number).map_or(Ok(Kind::Loop), |below| self.kind(below));
        }
        Ok(kind_of_disk(&node))
    }

    /// Whether `number` is the mapping of an encrypted device.
    pub fn is_crypt(&self, number: DeviceNumber) -> bool {
        self.node(number).is_ok_and(|node| node.is_crypt())
    }

    /// Whether `number` stands under `/dev/longhorn` by some name, or is the `/dev/mapper` twin of a device
    /// that does: the encrypted mapping right on top of it.
    pub fn is_longhorn(&self, number: DeviceNumber) -> bool {
        let volumes = self.entries("dev/longhorn");
        let is_volume = |number: DeviceNumber| volumes.iter().any(|(_, volume)| *volume == number);
        if is_volume(number) {
            return true;
        }
        let Ok(node) = self.node(number) else { return false };
        let members = node.devices_in("slaves");
        node.is_crypt() && !members.is_empty() && members.iter().all(|member| is_volume(member.number))
    }
}

fn kind_of_disk(node: &Node) -> Kind {
    if node.name.starts_with("mmcblk") {
        return Kind::PlainDisk;
    }
    if node.name.starts_with("nvme") {
        // Over a network the other end may be anything, a thin volume included.
        let on_pcie = node.attribute("device/transport").is_some_and(|transport| transport == "pcie");
        return if on_pcie { Kind::PlainDisk } else { Kind::Unknown };
    }
    if !node.name.starts_with("sd") {
        return Kind::Unknown;
    }
    // Longhorn's volumes arrive through tgt, which calls its disks so.
    if node.attribute("device/vendor").is_some_and(|vendor| vendor == "IET") {
        return Kind::Longhorn;
    }
    if is_iscsi(node.dir()) {
        return Kind::Unknown;
    }
    match node.scsi_provisioning() {
        Some(mode) if mode == "full" => Kind::PlainDisk,
        _ => Kind::ScsiThin,
    }
}

/// A disk of an iSCSI session has the session in its path: `.../host3/session1/target3:0:0/...`.
fn is_iscsi(dir: &Path) -> bool {
    dir.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"session"))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use super::super::fake::FakeHost;
    use super::*;

    fn kind(place: &str, files: &[(&str, &str)]) -> Kind {
        let fake = FakeHost::new();
        let number = fake.device(place, "8:16", files);
        fake.host().kind(number).unwrap()
    }

    #[test]
    fn scsi_disks_by_how_they_provision_and_who_makes_them() {
        let mode = "device/scsi_disk/0:0:0:0/provisioning_mode";
        assert_eq!(kind("pci/ata1/sdb", &[(mode, "full"), ("device/vendor", "ATA     ")]), Kind::PlainDisk);
        assert_eq!(kind("pci/ata1/sdb", &[(mode, "unmap")]), Kind::ScsiThin);
        assert_eq!(kind("pci/ata1/sdb", &[(mode, "writesame_16")]), Kind::ScsiThin);
        assert_eq!(kind("pci/ata1/sdb", &[]), Kind::ScsiThin);
        assert_eq!(
            kind("host3/session1/sdb", &[(mode, "full"), ("device/vendor", "IET     ")]),
            Kind::Longhorn
        );
        assert_eq!(kind("host3/session1/sdb", &[(mode, "full"), ("device/vendor", "SAN")]), Kind::Unknown);
    }

    #[test]
    fn other_disks_by_name_and_transport() {
        assert_eq!(kind("pci/nvme0n1", &[("device/transport", "pcie")]), Kind::PlainDisk);
        assert_eq!(kind("virtual/nvme0n1", &[("device/transport", "tcp")]), Kind::Unknown);
        assert_eq!(kind("virtual/nvme0n1", &[]), Kind::Unknown);
        assert_eq!(kind("platform/mmcblk0", &[]), Kind::PlainDisk);
        assert_eq!(kind("pci/vdb", &[]), Kind::Unknown);
        assert_eq!(kind("virtual/dm-0", &[("dm/uuid", "LVM-1")]), Kind::Unknown);
        assert_eq!(kind("virtual/loop3", &[]), Kind::Loop);
    }

    #[test]
    fn a_partition_is_of_its_disks_kind() {
        let fake = FakeHost::new();
        fake.device("platform/mmcblk0", "179:0", &[]);
        let partition = fake.device("platform/mmcblk0/mmcblk0p2", "179:2", &[("partition", "2")]);
        assert_eq!(fake.host().kind(partition).unwrap(), Kind::PlainDisk);
    }

    #[test]
    fn only_some_kinds_are_asked_to_zero() {
        let may = [Kind::Loop, Kind::PlainDisk, Kind::Longhorn, Kind::ScsiThin, Kind::Unknown]
            .map(Kind::may_zero_out);
        assert_eq!(may, [true, true, false, false, false]);
    }

    /// Any block device node of this machine lends its number to the make-believe volume.
    #[test]
    fn a_volume_and_its_encrypted_mapping_are_longhorns() {
        let Some(number) = DeviceNumber::of_path(Path::new("/dev/loop0")) else {
            // Not eprintln!: the harness would capture it, and a skipped test must show.
            let _ = writeln!(
                io::stderr(),
                "a_volume_and_its_encrypted_mapping_are_longhorns skipped: no /dev/loop0"
            );
            return;
        };
        let fake = FakeHost::new();
        fake.name("longhorn/pv", Path::new("/dev/loop0"));
        fake.device("host3/sdb", &number.to_string(), &[]);
        let twin = fake.device("virtual/dm-0", "252:0", &[("dm/uuid", "CRYPT-LUKS2-77-pv")]);
        let linear = fake.device("virtual/dm-1", "252:1", &[("dm/uuid", "LVM-1")]);
        let other = fake.device("virtual/dm-2", "252:2", &[("dm/uuid", "CRYPT-LUKS2-78-x")]);
        fake.device("pci/sdc", "8:32", &[]);
        fake.stack("virtual/dm-0", "host3/sdb");
        fake.stack("virtual/dm-1", "host3/sdb");
        fake.stack("virtual/dm-2", "pci/sdc");
        let host = fake.host();
        assert!(host.is_longhorn(number) && host.is_longhorn(twin));
        assert!(!host.is_longhorn(linear) && !host.is_longhorn(other));
        assert_eq!(host.kind(twin).unwrap(), Kind::Longhorn);
    }
}
