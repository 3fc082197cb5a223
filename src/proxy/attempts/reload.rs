//! Asks a node whether the client of a reload call is an administrator.

use http::header::{self, HeaderMap};
use http::{HeaderName, Request, StatusCode, Uri};

use super::{Attempts, Inner, forward};
use crate::backend::Backend;
use crate::body::Body;
use crate::kylin::fan_out::Merge;
use crate::maybe_ready::BoxFuture;
use crate::proxy::ErrorResponse;
use crate::proxy::rules::{ADMINISTRATOR_QUESTION, CLOSED_PATH, ReloadAccess, ReloadCall, may_count};
use crate::request::ClientAddr;

/// A configuration has some ten KiB.
const MAX_CONFIG: u64 = 4 << 20;

/// What of a reload call the question carries: who calls, and at which name of the front end.
static COPIED: [HeaderName; 4] = [header::HOST, header::AUTHORIZATION, header::COOKIE, header::USER_AGENT];

impl<B: Backend> Attempts<'_, B> {
    /// Returns how the responses to a reload call that goes to all nodes are merged.
    pub(super) fn reload_merge(&self) -> Option<Merge> {
        matches!(self.reload, Some((ReloadCall::Config, _))).then_some(Merge::Worst)
    }

    /// Admits a reload call of a client that may make it.
    pub(super) async fn admit_reload(&self, headers: &HeaderMap) -> Result<(), ErrorResponse> {
        let Some((_, ReloadAccess::Administrators)) = self.reload else { return Ok(()) };
        let client = self.context.client();
        if may_count(&self.context, headers) && is_administrator(self.proxy, client, headers).await {
            return Ok(());
        }
        tracing::info!(client = ?client.ip(), "reload denied: the client is not known to be an administrator");
        Err(CLOSED_PATH)
    }
}

/// Returns whether the node of the client's session, or one that checks its credentials, responds as only to an administrator. The
/// question is a request of the client like any other, so its session is found and a failed node passed over.
///
/// The type is named, because `forward` contains this future.
fn is_administrator<'a, B: Backend>(
    proxy: &'a Inner<B>,
    client: ClientAddr,
    headers: &HeaderMap,
) -> BoxFuture<'a, bool> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static(ADMINISTRATOR_QUESTION);
    for name in &COPIED {
        if let Some(value) = headers.get(name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    // HTTP/1.0 may do without a host.
    *request.version_mut() = http::Version::HTTP_10;
    Box::pin(async move {
        let response = forward(proxy, client, request).await;
        if response.status() != StatusCode::OK {
            return false;
        }
        let Ok(body) = response.into_body().collect_up_to(MAX_CONFIG).await else { return false };
        // A page of any server may have the status 200.
        let json: Result<serde_json::Value, _> = serde_json::from_slice(&body);
        json.is_ok_and(|json| json["config"].is_string())
    })
}
