//! What could not be read inside the image, gathered into findings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::guest::databases::Walked;
use crate::guest::ext::as_path;
use crate::guest::files::{Places, lacks_key};
use crate::model::finding::{Code, Finding};

/// Files and directories that could not be read. Threads may add to it.
#[derive(Debug, Default)]
pub struct Troubles(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    unreadable: Places,
    /// For want of a key: nothing is wrong with them.
    encrypted: Places,
    /// Whether a limit ended a walk.
    cut_short: bool,
}

impl Troubles {
    /// Adds what is wrong at `path`.
    pub fn add(&self, path: &[u8], error: Error) {
        let mut kept = self.kept();
        let places = if lacks_key(&error) { &mut kept.encrypted } else { &mut kept.unreadable };
        places.add(as_path(path), error);
    }

    /// Adds what a search for databases came by.
    pub fn add_all(&self, walked: Walked) {
        let mut kept = self.kept();
        kept.unreadable.append(walked.unreadable);
        kept.encrypted.append(walked.encrypted);
        kept.cut_short |= walked.cut_short;
    }

    /// What was read at `path`, or `None` and the error added.
    pub fn or_add<T>(&self, path: &[u8], read: Result<T>) -> Option<T> {
        read.map_err(|e| self.add(path, e)).ok()
    }

    /// All of them as findings, one of each sort.
    pub fn findings(&self) -> Vec<Finding> {
        let kept = self.kept();
        let cut_short = kept.cut_short.then(|| {
            Finding::new(
                Code::NotChecked,
                "part of the files was not looked at: there are more than a walk takes",
                "what is there is missing from the result",
            )
            .advise("name a directory to look in")
        });
        let encrypted = of_places(
            &kept.encrypted,
            Code::FilesEncrypted,
            ("is encrypted", "are encrypted"),
            "what is there is missing from the result; nothing is known to be wrong with it",
        );
        let unreadable = of_places(
            &kept.unreadable,
            Code::FilesUnreadable,
            ("cannot be read", "cannot be read"),
            "what is there is missing from the result, and everything else is right",
        );
        unreadable.into_iter().chain(encrypted).chain(cut_short).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to say of places that `one` is true of, or `several` are; `None` when there are none.
fn of_places(places: &Places, code: Code, (one, several): (&str, &str), meaning: &str) -> Option<Finding> {
    let (path, first) = places.first.first()?;
    let path = path.display();
    let what = match places.count {
        1 => format!("{path} in the image {one}: {first}"),
        count => {
            format!("{count} files or directories in the image {several}, the first is {path}: {first}")
        }
    };
    let advice = first.hint().unwrap_or("another replica or snapshot may have it whole: lhrecover scan");
    let files = places.first.iter().map(|(path, _)| path.display().to_string());
    Some(files.fold(Finding::new(code, what, meaning).advise(advice), Finding::on))
}
