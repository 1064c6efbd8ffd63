//! What a node says, told from everything else that comes along: lines that begin with a mark of our own.
//!
//! A login shell may print a greeting before our script runs, a terminal's leftovers, a news line. The mark is made up
//! anew for each talk, so neither those nor a name in a replica directory can hold it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// How long a line of the node's may be.
const LINE_MAX_BYTES: usize = 16 << 10;

/// A line of the node's, and what came before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// What came since the last one.
    pub before: Vec<u8>,
    /// The first word.
    pub verb: String,
    /// The rest, without the space between.
    pub rest: String,
}

/// Bytes that have come and are no message yet.
#[derive(Debug)]
pub struct Inbox {
    /// A line break, the mark, a space.
    opening: Vec<u8>,
    bytes: Vec<u8>,
    /// Before this, no message begins.
    searched: usize,
}

/// A mark that nobody can have put anywhere beforehand.
pub fn new_mark() -> String {
    // The standard library keys its hashers at random.
    let random = || RandomState::new().build_hasher().finish();
    format!("lhrecover-{:016x}{:016x}", random(), random())
}

impl Inbox {
    /// An empty one.
    pub fn new(mark: &str) -> Self {
        Inbox { opening: format!("\n{mark} ").into_bytes(), bytes: Vec::new(), searched: 0 }
    }

    /// Puts in what came.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How many bytes have come and are no message yet.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The same as text.
    pub fn waiting_text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Takes the next message out, if it is there whole.
    pub fn take(&mut self) -> Option<Message> {
        let begin = self.find_opening()?;
        let text = begin + self.opening.len();
        let line = &self.bytes[text..];
        let endless = (line.len() > LINE_MAX_BYTES).then_some(LINE_MAX_BYTES);
        let end = line.iter().take(LINE_MAX_BYTES).position(|&b| b == b'\n').or(endless)?;
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let mut after = self.bytes.split_off(text + end);
        if after.first() == Some(&b'\n') {
            after.remove(0);
        }
        let mut before = std::mem::replace(&mut self.bytes, after);
        before.truncate(begin);
        self.searched = 0;
        Some(Message { before, verb: verb.to_owned(), rest: rest.to_owned() })
    }

    fn find_opening(&mut self) -> Option<usize> {
        while let Some(at) = self.bytes[self.searched..].iter().position(|&b| b == b'\n') {
            self.searched += at;
            let here = &self.bytes[self.searched..];
            if here.starts_with(&self.opening) {
                return Some(self.searched);
            }
            if self.opening.starts_with(here) {
                return None;
            }
            self.searched += 1;
        }
        self.searched = self.bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that can be taken out when `bytes` come in pieces of these sizes.
    fn messages(bytes: &[u8], sizes: &[usize]) -> Vec<(String, String, String)> {
        let mut inbox = Inbox::new("M");
        let mut found = Vec::new();
        let mut rest = bytes;
        for size in sizes.iter().copied().chain([bytes.len()]) {
            let (piece, later) = rest.split_at(size.min(rest.len()));
            inbox.put(piece);
            rest = later;
            while let Some(m) = inbox.take() {
                found.push((String::from_utf8_lossy(&m.before).into_owned(), m.verb, m.rest));
            }
        }
        found
    }

    #[test]
    fn greetings_are_told_from_messages() {
        let heard =
            b"Welcome to M!\nM\nMM x\n\nM hello x86_64 same\n\nM begin 7\n{\n  \"a\": 1\n}\n\nM end 0\nbye";
        let expected = [
            ("Welcome to M!\nM\nMM x\n", "hello", "x86_64 same"),
            ("", "begin", "7"),
            ("{\n  \"a\": 1\n}\n", "end", "0"),
        ]
        .map(|(before, verb, rest)| (before.to_owned(), verb.to_owned(), rest.to_owned()));
        assert_eq!(messages(heard, &[]), expected);
        assert_eq!(messages(heard, &[1; 200]), expected);
    }

    #[test]
    fn marks_differ() {
        assert_ne!(new_mark(), new_mark());
        assert_eq!(new_mark().len(), 42);
    }

    proptest! {
        #[test]
        fn how_it_comes_in_pieces_does_not_matter(
            heard in "(\nM [a-c ]{0,4}\n?|[M\n a]{0,6}){0,6}",
            sizes in proptest::collection::vec(1..5usize, 0..30),
        ) {
            prop_assert_eq!(messages(heard.as_bytes(), &sizes), messages(heard.as_bytes(), &[]));
        }

        #[test]
        fn endless_lines_end(word in "[a-z]{1,9}", more in 0..3usize) {
            let mut inbox = Inbox::new("M");
            inbox.put(format!("\nM {word} ").as_bytes());
            inbox.put(&vec![b'x'; LINE_MAX_BYTES + more]);
            prop_assert_eq!(inbox.take().unwrap().verb, word);
        }
    }
}
