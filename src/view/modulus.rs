/// A divisor that is used repeatedly.
pub(super) struct Modulus {
    length: u64,
    /// 2^64 / length, rounded up; 0 if the length is 0, 1, or more than 32 bits.
    inverse: u64,
}

impl Modulus {
    pub(super) fn new(length: u64) -> Self {
        let inverse = match u32::try_from(length) {
            Ok(2..) => u64::MAX / length + 1,
            _ => 0,
        };
        Modulus { length, inverse }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Returns `number % length`, or 0 if the length is 0. If both have 32 bits, two
    /// multiplications replace the division (Lemire, Kaser, Kurz 2019).
    #[inline]
    pub(super) fn remainder(&self, number: u64) -> u64 {
        if self.inverse == 0 || number > u32::MAX.into() {
            return number.checked_rem(self.length).unwrap_or(0);
        }
        ((u128::from(self.inverse.wrapping_mul(number)) * u128::from(self.length)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_remainder_is_that_of_the_division(number: u64, length in 1_u64..=u64::MAX, bits in 0..64_u32) {
            for (number, length) in [(number, length), (number >> bits, length), (number, (length >> bits).max(1))] {
                let number = number >> 31;
                for length in [length, (length >> 32).max(1)] {
                    proptest::prop_assert_eq!(Modulus::new(length).remainder(number), number % length);
                }
            }
        }
    }
}
