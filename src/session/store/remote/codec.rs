//! The encoding of a record in stores without columns: the version in 8 bytes, then the record.
//!
//! The writer chooses the version, not the server. So a write that is sent again after its response
//! was lost recognises itself. No restart, failover or eviction can make a version stand for
//! another record.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::session::{SessionRecord, StoreError};

/// The length of the version before a record.
#[cfg(any(feature = "redis", feature = "memcached"))]
const VERSION_LEN: usize = 8;

/// The maximum length of a value that holds a record.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) const MAX_VALUE_LEN: usize = VERSION_LEN + SessionRecord::MAX_LEN;

/// Returns a version that no other write of any process has: 64 random bits from a hash whose key
/// the operating system chose.
pub(crate) fn new_version() -> u64 {
    static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEYED.hash_one((std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Encodes a record.
///
/// # Errors
/// [`StoreError::TooLong`] if the record is longer than [`SessionRecord::MAX_LEN`].
pub(crate) fn encode_record(record: &SessionRecord) -> Result<Bytes, StoreError> {
    let bytes = record.encode();
    if bytes.len() > SessionRecord::MAX_LEN { Err(StoreError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Joins a version and an encoded record.
#[cfg(any(feature = "memcached", all(test, feature = "redis")))]
pub(crate) fn encode_value(version: u64, record: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), record].concat()
}

/// Decodes a value. Returns `None` unless it is a version and a whole record.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) fn decode_value(value: &[u8]) -> Option<crate::session::Stored> {
    let (version, record) = value.split_first_chunk::<VERSION_LEN>()?;
    let record = SessionRecord::decode(record).ok()?;
    Some(crate::session::Stored { record, version: u64::from_be_bytes(*version) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_do_not_repeat() {
        let versions: std::collections::HashSet<u64> = (0..10_000).map(|_| new_version()).collect();
        assert_eq!(versions.len(), 10_000);
    }

    #[cfg(any(feature = "redis", feature = "memcached"))]
    #[test]
    fn a_value_decodes_and_a_foreign_one_does_not() {
        let record = SessionRecord::bound(crate::EndpointId::new("q1").unwrap());
        let stored = decode_value(&encode_value(77, &record.encode())).unwrap();
        assert_eq!((stored.version, stored.record), (77, record));
        for foreign in [&b""[..], b"x", b"12345678", b"a value of another program"] {
            assert_eq!(decode_value(foreign), None);
        }
    }
}
