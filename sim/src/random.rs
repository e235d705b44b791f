//! Random streams: one per purpose, derived from the world's seed and the purpose's name, so that one
//! more draw in one place moves nothing elsewhere.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A seeded stream of random numbers whose output is fixed by its algorithm (ChaCha8), not by a
/// library version.
#[derive(Clone, Debug)]
pub struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// The stream that belongs to `purpose` in the world of `seed`.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        // FNV-1a from three offset bases: 192 bits that differ for any two names people would use.
        let bases = [0xcbf2_9ce4_8422_2325_u64, 0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
        for (slot, base) in bases.into_iter().enumerate() {
            let hash = purpose
                .bytes()
                .fold(base, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            key[8 + slot * 8..16 + slot * 8].copy_from_slice(&hash.to_le_bytes());
        }
        RandomStream(ChaCha8Rng::from_seed(key))
    }

    /// A stream for one decision: the `index`-th about `key` (a member, a client, a link) in the stream
    /// called `purpose`. Decisions made so do not move when others are left out.
    pub fn keyed(seed: u64, purpose: u64, key: u64, index: u64) -> Self {
        let mut bytes = [0_u8; 32];
        for (slot, part) in bytes.chunks_exact_mut(8).zip([seed, purpose, key, index]) {
            slot.copy_from_slice(&part.to_le_bytes());
        }
        RandomStream(ChaCha8Rng::from_seed(bytes))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Multiply-shift: the bias is below bound / 2^64, and the draw count never varies.
        ((u128::from(self.0.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A uniform number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range: {low}..={high}");
        if low == 0 && high == u64::MAX {
            self.next_u64()
        } else {
            low + self.below(high - low + 1)
        }
    }

    /// True `numerator` times in `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Fills `into` with random bytes.
    pub fn fill(&mut self, into: &mut [u8]) {
        self.0.fill_bytes(into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_outputs_of_a_stream_never_change() {
        let mut stream = RandomStream::new(1, "network");
        let first: Vec<u64> = (0..3).map(|_| stream.next_u64()).collect();
        assert_eq!(first, FIRST_OF_NETWORK_1);
    }

    #[test]
    fn streams_of_one_seed_differ_by_purpose() {
        let (mut a, mut b) = (RandomStream::new(1, "a"), RandomStream::new(1, "b"));
        assert_ne!(a.next_u64(), b.next_u64());
    }

    #[test]
    fn a_range_is_reached_at_both_ends_and_not_beyond() {
        let mut stream = RandomStream::new(7, "range");
        let drawn: Vec<u64> = (0..200).map(|_| stream.between(3, 5)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&5)));
    }

    const FIRST_OF_NETWORK_1: [u64; 3] =
        [17_708_997_066_513_922_613, 327_681_757_195_115_505, 18_421_865_610_218_332_448];
}
