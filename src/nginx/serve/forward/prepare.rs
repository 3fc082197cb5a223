//! Adds the extensions that the proxy and the policy of the upstream read.

use bytes::Bytes;
use http::Extensions;
use http::header::{self, HeaderValue};

use crate::nginx::directives::location::ProxyPass;
use crate::nginx::directives::settings::BlockSettings;
use crate::nginx::directives::upstream::{Method, Sticky, Upstream};
use crate::nginx::serve::clusters::UpstreamKey;
use crate::nginx::variables::Scope;
use crate::proxy::{ErrorResponse, HeaderEdits};
use crate::session::SessionRoute;

/// Adds the extensions that the proxy and the policy read.
pub(super) fn prepare(
    settings: &BlockSettings,
    pass: &ProxyPass,
    upstream: &Upstream,
    scope: &Scope<'_>,
    extensions: &mut Extensions,
) -> Result<(), ErrorResponse> {
    let mut edits = HeaderEdits::default();
    let mut has_host = scope.headers.get(header::HOST).is_some_and(|host| !host.is_empty());
    for header in settings.set_headers.iter() {
        let value = header.value.to_header(scope)?;
        if header.name == header::HOST {
            has_host = value.is_some();
        }
        edits = match value {
            Some(value) if header.is_another => edits.append(header.name.clone(), value),
            Some(value) => edits.set(header.name.clone(), value),
            None if header.is_another => edits,
            None => edits.remove(header.name.clone()),
        };
    }
    // HTTP/1.1 requires the header `Host`.
    if !has_host && let Ok(host) = HeaderValue::from_str(&pass.host) {
        edits = edits.set(header::HOST, host);
    }
    if !edits.is_empty() {
        extensions.insert(edits);
    }
    if let Method::Hash { key, .. } = &upstream.method {
        extensions.insert(UpstreamKey(Bytes::from(key.to_bytes(scope))));
    }
    if let Some(Sticky::Route(variables)) = &upstream.sticky {
        let mut values = variables.iter().map(|variable| variable.value(scope));
        if let Some(route) = values.find(|value| !value.is_empty()) {
            extensions.insert(SessionRoute::new(route));
        }
    }
    Ok(())
}
