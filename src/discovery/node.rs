use std::net::SocketAddr;
use std::num::NonZeroU32;

use crate::endpoint::{AdminState, Endpoint, EndpointId, InvalidId, Roles};

/// A node that a source names.
///
/// Its id is its address in a normal form (`host:port`, lower case), unless the source has a better name: so what is known of a
/// node stays when it registers anew.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct DiscoveredNode {
    address: String,
    id: EndpointId,
    roles: Roles,
    weight: Option<NonZeroU32>,
    backup: bool,
    drain: bool,
    source: String,
}

impl DiscoveredNode {
    /// The node at `address`: `host:port`, `1.2.3.4:port` or `[v6]:port`, at most 255 bytes. It has every role.
    ///
    /// # Errors
    /// [`InvalidNode`] for anything else.
    pub fn new(address: &str) -> Result<Self, InvalidNode> {
        let invalid = || InvalidNode(address.chars().take(255).collect());
        let address = normal(address).ok_or_else(invalid)?;
        let id = EndpointId::new(&address).map_err(|_| invalid())?;
        Ok(DiscoveredNode {
            address,
            id,
            roles: Roles::ALL,
            weight: None,
            backup: false,
            drain: false,
            source: String::new(),
        })
    }

    /// Sets the id, by which live state, sessions and operator's words are kept. Default: the address.
    ///
    /// # Errors
    /// [`InvalidId`] when `id` cannot be one.
    pub fn with_id(mut self, id: &str) -> Result<Self, InvalidId> {
        self.id = EndpointId::new(id)?;
        Ok(self)
    }

    /// Sets what the node does. A node without a role that a client's request could need is left out of clusters.
    pub fn with_roles(mut self, roles: impl Into<Roles>) -> Self {
        self.roles = roles.into();
        self
    }

    /// Sets the share of traffic. Default: whatever the host's endpoint has.
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Makes the node a backup, used when no primary is left.
    pub fn with_backup(mut self, backup: bool) -> Self {
        self.backup = backup;
        self
    }

    /// Says that the node wants no new sessions.
    pub fn draining(mut self, drain: bool) -> Self {
        self.drain = drain;
        self
    }

    /// Says where this was found, for logs: a line of a file, the path of a znode.
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// The address, in its normal form.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The id of its endpoint.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// What the node does.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// The share of traffic, where the source tells.
    pub fn weight(&self) -> Option<NonZeroU32> {
        self.weight
    }

    /// Is it a backup?
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Does it want no new sessions?
    pub fn is_draining(&self) -> bool {
        self.drain
    }

    /// Where this was found.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The endpoint of this node with `backend`, and all that the source tells of it.
    ///
    /// # Errors
    /// [`InvalidId`], which cannot be: the id of a found node is valid.
    pub fn endpoint<B>(&self, backend: B) -> Result<Endpoint<B>, InvalidId> {
        Ok(self.applied_to(Endpoint::new(self.id.as_str(), backend)?.placement(&self.address)))
    }

    /// `endpoint` with all that the source tells of the node: for endpoints that the host makes itself.
    pub fn applied_to<B>(&self, endpoint: Endpoint<B>) -> Endpoint<B> {
        let endpoint = endpoint.roles(self.roles).backup(self.backup);
        let endpoint = match self.weight {
            Some(weight) => endpoint.weight(weight),
            None => endpoint,
        };
        if self.drain { endpoint.admin_state(AdminState::Drain) } else { endpoint }
    }

    /// The endpoint of this node over HTTP/1.1, with the defaults of [`HttpBackend`](crate::HttpBackend).
    ///
    /// # Errors
    /// [`InvalidEndpoint`](crate::backend::http1::InvalidEndpoint) for an address that the backend does not take.
    #[cfg(feature = "client")]
    pub fn http(&self) -> Result<Endpoint<crate::HttpBackend>, crate::backend::http1::InvalidEndpoint> {
        Ok(self.applied_to(Endpoint::http(self.id.as_str(), &self.address)?))
    }

    /// Do both say the same of the same node? Where it was found does not count: a node that registers under a new name is
    /// the node it was.
    pub(super) fn says_the_same_as(&self, other: &DiscoveredNode) -> bool {
        let DiscoveredNode { address, id, roles, weight, backup, drain, source: _ } = self;
        *address == other.address
            && *id == other.id
            && *roles == other.roles
            && *weight == other.weight
            && *backup == other.backup
            && *drain == other.drain
    }
}

/// A text that is not the address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a node: expected host:port, 1.2.3.4:port or [v6]:port")]
pub struct InvalidNode(String);

/// An address as it is compared: host names in lower case, IP addresses as the standard library writes them.
fn normal(address: &str) -> Option<String> {
    if let Ok(socket) = address.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| socket.to_string());
    }
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = !host.is_empty() && host.len() <= 249 && host.bytes().all(label);
    valid.then(|| format!("{}:{port}", host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_one_normal_form() {
        let normal = |address| DiscoveredNode::new(address).unwrap().address().to_owned();
        assert_eq!(normal("Kylin-1.Example:07070"), "kylin-1.example:7070");
        assert_eq!(normal("10.0.0.1:7070"), "10.0.0.1:7070");
        assert_eq!(normal("[0:0::1]:7070"), "[::1]:7070");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_was_expected() {
        let long = format!("{}:1", "a".repeat(250));
        for address in ["", "a", "a:", ":1", "a:0", "a:65536", "a b:1", "a/b:1", "u@a:1", "::1:1", "a\n:1", &long] {
            let error = DiscoveredNode::new(address).unwrap_err().to_string();
            assert!(error.contains("expected host:port"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_a_normal_form_stays(text in "\\PC{0,300}|[a-zA-Z0-9._\\[\\]-]{0,9}:[0-9]{1,6}") {
            if let Ok(found) = DiscoveredNode::new(&text) {
                let again = DiscoveredNode::new(found.address()).unwrap();
                prop_assert_eq!(again.address(), found.address());
            }
        }
    }
}
