//! What a policy may read of a request: a borrowed view, so that choosing an endpoint never touches the body and never
//! allocates.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, Method, Uri};

use crate::cookie;
use crate::kylin::node::role::Role;
pub use crate::kylin::query::QueryKeys;

/// Who sent a request: the peer of the connection, or whom a trusted proxy in front says it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAddr {
    /// An IP address, with port 0 where only the address is known.
    Inet(SocketAddr),
    /// The peer of a unix socket, which has no address.
    Unix,
}

impl ClientAddr {
    /// The IP address; none on a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            ClientAddr::Inet(addr) => Some(addr.ip()),
            ClientAddr::Unix => None,
        }
    }
}

impl From<SocketAddr> for ClientAddr {
    fn from(addr: SocketAddr) -> Self {
        ClientAddr::Inet(addr)
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        ClientAddr::Inet(SocketAddr::new(ip, 0))
    }
}

/// The head of a request and its client's address, borrowed for one pick.
#[derive(Clone, Copy)]
pub struct RequestView<'r> {
    method: &'r Method,
    uri: &'r Uri,
    headers: &'r HeaderMap,
    extensions: &'r Extensions,
    client: ClientAddr,
    role: Option<Role>,
    query: Option<QueryKeys>,
}

impl<'r> RequestView<'r> {
    /// A view of `head` as sent by `client`.
    pub fn new(head: &'r http::request::Parts, client: impl Into<ClientAddr>) -> Self {
        RequestView {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            extensions: &head.extensions,
            client: client.into(),
            role: None,
            query: None,
        }
    }

    /// A view of `request` as sent by `client`.
    pub fn of<B>(request: &'r http::Request<B>, client: impl Into<ClientAddr>) -> Self {
        RequestView {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
            client: client.into(),
            role: None,
            query: None,
        }
    }

    /// The same request, to be served only by an endpoint that has `role`.
    #[must_use]
    pub fn needs(mut self, role: Option<Role>) -> Self {
        self.role = role;
        self
    }

    /// The role that an endpoint must have to serve the request, if any will not do.
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// The same view, of a request that carries a query known by `keys`.
    #[must_use]
    pub fn with_query(mut self, keys: QueryKeys) -> Self {
        self.query = Some(keys);
        self
    }

    /// The method.
    pub fn method(&self) -> &'r Method {
        self.method
    }

    /// The target, as it goes to the node.
    pub fn uri(&self) -> &'r Uri {
        self.uri
    }

    /// The header fields.
    pub fn headers(&self) -> &'r HeaderMap {
        self.headers
    }

    /// What the host attached to the request.
    pub fn extensions(&self) -> &'r Extensions {
        self.extensions
    }

    /// The client's address.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// By what to know the query that the request carries; none when it carries none, or nobody has read it.
    pub fn query(&self) -> Option<QueryKeys> {
        self.query
    }

    /// The value of the first cookie called `name`, as the client sent it.
    pub fn cookie(&self, name: &str) -> Option<&'r [u8]> {
        cookie::value(self.headers, name)
    }
}

impl fmt::Debug for RequestView<'_> {
    /// Leaves out the header fields and the query, which hold credentials and SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestView")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
