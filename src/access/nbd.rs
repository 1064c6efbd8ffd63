//! A volume served over NBD, so that programs elsewhere can use it as a disk: the head, and every snapshot by name.
//!
//! ```text
//!   Listener ──accept──> negotiate ──> Session ──> Transmission: workers take turns to read requests, and to answer
//!                            │                          │
//!                         Catalog (Exports: opened when first asked for, shared by all connections)
//! ```
//!
//! A client is not trusted: what it can make us keep, wait for, or start is bounded, and whatever it sends ends at worst
//! its own connection. The wire format is in [`format::nbd`](crate::format::nbd).

pub mod exports;
pub mod listen;
pub mod negotiate;
pub mod record;
pub mod server;
pub mod stream;
pub mod transmit;

use std::sync::Arc;

use crate::error::Result;
use crate::view::disk::Disk;

/// An export as clients see it in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name to ask for; empty for the default one.
    pub name: String,
    /// What it is, for people.
    pub description: String,
}

/// What there is to be served.
pub trait Catalog: Sync {
    /// Everything, the default export first.
    fn list(&self) -> Vec<Listed>;

    /// What the export of that name is, for people; `None` when there is none.
    fn describe(&self, name: &str) -> Option<String>;

    /// The export of that name, opened if nobody has yet; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be opened, or a guard refuses it.
    fn open(&self, name: &str) -> Option<Result<Arc<dyn Disk>>>;
}
