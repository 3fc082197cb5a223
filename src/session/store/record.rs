use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::endpoint::EndpointId;

/// The part of a session that a store keeps: the endpoint to which the session is bound. With the
/// login relay it also has a sealed part, which only front ends with the secret can read.
///
/// The encoding:
///
/// | bytes | content |
/// |---|---|
/// | 1 | format, currently 1 |
/// | 1 | length of the endpoint's id; 0 for an unbound session |
/// | n | the id |
/// | m | the sealed part |
/// | 4 | CRC-32 of all preceding bytes, big-endian |
///
/// A binding to an endpoint with a short id takes about ten bytes. Bytes that do not decode
/// ([`DamagedRecord`]) count as absent: they are replaced, and never yield the binding of another
/// session.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SessionRecord {
    endpoint: Option<EndpointId>,
    sealed: Bytes,
}

const FORMAT: u8 = 1;

impl SessionRecord {
    /// The maximum length of an encoded record, in bytes.
    pub const MAX_LEN: usize = 16 * 1024;

    /// Returns the record of a session that is bound to `endpoint`.
    pub fn bound(endpoint: EndpointId) -> Self {
        SessionRecord { endpoint: Some(endpoint), sealed: Bytes::new() }
    }

    /// Sets the sealed part. Stores refuse a record that is longer than [`MAX_LEN`](Self::MAX_LEN).
    #[must_use]
    pub fn with_sealed(mut self, sealed: impl Into<Bytes>) -> Self {
        self.sealed = sealed.into();
        self
    }

    /// Returns the endpoint to which the session is bound.
    pub fn endpoint(&self) -> Option<&EndpointId> {
        self.endpoint.as_ref()
    }

    /// Returns the sealed part, which may be empty.
    pub fn sealed(&self) -> &Bytes {
        &self.sealed
    }

    /// Returns the length of the [encoded](Self::encode) record, in bytes.
    pub fn encoded_len(&self) -> usize {
        6 + self.endpoint.as_ref().map_or(0, |id| id.as_str().len()) + self.sealed.len()
    }

    /// Encodes the record for a store.
    pub fn encode(&self) -> Bytes {
        let id = self.endpoint.as_ref().map_or("", EndpointId::as_str);
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        // An id has at most 255 bytes.
        bytes.extend_from_slice(&[FORMAT, id.len() as u8]);
        bytes.extend_from_slice(id.as_bytes());
        bytes.extend_from_slice(&self.sealed);
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes.freeze()
    }

    /// Decodes bytes from a store.
    ///
    /// # Errors
    /// [`DamagedRecord`] if the bytes are not a whole record of a known format.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedRecord> {
        if bytes.len() > Self::MAX_LEN {
            return Err(DamagedRecord);
        }
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or(DamagedRecord)?;
        let [FORMAT, length, rest @ ..] = content else { return Err(DamagedRecord) };
        if crc32fast::hash(content) != u32::from_be_bytes(*sum) {
            return Err(DamagedRecord);
        }
        let (id, sealed) = rest.split_at_checked(usize::from(*length)).ok_or(DamagedRecord)?;
        let endpoint = match id {
            b"" => None,
            id => {
                let id = std::str::from_utf8(id).map_err(|_| DamagedRecord)?;
                Some(EndpointId::new(id).map_err(|_| DamagedRecord)?)
            }
        };
        Ok(SessionRecord { endpoint, sealed: Bytes::copy_from_slice(sealed) })
    }
}

impl fmt::Debug for SessionRecord {
    /// Shows the length of the sealed part, but never its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRecord")
            .field("endpoint", &self.endpoint)
            .field("sealed_bytes", &self.sealed.len())
            .finish()
    }
}

/// The error for bytes in a store that are not a session record: truncated, altered, of an unknown
/// format, or written by another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a session record of format {FORMAT}")]
pub struct DamagedRecord;

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> SessionRecord {
        SessionRecord::bound(EndpointId::new("q1").unwrap())
    }

    #[test]
    fn decodes_what_was_encoded() {
        for record in [SessionRecord::default(), bound(), bound().with_sealed(vec![7_u8; 300])] {
            assert_eq!(SessionRecord::decode(&record.encode()), Ok(record));
        }
        assert_eq!(bound().encode().len(), 8);
    }

    /// Other versions read the records of this one. The CRC was computed with `zlib`.
    #[test]
    fn format_1_is_read_and_written_as_it_was_released() {
        let sealed = |record: SessionRecord| record.with_sealed(&b"sealed"[..]);
        for (bytes, record) in [
            (&b"\x01\x02q1\xfd\x86\x24\x9a"[..], bound()),
            (b"\x01\x00sealed\xe5\xee\xc0\x24", sealed(SessionRecord::default())),
            (b"\x01\x02q1sealed\x00\x36\x0b\xf5", sealed(bound())),
        ] {
            assert_eq!((SessionRecord::decode(bytes), &record.encode()[..]), (Ok(record.clone()), bytes));
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_detected() {
        let bytes = bound().with_sealed(vec![7_u8; 20]).encode();
        for length in 0..bytes.len() {
            assert_eq!(SessionRecord::decode(&bytes[..length]), Err(DamagedRecord));
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SessionRecord::decode(&damaged), Err(DamagedRecord));
        }
    }

    proptest::proptest! {
        #[test]
        fn decoding_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            if let Ok(record) = SessionRecord::decode(&bytes) {
                proptest::prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
        }
    }
}
