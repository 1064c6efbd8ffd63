//! One file per verb: arguments in, options built, one call into the library, the result shown.

pub mod cat;
pub mod completions;
pub mod extract;
pub mod find;
pub mod inject;
pub mod inspect;
pub mod ls;
pub mod man;
pub mod merge;
pub mod preserve;
pub mod scan;
pub mod verify;
