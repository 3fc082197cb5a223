//! Stands in for `HttpBackend` without the feature `client`, so that type parameters have the same
//! default in every build.

use http::{Request, Response};

use super::{Backend, SendError};
use crate::body::Body;

/// Needs the feature `client`. Without it, this type has no values; name another [`Backend`]
/// instead.
#[derive(Debug)]
pub enum HttpBackend {}

impl Backend for HttpBackend {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        match *self {}
    }
}
