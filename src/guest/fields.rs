//! Fields at offsets, in the byte order of whoever wrote them. What lies past the end is not there.

/// Bytes with fields in them.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// Whether the first byte of a number is the most significant one.
    pub is_big_endian: bool,
}

impl<'a> Fields<'a> {
    /// With the least significant byte first.
    pub fn little(bytes: &'a [u8]) -> Self {
        Fields { bytes, is_big_endian: false }
    }

    /// With the most significant byte first.
    pub fn big(bytes: &'a [u8]) -> Self {
        Fields { bytes, is_big_endian: true }
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut array: [u8; N] = *self.bytes.get(at..)?.first_chunk()?;
        if self.is_big_endian {
            array.reverse();
        }
        Some(array)
    }

    /// A byte.
    pub fn u8(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// Two bytes.
    pub fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// Text of at most `len` bytes that ends at the first NUL; `None` when it is empty.
    pub fn text(&self, at: usize, len: usize) -> Option<String> {
        let bytes = self.bytes.get(at..)?.get(..len)?;
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty())
    }

    /// A UUID, as it is written; `None` when it is all zeros.
    pub fn uuid(&self, at: usize) -> Option<String> {
        let bytes: &[u8; 16] = self.bytes.get(at..)?.first_chunk()?;
        let mut text = String::with_capacity(36);
        for (i, byte) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push_str(&format!("{byte:02x}"));
        }
        bytes.iter().any(|&byte| byte != 0).then_some(text)
    }
}
