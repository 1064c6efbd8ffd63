//! Where replicas live when it is not here: other machines, reached by ssh.
//!
//! After an outage the replicas of one volume lie on several nodes, and none of them has lhrecover installed. So a
//! node needs nothing but an sshd and a POSIX shell: [`ssh::run_remote`] starts the system's own `ssh`, with the
//! user's configuration, keys and agent, finds the program there or brings it along, runs it, and leaves nothing
//! behind. [`target`] says which nodes.
//!
//! What a node answers is no more trusted than what a disk says: it is bounded in length and in time, and checked.

mod binary;
mod blame;
pub mod child;
mod inbox;
mod script;
pub mod ssh;
pub mod target;

pub use binary::parse_push;
pub use ssh::{ClockReading, RemoteOutput, SshOptions, run_remote};
pub use target::{Target, read_node_file};
