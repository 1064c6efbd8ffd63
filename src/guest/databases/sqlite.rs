//! The header of an SQLite database.
//!
//! Offsets as in "Database File Format" of sqlite.org, section 1.3.

/// What a database file begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// How long the header is.
pub const HEADER_BYTES: usize = 100;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The length of a page, in bytes.
    pub page_bytes: u32,
    /// Whether it is in WAL mode: what was written last is in a file of its own, `<name>-wal`.
    pub is_wal: bool,
    /// How many pages it has, if whoever wrote it last knew.
    pub pages: Option<u32>,
    /// The number that the application keeps there.
    pub user_version: u32,
    /// The number that tells the application's files from others, or 0.
    pub application_id: u32,
    /// The version of SQLite that wrote it last: 3039004 is 3.39.4. 0 is not known.
    pub written_by: u32,
}

impl Header {
    /// The header at the beginning of a file; `None` when that is no SQLite database.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let head: &[u8; HEADER_BYTES] = head.first_chunk()?;
        if !head.starts_with(MAGIC) {
            return None;
        }
        let number = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let page_bytes = match u32::from(u16::from_be_bytes([head[16], head[17]])) {
            1 => 65536,
            bytes => bytes,
        };
        // The count is stale when an old version has written since: section 1.3.7.
        let pages = Some(number(28)).filter(|&pages| pages > 0 && number(24) == number(92));
        Some(Header {
            page_bytes,
            is_wal: head[18] == 2 || head[19] == 2,
            pages,
            user_version: number(60),
            application_id: number(68),
            written_by: number(96),
        })
    }

    /// The version of SQLite that wrote it last, as people write it.
    pub fn version(&self) -> Option<String> {
        let number = self.written_by;
        (number > 0).then(|| format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_what_is_in_it() {
        let mut head = [0u8; HEADER_BYTES];
        head[..16].copy_from_slice(MAGIC);
        head[16..20].copy_from_slice(&[0, 1, 2, 2]);
        head[24..32].copy_from_slice(&[0, 0, 0, 7, 0, 0, 0, 9]);
        head[60..64].copy_from_slice(&[0, 0, 1, 0]);
        head[92..100].copy_from_slice(&[0, 0, 0, 7, 0, 0x2e, 0x5f, 0x1c]);
        let header = Header::parse(&head).unwrap();
        assert_eq!((header.page_bytes, header.is_wal, header.user_version), (65536, true, 256));
        assert_eq!((header.pages, header.version().as_deref()), (Some(9), Some("3.39.4")));
        head[95] = 6;
        assert_eq!(Header::parse(&head).unwrap().pages, None);
        assert!(Header::parse(&head[..99]).is_none() && Header::parse(&[b'S'; 200]).is_none());
    }
}
