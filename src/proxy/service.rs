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

/// A [`Proxy`] as a [`tower::Service`](tower_service::Service), to mount in a router. Never fails.
///
/// A service gets a request without its peer, so the host says where in the request's extensions the address is: axum, for
/// one, puts a `ConnectInfo<SocketAddr>` there. A [`ClientAddr`] in the extensions is found without that. Where there is
/// none the client counts as the peer of a unix socket, and policies by address put all such clients on one endpoint.
pub struct ProxyService<B = HttpBackend> {
    proxy: Proxy<B>,
    peer: fn(&Extensions) -> Option<ClientAddr>,
}

impl<B: Backend> Proxy<B> {
    /// The proxy as a service; `peer` finds the address of a request's sender.
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

    /// Always ready: a request that no endpoint can take is answered, not held back.
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
