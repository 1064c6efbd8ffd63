//! The few pieces of a file that were read last, shared between threads.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;

/// At most so many pieces, each known by its offset; the one that was not asked for the longest makes room.
pub(super) struct Recent {
    /// Latest first. Few enough to look through.
    pieces: Mutex<Vec<(u64, Arc<[u8]>)>>,
    capacity: usize,
}

impl Recent {
    pub(super) fn new(capacity: usize) -> Self {
        Recent { pieces: Mutex::default(), capacity }
    }

    /// The piece at `key`, made by `read` if it is not at hand. Nobody waits while it is read; two threads that
    /// want the same piece at the same time both read it.
    pub(super) fn get_or_read(
        &self,
        key: u64,
        read: impl FnOnce() -> Result<Arc<[u8]>>,
    ) -> Result<Arc<[u8]>> {
        if let Some(piece) = self.get(key) {
            return Ok(piece);
        }
        let piece = read()?;
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if !pieces.iter().any(|(known, _)| *known == key) {
            pieces.truncate(self.capacity.saturating_sub(1));
            pieces.insert(0, (key, Arc::clone(&piece)));
        }
        Ok(piece)
    }

    fn get(&self, key: u64) -> Option<Arc<[u8]>> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let found = pieces.iter().position(|(known, _)| *known == key)?;
        pieces[..=found].rotate_right(1);
        Some(Arc::clone(&pieces[0].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_the_longest_makes_room() {
        let recent = Recent::new(2);
        let mut reads = Vec::new();
        for key in [1, 2, 1, 3, 1, 2] {
            let piece = recent.get_or_read(key, || {
                reads.push(key);
                Ok(Arc::from([u8::try_from(key).unwrap()]))
            });
            assert_eq!(piece.unwrap()[..], [u8::try_from(key).unwrap()]);
        }
        assert_eq!(reads, [1, 2, 3, 2]);
    }
}
