//! Recovers Longhorn volumes from replica directories, without Longhorn and without writing to them.

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
