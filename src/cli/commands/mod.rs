//! One file per verb: arguments in, options built, one call into the library, the result shown.

pub mod cat;
pub mod check;
pub mod completions;
pub mod diff;
pub mod extract;
pub mod find;
pub mod image_server;
pub mod inject;
pub mod inspect;
pub mod ls;
pub mod man;
pub mod map;
pub mod merge;
pub mod mount;
pub mod preserve;
pub mod scan;
pub mod serve;
pub mod umount;
pub mod verify;
