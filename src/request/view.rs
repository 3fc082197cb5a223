use std::fmt;

use http::{Extensions, HeaderMap, Method, Uri};

use super::{ClientAddr, QueryKeys};
use crate::cookie;
use crate::kylin::node::role::Role;

/// The head of a request and the address of its client, borrowed for one pick.
#[derive(Clone, Copy)]
pub struct RequestView<'r> {
    method: &'r Method,
    uri: &'r Uri,
    headers: &'r HeaderMap,
    extensions: &'r Extensions,
    client: ClientAddr,
    role: Option<Role>,
    query: Option<QueryKeys>,
    past_limits: bool,
    passes_flood: bool,
}

impl<'r> RequestView<'r> {
    /// Returns a view of `head`, sent by `client`.
    pub fn new(head: &'r http::request::Parts, client: impl Into<ClientAddr>) -> Self {
        Self::of_parts(&head.method, &head.uri, &head.headers, &head.extensions, client.into())
    }

    /// Returns a view of `request`, sent by `client`.
    pub fn of<B>(request: &'r http::Request<B>, client: impl Into<ClientAddr>) -> Self {
        Self::of_parts(request.method(), request.uri(), request.headers(), request.extensions(), client.into())
    }

    fn of_parts(
        method: &'r Method,
        uri: &'r Uri,
        headers: &'r HeaderMap,
        extensions: &'r Extensions,
        client: ClientAddr,
    ) -> Self {
        RequestView {
            method,
            uri,
            headers,
            extensions,
            client,
            role: None,
            query: None,
            past_limits: false,
            passes_flood: false,
        }
    }

    /// Returns the view of a request that only an endpoint with `role` may serve; with `None` any
    /// endpoint may.
    #[must_use]
    pub fn with_role(mut self, role: Option<Role>) -> Self {
        self.role = role;
        self
    }

    /// Returns the view of a request that carries the query with these keys.
    #[must_use]
    pub fn with_query(mut self, keys: QueryKeys) -> Self {
        self.query = Some(keys);
        self
    }

    /// Returns the view of a request for which full endpoints are eligible, because it waits for a
    /// slot or needs none.
    pub(crate) fn with_past_limits(mut self, past_limits: bool) -> Self {
        self.past_limits = past_limits;
        self
    }

    /// Returns the view of a request that gets a slot before waiting requests of users with more
    /// than eight shares.
    pub(crate) fn with_passes_flood(mut self, passes: bool) -> Self {
        self.passes_flood = passes;
        self
    }

    /// Returns whether loads are compared without the waiting requests of users with more than
    /// eight shares.
    pub(crate) fn passes_flood(&self) -> bool {
        self.passes_flood
    }

    /// Returns whether full endpoints are eligible.
    pub(crate) fn past_limits(&self) -> bool {
        self.past_limits
    }

    /// Returns the role that an endpoint needs to serve the request; `None` if any endpoint may.
    pub fn role(&self) -> Option<Role> {
        self.role
    }

    /// Returns the method.
    pub fn method(&self) -> &'r Method {
        self.method
    }

    /// Returns the target, as it goes to the node.
    pub fn uri(&self) -> &'r Uri {
        self.uri
    }

    /// Returns the headers, as they go to the node.
    pub fn headers(&self) -> &'r HeaderMap {
        self.headers
    }

    /// Returns the extensions that the application attached to the request.
    pub fn extensions(&self) -> &'r Extensions {
        self.extensions
    }

    /// Returns the client's address.
    pub fn client(&self) -> ClientAddr {
        self.client
    }

    /// Returns the keys of the query that the request carries; `None` if it carries none or the
    /// proxy did not read it.
    pub fn query(&self) -> Option<QueryKeys> {
        self.query
    }

    /// Returns the value of the first cookie called `name`, as the client sent it.
    pub fn cookie(&self, name: &str) -> Option<&'r [u8]> {
        cookie::value(self.headers, name)
    }
}

impl fmt::Debug for RequestView<'_> {
    /// Leaves out the headers and the query, which contain credentials and SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestView")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
