use std::fmt;

/// The key of a session in a store: 128 bits of a keyed hash of the session id. The id itself never
/// reaches a store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey([u8; 16]);

impl SessionKey {
    /// Returns a key of these bytes, which must come from a keyed hash.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        SessionKey(bytes)
    }

    /// Returns the bytes, for stores with binary keys.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the key as 32 lower-case hexadecimal digits, for stores with textual keys.
    pub fn to_hex(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for SessionKey {
    /// Shows two bytes, which is enough to follow a session through a log, but too little to find
    /// it in a store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_32_digits_and_debug_shows_four() {
        let key = SessionKey::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(key.to_hex(), "000102030405060708090a0b0c0d0eff");
        assert_eq!(format!("{key:?}"), "SessionKey(0001..)");
    }
}
