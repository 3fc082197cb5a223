use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use tower_service::Service;

use super::Proxy;
use crate::backend::{Backend, HttpBackend};
use crate::body::{Body, BoxError};
use crate::request::ClientAddr;

/// A [`Proxy`] as a [`tower::Service`](tower_service::Service), for mounting in a router: see
/// [`Proxy::service`]. It never returns an error.
///
/// A `tower::Service` gets no peer address. So the proxy reads it from the request's extensions
/// with the function that [`Proxy::service`] takes. axum, for example, stores a
/// `ConnectInfo<SocketAddr>` there. If the function returns `None`, the proxy uses a [`ClientAddr`]
/// in the extensions. Without either, it treats the client as the peer of a unix socket, and
/// policies by address send all such clients to one endpoint.
pub struct ProxyService<B = HttpBackend> {
    proxy: Proxy<B>,
    peer: fn(&Extensions) -> Option<ClientAddr>,
}

impl<B: Backend> Proxy<B> {
    /// Returns the proxy as a service. `peer` reads the client's address from a request's
    /// extensions.
    ///
    /// ```
    /// # fn mount<B: kylin_lb::Backend>(proxy: kylin_lb::Proxy<B>) {
    /// use kylin_lb::ClientAddr;
    ///
    /// let service = proxy.service(|extensions| extensions.get::<ClientAddr>().copied());
    /// # }
    /// ```
    pub fn service(&self, peer: fn(&Extensions) -> Option<ClientAddr>) -> ProxyService<B> {
        ProxyService { proxy: self.clone(), peer }
    }
}

impl<B, R> Service<Request<R>> for ProxyService<B>
where
    B: Backend,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    /// Always returns ready: a request that no endpoint can serve gets an error response.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let extensions = request.extensions();
        let peer = (self.peer)(extensions).or_else(|| extensions.get().copied()).unwrap_or(ClientAddr::Unix);
        let proxy = self.proxy.clone();
        let request = request.map(Body::new);
        Box::pin(async move { Ok(proxy.forward(peer, request).await) })
    }
}

impl<B> Clone for ProxyService<B> {
    fn clone(&self) -> Self {
        ProxyService { proxy: self.proxy.clone(), peer: self.peer }
    }
}

impl<B> fmt::Debug for ProxyService<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProxyService").field(&self.proxy).finish()
    }
}
