use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::endpoint::EndpointId;

/// What is kept of a session: the endpoint that it is bound to, and, where the front end shares sessions among nodes, a
/// sealed part that only front ends with the key can read.
///
/// On the wire a record is
///
/// | bytes | what |
/// |---|---|
/// | 1 | format, at present 1 |
/// | 1 | length of the endpoint's id; 0 when it is bound to none |
/// | n | the id |
/// | m | the sealed part, up to the last four bytes |
/// | 4 | CRC-32 of all before, big-endian |
///
/// so a binding of a short id takes some ten bytes. A record that does not read back ([`DamagedRecord`]) counts as absent: it is
/// replaced, and never yields another session's binding.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SessionRecord {
    endpoint: Option<EndpointId>,
    sealed: Bytes,
}

const FORMAT: u8 = 1;

impl SessionRecord {
    /// The longest encoded record that stores have to keep, in bytes.
    pub const MAX_LEN: usize = 16 * 1024;

    /// The record of a session that is bound to `endpoint`.
    pub fn bound(endpoint: EndpointId) -> Self {
        SessionRecord { endpoint: Some(endpoint), sealed: Bytes::new() }
    }

    /// The record with its sealed part set. What makes it longer than [`MAX_LEN`](Self::MAX_LEN) makes stores refuse it.
    #[must_use]
    pub fn with_sealed(mut self, sealed: impl Into<Bytes>) -> Self {
        self.sealed = sealed.into();
        self
    }

    /// The endpoint that the session is bound to.
    pub fn endpoint(&self) -> Option<&EndpointId> {
        self.endpoint.as_ref()
    }

    /// The sealed part; empty where there is none.
    pub fn sealed(&self) -> &Bytes {
        &self.sealed
    }

    /// How long [`encode`](Self::encode) makes it, in bytes.
    pub fn encoded_len(&self) -> usize {
        6 + self.endpoint.as_ref().map_or(0, |id| id.as_str().len()) + self.sealed.len()
    }

    /// The record as stores keep it.
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

    /// Reads what a store has kept.
    ///
    /// # Errors
    /// [`DamagedRecord`] when it is not a whole record of a known format.
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
    /// Shows how long the sealed part is, never the part.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRecord")
            .field("endpoint", &self.endpoint)
            .field("sealed_bytes", &self.sealed.len())
            .finish()
    }
}

/// Bytes in a store that are not a session record: cut short, altered, of a format that this version does not know, or
/// somebody else's.
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
    fn reads_back_what_was_written() {
        for record in [SessionRecord::default(), bound(), bound().with_sealed(vec![7_u8; 300])] {
            assert_eq!(SessionRecord::decode(&record.encode()), Ok(record));
        }
        assert_eq!(bound().encode().len(), 8);
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
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
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(0_u8.., 0..100)) {
            if let Ok(record) = SessionRecord::decode(&bytes) {
                proptest::prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
        }
    }
}
