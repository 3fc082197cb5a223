//! What `HttpBackend` is without the feature `client`: a name that no value has, so that the type parameters that
//! default to it mean the same in every build.

use http::{Request, Response};

use super::{Backend, SendError};
use crate::body::Body;

/// Needs the feature `client`. Without it no value of this type can be made; name your own [`Backend`] instead.
#[derive(Debug)]
pub struct HttpBackend(Never);

#[derive(Debug)]
enum Never {}

impl Backend for HttpBackend {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        match self.0 {}
    }
}
