//! What a replica means: pure rules with no files, no clock, no threads and no printing.
//!
//! [`units`] has the numbers the format is built on; [`extent`] speaks of one layer, [`overlay`] of all of them
//! together; [`chain`] is the order they stand in; [`finding`] is damage or doubt as data. [`evidence`] is what is known of a
//! whole replica, and [`standing`] ranks it among its siblings.

pub mod chain;
pub mod evidence;
pub mod extent;
pub mod finding;
pub mod overlay;
pub mod standing;
pub mod units;
