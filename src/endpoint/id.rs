use std::fmt;
use std::sync::Arc;

/// The identity of an endpoint: 1 to 255 visible ASCII characters. Cheap to clone.
///
/// The live state, sessions and metrics of an endpoint belong to its id, and survive changes of
/// address, weight and position.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// Checks `id` and returns it as an endpoint id.
    ///
    /// # Errors
    /// [`InvalidId`] if `id` is empty, longer than 255 bytes, or holds anything but visible ASCII.
    pub fn new(id: &str) -> Result<Self, InvalidId> {
        if id.is_empty() || id.len() > 255 || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidId(id.chars().take(255).collect()));
        }
        Ok(EndpointId(Arc::from(id)))
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hash that represents the endpoint in rendezvous hashing.
    pub(crate) fn hash64(&self) -> u64 {
        crate::hash::key64(self.0.as_bytes())
    }
}

impl std::borrow::Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for EndpointId {
    type Err = InvalidId;

    fn from_str(id: &str) -> Result<Self, InvalidId> {
        EndpointId::new(id)
    }
}

/// The error for a text that is not a valid [`EndpointId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an endpoint id: expected 1 to 255 visible ASCII characters")]
pub struct InvalidId(String);

impl InvalidId {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}
