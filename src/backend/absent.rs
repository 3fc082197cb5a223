//! Replaces `HttpBackend` without the feature `client`, so that type parameters have the same
//! default in every build.

use http::{Request, Response};

use super::{Backend, SendError};
use crate::body::Body;

/// A placeholder without values; the real type needs the feature `client`. Without that feature,
/// name another [`Backend`].
#[derive(Debug)]
pub enum HttpBackend {}

impl Backend for HttpBackend {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        match *self {}
    }
}
