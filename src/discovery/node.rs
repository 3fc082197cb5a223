use std::net::SocketAddr;
use std::num::NonZeroU32;

use crate::endpoint::{AdminState, Endpoint, EndpointId, InvalidId, Roles};

/// A node that a source lists.
///
/// Its id is its address in a normal form (`host:port`, lower case), unless the source has a better
/// name. So the live state of a node survives a new registration of the same address.
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
    /// Creates the node at `address`, with every role. The address is `host:port`, `1.2.3.4:port`
    /// or `[v6]:port`, at most 255 bytes.
    ///
    /// # Errors
    /// [`InvalidNode`] for any other text.
    pub fn new(address: &str) -> Result<Self, InvalidNode> {
        let invalid = || InvalidNode(address.chars().take(255).collect());
        let address = normalise(address).ok_or_else(invalid)?;
        let id = EndpointId::new(&address).map_err(|_| invalid())?;
        let source = String::new();
        Ok(DiscoveredNode { address, id, roles: Roles::ALL, weight: None, backup: false, drain: false, source })
    }

    /// Sets the id of the endpoint. Live state, sessions and administrative settings are kept under
    /// it. Default: the address.
    ///
    /// # Errors
    /// [`InvalidId`] if `id` is not a valid endpoint id.
    pub fn with_id(mut self, id: &str) -> Result<Self, InvalidId> {
        self.id = EndpointId::new(id)?;
        Ok(self)
    }

    /// Sets the roles of the node. A node without a role that serves clients does not join a
    /// cluster.
    pub fn with_roles(mut self, roles: impl Into<Roles>) -> Self {
        self.roles = roles.into();
        self
    }

    /// Sets the weight. Default: the weight of the endpoint that the application makes.
    pub fn with_weight(mut self, weight: NonZeroU32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Sets whether the node is a backup, which serves only if no primary is eligible.
    pub fn with_backup(mut self, backup: bool) -> Self {
        self.backup = backup;
        self
    }

    /// Sets whether the node drains: it keeps its sessions and gets no new ones.
    pub fn with_drain(mut self, drain: bool) -> Self {
        self.drain = drain;
        self
    }

    /// Sets where the node was listed, for logs, such as a line of a file or the path of a znode.
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Returns the address in its normal form.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the id of the endpoint.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Returns the roles.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// Returns the weight, if the source sets one.
    pub fn weight(&self) -> Option<NonZeroU32> {
        self.weight
    }

    /// Returns whether the node is a backup.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Returns whether the node drains.
    pub fn is_draining(&self) -> bool {
        self.drain
    }

    /// Returns where the node was listed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Makes the endpoint of this node with `backend` and all settings of the source.
    ///
    /// # Errors
    /// [`InvalidId`], which cannot occur, because the id was checked before.
    pub fn endpoint<B>(&self, backend: B) -> Result<Endpoint<B>, InvalidId> {
        Ok(self.apply_to(Endpoint::new(self.id.as_str(), backend)?.placement(&self.address)))
    }

    /// Applies all settings of the source to an endpoint that the application has made.
    pub fn apply_to<B>(&self, endpoint: Endpoint<B>) -> Endpoint<B> {
        let endpoint = endpoint.roles(self.roles).backup(self.backup);
        let endpoint = match self.weight {
            Some(weight) => endpoint.weight(weight),
            None => endpoint,
        };
        if self.drain { endpoint.admin_state(AdminState::Drain) } else { endpoint }
    }

    /// Makes the endpoint of this node over HTTP/1.1, with the defaults of
    /// [`HttpBackend`](crate::HttpBackend).
    ///
    /// # Errors
    /// [`InvalidEndpoint`](crate::backend::http1::InvalidEndpoint) for an address that the backend
    /// does not accept.
    #[cfg(feature = "client")]
    pub fn http(&self) -> Result<Endpoint<crate::HttpBackend>, crate::backend::http1::InvalidEndpoint> {
        Ok(self.apply_to(Endpoint::http(self.id.as_str(), &self.address)?))
    }

    /// Returns whether both nodes have the same address and settings. The source is not compared,
    /// because a node that registers under a new name is the same node.
    pub(super) fn has_same_settings(&self, other: &DiscoveredNode) -> bool {
        *self == other.clone().with_source(self.source.as_str())
    }
}

/// The error for a text that is not the address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a node: expected host:port, 1.2.3.4:port or [v6]:port")]
pub struct InvalidNode(String);

impl InvalidNode {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}

/// Returns the normal form of an address: host names in lower case, IP addresses as the standard
/// library formats them.
fn normalise(address: &str) -> Option<String> {
    if let Ok(socket) = address.parse::<SocketAddr>() {
        return (socket.port() != 0).then(|| socket.to_string());
    }
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let in_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let valid = !host.is_empty() && host.len() <= 249 && host.bytes().all(in_label);
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
    fn an_invalid_address_is_an_error_that_shows_the_expected_form() {
        let long = format!("{}:1", "a".repeat(250));
        for address in ["", "a", "a:", ":1", "a:0", "a:65536", "a b:1", "a/b:1", "u@a:1", "::1:1", "a\n:1", &long] {
            let error = DiscoveredNode::new(address).unwrap_err().to_string();
            assert!(error.contains("expected host:port"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected_and_a_normal_form_is_stable(
            text in "\\PC{0,300}|[a-zA-Z0-9._\\[\\]-]{0,9}:[0-9]{1,6}",
        ) {
            if let Ok(node) = DiscoveredNode::new(&text) {
                let again = DiscoveredNode::new(node.address()).unwrap();
                prop_assert_eq!(again.address(), node.address());
            }
        }
    }
}
