//! A record as stores without columns keep it: the version, 8 bytes, and then the record.
//!
//! Versions are the writer's choice, not the server's. So a write whose answer was lost can be sent again and recognises
//! itself, and no restart, failover or eviction makes a version come back for another record.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::session::{SessionRecord, StoreError};

/// How many bytes go before a record.
#[cfg(any(feature = "redis", feature = "memcached"))]
const FRAME: usize = 8;

/// The longest value that can hold a record.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) const LONGEST: usize = FRAME + SessionRecord::MAX_LEN;

/// A version that no other write of any process has: 64 random bits, from a hash with a key of the operating system's.
pub(crate) fn fresh_version() -> u64 {
    static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEYED.hash_one((std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// The record as it is sent.
///
/// # Errors
/// [`StoreError::TooLong`].
pub(crate) fn encode(record: &SessionRecord) -> Result<Bytes, StoreError> {
    let bytes = record.encode();
    if bytes.len() > SessionRecord::MAX_LEN { Err(StoreError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The value of a version and an encoded record.
#[cfg(any(feature = "memcached", all(test, feature = "redis")))]
pub(crate) fn pack(version: u64, record: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), record].concat()
}

/// What a value holds: nothing, when it is not a version and a whole record.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) fn unpack(value: &[u8]) -> Option<crate::session::Stored> {
    let (version, record) = value.split_first_chunk::<FRAME>()?;
    let record = SessionRecord::decode(record).ok()?;
    Some(crate::session::Stored { record, version: u64::from_be_bytes(*version) })
}

/// The name of a key in a store: the prefix and 32 hexadecimal digits.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) fn prefixed(prefix: &str, key: &crate::session::SessionKey) -> Vec<u8> {
    [prefix.as_bytes(), &key.hex()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_version_comes_twice() {
        let versions: std::collections::HashSet<u64> = (0..10_000).map(|_| fresh_version()).collect();
        assert_eq!(versions.len(), 10_000);
    }

    #[cfg(any(feature = "redis", feature = "memcached"))]
    #[test]
    fn a_value_reads_back_and_a_foreign_one_is_nothing() {
        let record = SessionRecord::bound(crate::EndpointId::new("q1").unwrap());
        let stored = unpack(&pack(77, &record.encode())).unwrap();
        assert_eq!((stored.version, stored.record), (77, record));
        for foreign in [&b""[..], b"x", b"12345678", b"a value of somebody else's"] {
            assert_eq!(unpack(foreign), None);
        }
    }
}
