//! Asks a node whether the client of a reload call is an administrator.

use http::{HeaderName, Request, Uri, header};

use super::{Attempts, ProxyCore, Sender, forward_from};
use crate::backend::Backend;
use crate::body::Body;
use crate::kylin::class::AUTHENTICATION;
use crate::kylin::fan_out::Merge;
use crate::maybe_ready::BoxFuture;
use crate::proxy::ErrorResponse;
use crate::proxy::rules::{CLOSED_PATH, ReloadAccess, ReloadCall, may_count, names_administrator};
use crate::request::ClientAddr;

/// The longest description of a user that is read, in bytes. It has some hundred, and more with many groups.
const MAX_USER: u64 = 1 << 20;

/// The headers of a reload call that the question carries: who calls, and at which name of the front end.
static COPIED: [HeaderName; 4] = [header::HOST, header::AUTHORIZATION, header::COOKIE, header::USER_AGENT];

impl<B: Backend> Attempts<'_, B> {
    /// Returns how the responses to a reload call that goes to all nodes are merged.
    pub(super) fn reload_merge(&self) -> Option<Merge> {
        matches!(self.reload, Some((ReloadCall::Config, _))).then_some(Merge::Worst)
    }

    /// Admits a reload call of a client that may make it.
    pub(super) async fn admit_reload(&mut self, request: &Request<Body>) -> Result<(), ErrorResponse> {
        let Some((_, ReloadAccess::Administrators)) = self.reload else { return Ok(()) };
        let client = self.context.client();
        if may_count(&self.context, request.headers()) && is_administrator(self.proxy, client, request).await {
            return Ok(());
        }
        tracing::info!(client = ?client.ip(), "reload denied: the client is not known to be an administrator");
        Err(CLOSED_PATH)
    }
}

/// Returns whether the node of the client's session, or one that checks its credentials, names it an administrator. The question goes
/// the way of the call: its session is found, and a failed node passed over. The extensions are those that the call came with, which
/// choose nodes and times.
///
/// The type is named, because `forward` contains this future.
fn is_administrator<'a, B: Backend>(
    proxy: &'a ProxyCore<B>,
    client: ClientAddr,
    call: &Request<Body>,
) -> BoxFuture<'a, bool> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(AUTHENTICATION);
    *request.extensions_mut() = call.extensions().clone();
    for name in &COPIED {
        if let Some(value) = call.headers().get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    // HTTP/1.0 may do without a host.
    *request.version_mut() = http::Version::HTTP_10;
    Box::pin(async move {
        let response = forward_from(proxy, client, Sender::Proxy, request).await;
        let status = response.status();
        let body = response.into_body().collect_up_to(MAX_USER).await;
        body.is_ok_and(|body| names_administrator(status, &body))
    })
}
