//! HTTP/1.1 to a node.

/// A node reached over HTTP/1.1.
#[derive(Debug)]
pub struct HttpBackend {}
