//! Asks a node whether the client of a reload call is an administrator.

use http::{HeaderName, Request, Uri, header};

use super::{Attempts, ProxyCore, Sender, forward_from};
use crate::backend::Backend;
use crate::body::{Body, CollectError};
use crate::kylin::class::AUTHENTICATION;
use crate::maybe_ready::BoxFuture;
use crate::proxy::error_response::{ErrorResponse, NO_MEMORY_FOR_RESPONSE};
use crate::proxy::rules::{CLOSED_PATH, ReloadAccess, may_count, names_administrator};
use crate::request::ClientAddr;

/// The maximum length of the description of a user, in bytes. A description has a few hundred
/// bytes, and more if the user has many groups.
const MAX_USER: u64 = 1 << 20;

/// The headers of a reload call that are copied into the request for the user: the credentials, and
/// the host that the client used.
static COPIED: [HeaderName; 4] = [header::HOST, header::AUTHORIZATION, header::COOKIE, header::USER_AGENT];

impl<B: Backend> Attempts<'_, B> {
    /// Admits a reload call if its client may make it.
    pub(super) async fn admit_reload(&mut self, request: &Request<Body>) -> Result<(), ErrorResponse> {
        let Some((_, ReloadAccess::Administrators)) = self.reload else { return Ok(()) };
        let client = self.context.client();
        if may_count(&self.context, request.headers()) && is_administrator(self.proxy, client, request).await? {
            return Ok(());
        }
        if let Some(left_out) = self.proxy.rules.as_ref().and_then(|rules| rules.logs.denied_reload.admit()) {
            let client = client.ip().map(|ip| tracing::field::display(ip.to_canonical()));
            tracing::info!(client, left_out, "reload denied: the client is not known to be an administrator");
        }
        Err(CLOSED_PATH)
    }
}

/// Returns whether a node names the client as an administrator. The request that asks the node is
/// forwarded like the call itself, with session lookup and retries. It has the call's extensions,
/// which may choose nodes and timeouts.
///
/// The type is named, because `forward` contains this future.
///
/// # Errors
/// [`ErrorResponse`] if there is no memory for the response of the node.
fn is_administrator<'a, B: Backend>(
    proxy: &'a ProxyCore<B>,
    client: ClientAddr,
    call: &Request<Body>,
) -> BoxFuture<'a, Result<bool, ErrorResponse>> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(AUTHENTICATION);
    *request.extensions_mut() = call.extensions().clone();
    for name in &COPIED {
        if let Some(value) = call.headers().get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    // HTTP/1.0 allows a request without a host.
    *request.version_mut() = http::Version::HTTP_10;
    Box::pin(async move {
        let response = forward_from(proxy, client, Sender::Proxy, request).await;
        let status = response.status();
        let reservation = proxy.settings.buffers.reservation(client.key());
        match response.into_body().collect_reserved(MAX_USER, reservation).await {
            Ok(body) => Ok(names_administrator(status, &body)),
            Err(CollectError::NoMemory) => Err(NO_MEMORY_FOR_RESPONSE),
            Err(CollectError::Body(_)) => Ok(false),
        }
    })
}
