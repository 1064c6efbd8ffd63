//! Swap space: `union swap_header` in the kernel's `include/linux/swap.h`. Nothing in it outlives a reboot.

use crate::guest::facts::{Facts, Kind};
use crate::guest::fields::Fields;

/// What the first page ends with.
const MAGIC: &[u8] = b"SWAPSPACE2";
/// The pages there are, in bytes.
const PAGES: [(usize, u64); 2] = [(4096, 4096), (65536, 65536)];

/// What the header says; `None` when there is none.
pub fn facts(head: &[u8]) -> Option<Facts> {
    let (_, page_bytes) = PAGES
        .into_iter()
        .find(|&(page, _)| head.get(page - MAGIC.len()..page).is_some_and(|end| end == MAGIC))?;
    let header = Fields::little(head);
    let last_page = u64::from(header.u32(1024 + 4)?);
    Some(Facts {
        label: header.text(1024 + 28, 16),
        uuid: header.uuid(1024 + 12),
        size_bytes: last_page.checked_add(1).and_then(|pages| pages.checked_mul(page_bytes)),
        ..Facts::of(Kind::Swap, "swap space")
    })
}
