//! What shares bytes with a device: its disk, its partitions, what is mapped on top and what is below.
//!
//! ```text
//!     dm-3  (LUKS)      loop7 (a file = the device)      up: partitions, holders, loop devices over it
//!        \             /
//!         sdb1   sdb2                                    siblings share nothing, and are left out
//!            \   /
//!             sdb                                        down: the disk, dm members, a loop's backing device
//! ```
//!
//! Somebody who uses one of these uses the device.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Backing, BlockDevice, DeviceNumber, Host, Identity};
use crate::error::{Error, Result};

/// How a device shares bytes with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It is that device.
    Itself,
    /// It is a partition of it.
    Partition,
    /// It is the disk that the other is a partition of.
    WholeDisk,
    /// It is what the other is made of: a member of a mapped device, the device below a loop device.
    Below,
    /// Device mapper, RAID or the like built it on top.
    Holder,
    /// It is a loop device over the other.
    StackedLoop,
    /// Both are loop devices over the same bytes of one file.
    SameBacking,
}

/// A device that shares bytes with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relative {
    /// Its number.
    pub number: DeviceNumber,
    /// The kernel's name for it; for a mapped device the one under `/dev/mapper`.
    pub name: String,
    /// How it shares them.
    pub relation: Relation,
    /// Whether it is an encrypted mapping.
    pub is_crypt: bool,
}

/// A block device's directory in sysfs.
#[derive(Clone)]
pub(super) struct Node {
    dir: PathBuf,
    pub name: String,
    pub number: DeviceNumber,
}

impl Node {
    /// The device whose directory, or a link to it, is `dir`.
    pub fn at(dir: &Path) -> io::Result<Node> {
        let dir = fs::canonicalize(dir)?;
        let number = DeviceNumber::parse(&fs::read_to_string(dir.join("dev"))?)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Node { dir, name, number })
    }

    /// The trimmed content of one of its files, if there is one that is not empty.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The directory itself, resolved: it names the bus the device hangs on.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The whole disk, when this is a partition.
    pub fn disk(&self) -> Option<Node> {
        self.dir.join("partition").exists().then(|| Node::at(self.dir.parent()?).ok())?
    }

    /// How a SCSI disk provisions (`full`, `unmap`, `writesame_16`, ...), if it is one that says.
    pub fn scsi_provisioning(&self) -> Option<String> {
        let disks = fs::read_dir(self.dir.join("device/scsi_disk")).ok()?;
        let mode = disks
            .flatten()
            .find_map(|disk| fs::read_to_string(disk.path().join("provisioning_mode")).ok())?;
        Some(mode.trim().to_owned())
    }

    /// The devices in one of its subdirectories: `holders`, `slaves`.
    pub fn devices_in(&self, subdirectory: &str) -> Vec<Node> {
        let Ok(entries) = fs::read_dir(self.dir.join(subdirectory)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| Node::at(&entry.path()).ok()).collect()
    }

    fn partitions(&self) -> Vec<Node> {
        let mut found = self.devices_in(".");
        found.retain(|node| node.dir.join("partition").exists());
        found
    }

    fn as_relative(&self, relation: Relation) -> Relative {
        Relative {
            number: self.number,
            name: self.attribute("dm/name").unwrap_or_else(|| self.name.clone()),
            relation,
            is_crypt: self.is_crypt(),
        }
    }

    /// Whether dm-crypt made it (cryptsetup gives its mappings such a UUID).
    pub fn is_crypt(&self) -> bool {
        self.attribute("dm/uuid").is_some_and(|uuid| uuid.starts_with("CRYPT-"))
    }
}

impl Host {
    /// The device's directory in sysfs.
    pub(super) fn node(&self, number: DeviceNumber) -> Result<Node> {
        let dir = self.path("sys/dev/block").join(number.to_string());
        Node::at(&dir).map_err(|e| {
            Error::usage("cannot look up the device in sysfs")
                .with_path(&dir)
                .caused_by(e)
                .with_hint("what uses the device cannot be told without /sys: mount it, or run on the host")
        })
    }

    /// What the open device is called.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) without sysfs.
    pub fn identity(&self, device: &BlockDevice) -> Result<Identity> {
        let node = self.node(device.number())?;
        let disk = node.disk();
        let about = |name: &str| disk.as_ref().unwrap_or(&node).attribute(name);
        let aliases = ["dev/longhorn", "dev/mapper"].into_iter().flat_map(|dir| self.entries(dir));
        Ok(Identity {
            path: device.path().to_path_buf(),
            number: device.number(),
            aliases: aliases.filter(|(_, number)| *number == node.number).map(|(path, _)| path).collect(),
            vendor: about("device/vendor"),
            model: about("device/model"),
            size_bytes: device.size_bytes(),
            name: node.name.clone(),
        })
    }

    /// The block devices named in a directory under the root, such as `dev/longhorn`; links are followed.
    pub(super) fn entries(&self, dir: &str) -> Vec<(PathBuf, DeviceNumber)> {
        let Ok(entries) = fs::read_dir(self.path(dir)) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| DeviceNumber::of_path(&entry.path()).map(|number| (entry.path(), number)))
            .collect()
    }

    /// Every device that shares bytes with `number`, that one included (it comes first).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) without sysfs.
    pub fn relatives(&self, number: DeviceNumber) -> Result<Vec<Relative>> {
        let node = self.node(number)?;
        let mut family = Family { loops: self.loops(), seen: BTreeSet::new(), found: Vec::new() };
        family.climb(&node, Relation::Itself);
        self.descend(&node, &mut family)?;
        Ok(family.found)
    }

    fn descend(&self, node: &Node, family: &mut Family) -> Result<()> {
        if let Some(disk) = node.disk() {
            if family.add(&disk, Relation::WholeDisk) {
                family.climb_on(&disk);
                self.descend(&disk, family)?;
            }
        }
        for member in node.devices_in("slaves") {
            // What else is mapped on a member (another logical volume) has bytes of its own.
            if family.add(&member, Relation::Below) {
                self.descend(&member, family)?;
            }
        }
        let Some(backing) = family.backing_of(node.number) else { return Ok(()) };
        if let Some(device) = backing.device {
            let below = self.node(device)?;
            if family.add(&below, Relation::Below) {
                family.climb_partitions(&below);
                family.climb_holders(&below);
                self.descend(&below, family)?;
            }
        }
        family.climb_twins(node.number, &backing);
        Ok(())
    }
}

/// The relatives found so far.
struct Family {
    loops: Vec<(Node, Backing)>,
    seen: BTreeSet<DeviceNumber>,
    found: Vec<Relative>,
}

impl Family {
    /// Notes a relative; `false` when it is known already.
    fn add(&mut self, node: &Node, relation: Relation) -> bool {
        let new = self.seen.insert(node.number);
        if new {
            self.found.push(node.as_relative(relation));
        }
        new
    }

    fn backing_of(&self, number: DeviceNumber) -> Option<Backing> {
        self.loops.iter().find(|(node, _)| node.number == number).map(|(_, backing)| *backing)
    }

    /// Notes a device, its partitions, and all that is on top of them.
    fn climb(&mut self, node: &Node, relation: Relation) {
        if self.add(node, relation) {
            self.climb_partitions(node);
            self.climb_on(node);
        }
    }

    fn climb_partitions(&mut self, node: &Node) {
        for partition in node.partitions() {
            self.climb(&partition, Relation::Partition);
        }
    }

    fn climb_holders(&mut self, node: &Node) {
        for holder in node.devices_in("holders") {
            self.climb(&holder, Relation::Holder);
        }
    }

    /// Notes all that is on top of a device, its partitions left out.
    fn climb_on(&mut self, node: &Node) {
        self.climb_holders(node);
        self.climb_loops(Relation::StackedLoop, |_, backing| backing.device == Some(node.number));
    }

    /// Notes the other loop devices over the same bytes of one file.
    fn climb_twins(&mut self, number: DeviceNumber, backing: &Backing) {
        self.climb_loops(Relation::SameBacking, |node, other| {
            node.number != number && other.overlaps(backing)
        });
    }

    fn climb_loops(&mut self, relation: Relation, wanted: impl Fn(&Node, &Backing) -> bool) {
        let matching = self.loops.iter().filter(|(node, backing)| wanted(node, backing));
        for node in matching.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
            self.climb(&node, relation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHost;
    use super::*;

    fn names(found: &[Relative]) -> Vec<(&str, Relation)> {
        found.iter().map(|relative| (relative.name.as_str(), relative.relation)).collect()
    }

    /// A disk with two partitions; on the first one a LUKS mapping, a volume group on the second.
    fn machine() -> FakeHost {
        let fake = FakeHost::new();
        fake.device("pci/sdb", "8:16", &[]);
        fake.device("pci/sdb/sdb1", "8:17", &[("partition", "1")]);
        fake.device("pci/sdb/sdb2", "8:18", &[("partition", "2")]);
        fake.device("virtual/dm-0", "252:0", &[("dm/name", "pv"), ("dm/uuid", "CRYPT-LUKS2-77-pv")]);
        fake.device("virtual/dm-1", "252:1", &[("dm/name", "vg-a"), ("dm/uuid", "LVM-1")]);
        fake.device("virtual/dm-2", "252:2", &[("dm/name", "vg-b"), ("dm/uuid", "LVM-2")]);
        fake.stack("virtual/dm-0", "pci/sdb/sdb1");
        fake.stack("virtual/dm-1", "pci/sdb/sdb2");
        fake.stack("virtual/dm-2", "pci/sdb/sdb2");
        fake
    }

    fn relatives(fake: &FakeHost, number: &str) -> Vec<Relative> {
        fake.host().relatives(DeviceNumber::parse(number).unwrap()).unwrap()
    }

    #[test]
    fn a_disk_has_its_partitions_and_all_on_top_of_them() {
        let mut found = relatives(&machine(), "8:16");
        assert_eq!((found[0].name.as_str(), found[0].relation), ("sdb", Relation::Itself));
        assert!(found.iter().all(|r| r.is_crypt == (r.name == "pv")));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(
            names(&found),
            [
                ("pv", Relation::Holder),
                ("sdb", Relation::Itself),
                ("sdb1", Relation::Partition),
                ("sdb2", Relation::Partition),
                ("vg-a", Relation::Holder),
                ("vg-b", Relation::Holder),
            ]
        );
    }

    #[test]
    fn a_partition_has_its_disk_but_not_its_siblings() {
        let found = relatives(&machine(), "8:17");
        assert_eq!(
            names(&found),
            [("sdb1", Relation::Itself), ("pv", Relation::Holder), ("sdb", Relation::WholeDisk)]
        );
    }

    #[test]
    fn a_mapping_does_not_hold_itself_and_its_siblings_do_not_count() {
        let found = relatives(&machine(), "252:1");
        assert_eq!(
            names(&found),
            [("vg-a", Relation::Itself), ("sdb2", Relation::Below), ("sdb", Relation::WholeDisk)]
        );
    }

    #[test]
    fn without_sysfs_nothing_is_known_and_that_is_an_error() {
        let fake = FakeHost::new();
        let error = fake.host().relatives(DeviceNumber::parse("8:16").unwrap()).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
    }
}
