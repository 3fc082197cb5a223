//! Hashes that decide which endpoint serves a request.
//!
//! Two front ends, built at different times on different machines, must place the same key on the
//! same endpoint. So these hashes are not seeded and never change; golden values in the tests pin
//! them. For hash *maps* the crate uses ahash, which has a new seed in every process and must
//! therefore never decide a placement.

use xxhash_rust::xxh3::Xxh3;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// CRC-32 (IEEE 802.3) over pieces, as in nginx's `hash`.
#[derive(Clone, Default)]
pub(crate) struct Crc32(crc32fast::Hasher);

impl Crc32 {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// Returns the 64-bit hash of a key (xxh3).
pub(crate) fn key64(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, 0)
}

/// [`key64`] over pieces. It equals the hash of their concatenation.
pub(crate) struct Key64 {
    /// The pieces, while they fit. Most keys are short, and a state of the hash has more than 500
    /// bytes.
    short: [u8; Self::MAX_SHORT],
    len: usize,
    /// The state after longer pieces, including `short`.
    long: Option<Box<Xxh3>>,
}

impl Key64 {
    const MAX_SHORT: usize = 384;

    pub(crate) fn new() -> Self {
        Key64 { short: [0; Self::MAX_SHORT], len: 0, long: None }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(long) = &mut self.long {
            long.update(bytes);
        } else if let Some(free) = self.short.get_mut(self.len..self.len + bytes.len()) {
            free.copy_from_slice(bytes);
            self.len += bytes.len();
        } else {
            let mut long = Box::new(Xxh3::with_seed(0));
            long.update(&self.short[..self.len]);
            long.update(bytes);
            self.long = Some(long);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        match self.long {
            Some(long) => long.digest(),
            None => key64(&self.short[..self.len]),
        }
    }
}

/// Mixes the hash of a key with that of an endpoint for rendezvous hashing. Both inputs affect
/// every bit of the result.
pub(crate) fn mix(key: u64, endpoint: u64) -> u64 {
    // The finalizer of splitmix64 (Steele, Lea, Flood 2014), over a sum that does not commute.
    let mut z = key.rotate_left(32).wrapping_add(endpoint.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns `-log2(u)` for `u` in (0, 1] given as `(hash + 1) / 2^64`, as fixed point with 32
/// fractional bits.
///
/// Weighted rendezvous hashing needs a logarithm. `f64::ln` may differ in its last bit between
/// platforms, so two front ends might disagree. This function uses integer arithmetic only. Its
/// error is below 2^-24.
pub(crate) fn neg_log2(hash: u64) -> u64 {
    let value = u128::from(hash) + 1;
    let exponent = 127 - value.leading_zeros(); // 0..=64
    // The mantissa in [1, 2) with 63 fractional bits.
    let mantissa = if exponent > 63 { (value >> (exponent - 63)) as u64 } else { (value << (63 - exponent)) as u64 };
    let fraction = mantissa & (u64::MAX >> 1);
    let slot = (fraction >> (63 - TABLE_BITS)) as usize;
    let within = (fraction >> (63 - TABLE_BITS - 32)) & 0xffff_ffff;
    let (low, high) = (LOG2[slot], LOG2[slot + 1]);
    let log2_mantissa = low + (((high - low) * within) >> 32);
    (64 << 32) - ((u64::from(exponent) << 32) + log2_mantissa)
}

const TABLE_BITS: u32 = 10;

/// log2(1 + i/1024) with 32 fractional bits, by repeated squaring at compile time.
static LOG2: [u64; (1 << TABLE_BITS) + 1] = {
    let mut table = [0_u64; (1 << TABLE_BITS) + 1];
    let mut i = 0;
    while i < 1 << TABLE_BITS {
        let mut x: u128 = (1 << 62) + ((i as u128) << (62 - TABLE_BITS)); // [1, 2) with 62 fractional bits
        let mut log = 0_u64;
        let mut bit = 0;
        while bit < 32 {
            x = (x * x) >> 62;
            log <<= 1;
            if x >= 1 << 63 {
                log |= 1;
                x >>= 1;
            }
            bit += 1;
        }
        table[i] = log;
        i += 1;
    }
    table[1 << TABLE_BITS] = 1 << 32;
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_hashes_never_change() {
        let mut crc = Crc32::default();
        crc.update(b"1234");
        crc.update(b"56789");
        assert_eq!(crc.finish(), 0xcbf4_3926); // the check value of CRC-32/ISO-HDLC
        assert_eq!(key64(b""), 0x2d06_8005_38d3_94c2); // XXH3_64bits of nothing, seed 0, from the xxHash specification
        assert_eq!(key64(b"a"), 0xe6c6_32b6_1e96_4e1f);
        assert_eq!(key64(b"abc"), 0x78af_5f94_892f_3950);
        // Computed independently of this code, in arbitrary precision.
        for (key, endpoint, mixed) in [
            (0, 0, 0),
            (1, 2, 0x37ad_5fdd_5756_bd3d),
            (2, 1, 0xe7b2_5ad2_7bcc_b532),
            (0x2d06_8005_38d3_94c2, 0xe6c6_32b6_1e96_4e1f, 0xbc1a_ad5f_e64a_816d),
        ] {
            assert_eq!(mix(key, endpoint), mixed, "{key:#x} {endpoint:#x}");
        }
        for (hash, logarithm) in [
            (1, 0x3f_0000_0000),
            (2, 0x3e_6a3f_e5c7),
            (12_345, 0x32_6882_ad73),
            (0x0123_4567_89ab_cdef, 0x7_d053_f783),
            (0xdead_beef_cafe_f00d, 0x3380_8dee),
            (1 << 63, 0x1_0000_0000),
            (u64::MAX - 1, 1),
        ] {
            assert_eq!(neg_log2(hash), logarithm, "{hash:#x}");
        }
    }

    #[test]
    fn the_hash_of_pieces_is_that_of_the_whole_key() {
        let key: Vec<u8> = (0..1000_u32).map(|i| (i * 7) as u8).collect();
        for size in [1, 3, 64, 256, 999] {
            let mut hash = Key64::new();
            key.chunks(size).for_each(|piece| hash.update(piece));
            assert_eq!(hash.finish(), key64(&key), "{size}");
        }
    }

    #[test]
    fn neg_log2_is_a_logarithm_and_monotone() {
        assert_eq!(neg_log2(u64::MAX), 0);
        assert_eq!(neg_log2(0), 64 << 32);
        assert_eq!(neg_log2((1 << 63) - 1), 1 << 32);
        let mut last = u64::MAX;
        for i in 0..200_000_u64 {
            let hash = i.wrapping_mul(92_233_720_368_547);
            let exact = -((hash as f64 + 1.0).log2() - 64.0);
            let ours = neg_log2(hash) as f64 / f64::from(u32::MAX);
            assert!((exact - ours).abs() < 1e-6, "{hash}: {exact} {ours}");
            if hash > 92_233_720_368_547 {
                assert!(neg_log2(hash) <= last);
            }
            last = neg_log2(hash);
        }
    }
}
