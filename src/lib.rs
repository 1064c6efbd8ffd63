//! Recovers Longhorn volumes from replica directories, without Longhorn and without writing to them.
//!
//! ```text
//!   nodes, disks ──scan──> Evidence ──standing──> the replica to take ──preserve──> a copy of it
//!                                                        │
//!                       ReplicaDir ──open_source──> layers ──sweep──> plan ──copy───> sink (file, device, stream)
//!                                                        │               └────delta──> target (what a device holds)
//!                                                        ├──verify──> against checksums, siblings, an image
//!                                                        └──merged view──> mount, serve, browse, check, diff,
//!                                                                          files onto a device
//! ```
//!
//! Floors and rules are in `ARCHITECTURE.md`.

pub mod access;
pub mod cli;
pub mod engine;
pub mod error;
pub mod event;
pub mod format;
pub mod guest;
pub mod model;
pub mod node;
pub mod replica;
pub mod report;
pub mod sink;
pub mod sys;
pub mod view;
pub mod workflow;
