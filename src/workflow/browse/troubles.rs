//! What could not be read inside the image, gathered into one finding.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::guest::ext::as_path;
use crate::model::finding::{Code, Finding};

/// How many are kept word for word.
const KEPT: usize = 16;

/// Files and directories that could not be read. Threads may add to it.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    count: u64,
    first: Vec<(String, Error)>,
}

impl Troubles {
    /// Adds what is wrong at `path`.
    pub fn add(&self, path: &[u8], error: Error) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.count += 1;
        if kept.first.len() < KEPT {
            kept.first.push((as_path(path).display().to_string(), error));
        }
    }

    /// What was read at `path`, or `None` and the error added.
    pub fn or_add<T>(&self, path: &[u8], read: Result<T>) -> Option<T> {
        read.map_err(|e| self.add(path, e)).ok()
    }

    /// All of them as a finding; `None` if there are none.
    pub fn finding(&self) -> Option<Finding> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, first) = kept.first.first()?;
        let what = match kept.count {
            1 => format!("{path} in the image cannot be read: {first}"),
            count => format!(
                "{count} files or directories in the image cannot be read, the first is {path}: {first}"
            ),
        };
        let finding = Finding::new(
            Code::FilesUnreadable,
            what,
            "what is there is missing from the result, and everything else is right",
        );
        let advice = first.hint().unwrap_or("another replica or snapshot may have it whole: lhrecover scan");
        let files = kept.first.iter().map(|(path, _)| path.clone());
        Some(files.fold(finding.advise(advice), Finding::on))
    }
}
