//! CRC-64 of a file in pieces, in any order: what the engine records of a snapshot.
//!
//! The sum of a file is linear over GF(2): each run of bytes has its own share in it, which depends on nothing but these
//! bytes and how many follow them, and the shares are added by XOR. Zeros have no share beyond the place they take, and
//! are stepped over by one multiplication per bit of their number. So workers may finish in any order, nothing waits, and
//! holes cost nothing.

use crc_fast::{CrcAlgorithm, Digest};

/// The ISO polynomial, its bits reversed (Go `hash/crc64`, `ISO`): the highest power in the lowest bit.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

/// x^0, in this order of bits.
const ONE: u64 = 1 << 63;

/// How many powers there are: a step over `n` bytes is one over `8 n` bits.
const POWERS: usize = 67;

/// x^(2^k) modulo the polynomial.
static POWERS_OF_X: [u64; POWERS] = powers_of_x();

const fn powers_of_x() -> [u64; POWERS] {
    let mut powers = [ONE >> 1; POWERS];
    let mut k = 1;
    while k < POWERS {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
}

/// The product of two polynomials modulo [`POLYNOMIAL`].
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        // Masks instead of branches: the bits are random.
        product ^= b & 0u64.wrapping_sub((a & bit != 0) as u64);
        b = (b >> 1) ^ (POLYNOMIAL & 0u64.wrapping_sub(b & 1));
        bit >>= 1;
    }
    product
}

/// The register `crc` after `count` bytes of zeros.
fn over_zeros(crc: u64, count: u64) -> u64 {
    let steps = (0..64).filter(|bit| count >> bit & 1 != 0);
    steps.fold(crc, |crc, bit| multiply(POWERS_OF_X[bit + 3], crc))
}

/// The share that runs of bytes in ascending order have in a file's sum.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    register: u64,
    end_bytes: u64,
}

impl Share {
    /// Takes in the bytes at `offset_bytes`, which is not before the end of what was taken in so far.
    pub fn update(&mut self, offset_bytes: u64, bytes: &[u8]) {
        debug_assert!(offset_bytes >= self.end_bytes);
        let start = over_zeros(self.register, offset_bytes - self.end_bytes);
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc64GoIso, start);
        digest.update(bytes);
        self.register = digest.get_state();
        self.end_bytes = offset_bytes + bytes.len() as u64;
    }

    /// The share in the sum of a file of `size_bytes`, which has nothing taken in past its end.
    pub fn in_file_of(self, size_bytes: u64) -> u64 {
        debug_assert!(size_bytes >= self.end_bytes);
        over_zeros(self.register, size_bytes - self.end_bytes)
    }
}

/// The sum of a file of `size_bytes` that is nothing but zeros, to which the shares of its bytes are added by XOR.
pub fn of_zeros(size_bytes: u64) -> u64 {
    !over_zeros(!0, size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> u64 {
        let mut share = Share::default();
        share.update(0, bytes);
        of_zeros(bytes.len() as u64) ^ share.in_file_of(bytes.len() as u64)
    }

    #[test]
    fn the_check_value_of_the_algorithm() {
        assert_eq!(of(b"123456789"), 0xb909_56c7_75a4_1001);
        assert_eq!(of(b""), 0);
    }

    #[test]
    fn a_step_over_zeros_is_the_sum_of_zeros_however_many() {
        let combined = |count: u64| {
            let sum = |len: usize| crc_fast::checksum(CrcAlgorithm::Crc64GoIso, &vec![0; len]);
            let rest = usize::try_from(count % 4096).unwrap();
            let (mut whole, mut done) = (sum(rest), rest as u64);
            let (mut power, mut power_sum) = (4096, sum(4096));
            while done < count {
                if (count / 4096 * 4096) & power != 0 {
                    whole = crc_fast::checksum_combine(CrcAlgorithm::Crc64GoIso, whole, power_sum, power);
                    done += power;
                }
                power_sum = crc_fast::checksum_combine(CrcAlgorithm::Crc64GoIso, power_sum, power_sum, power);
                power *= 2;
            }
            whole
        };
        for count in [0, 1, 4095, 4096, 8192, 12_582_912, (16 << 40) + 4097, i64::MAX as u64 / 4096 * 4096] {
            assert_eq!(of_zeros(count), combined(count), "{count}");
        }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_whole(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..12),
            order in any::<prop::sample::Index>(),
            gather in 1usize..4,
        ) {
            let (mut whole, mut shares) = (Vec::new(), Vec::new());
            for group in pieces.chunks(gather) {
                let mut share = Share::default();
                for (is_hole, bytes) in group {
                    let at = whole.len() as u64;
                    if *is_hole {
                        whole.resize(whole.len() + bytes.len(), 0);
                    } else {
                        share.update(at, bytes);
                        whole.extend_from_slice(bytes);
                    }
                }
                shares.push(share);
            }
            if !shares.is_empty() {
                let middle = order.index(shares.len());
                shares.rotate_left(middle);
            }
            let size = whole.len() as u64;
            let sum = shares.iter().fold(of_zeros(size), |sum, share| sum ^ share.in_file_of(size));
            prop_assert_eq!(sum, crc_fast::checksum(CrcAlgorithm::Crc64GoIso, &whole));
        }
    }
}
