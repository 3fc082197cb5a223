//! Admits a request to its location, or refuses it, and prepares it for the proxy.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::CONTENT_LENGTH;
use http::{Extensions, StatusCode, Uri};

use super::admit::{PassedChecks, Pause, Refused, admit};
use super::prepare::prepare;
use crate::nginx::directives::location::{Action, Location, PassUri, is_plain};
use crate::nginx::readings::RequestPaths;
use crate::nginx::serve::SiteParts;
use crate::nginx::serve::access_log::PendingRequest;
use crate::nginx::serve::response::{BAD_PATH, NOT_FOUND, ResponseEdits};
use crate::nginx::serve::routes::Route;
use crate::nginx::uri::with_slash;
use crate::nginx::variables::{MapValues, Scope};
use crate::observe;
use crate::proxy::{ErrorResponse, Proxy};

const LEFT_OUT: ErrorResponse = ErrorResponse::new(
    StatusCode::NOT_FOUND,
    "what the configuration serves at this path is not served by this front end",
);

/// The action of a location for a request that it does not refuse.
pub(super) enum Admitted<'s> {
    Pause(Pause),
    Forward {
        proxy: &'s Proxy,
        edits: ResponseEdits<'s>,
        pending: Option<Arc<PendingRequest>>,
        /// The URI for the node, if it differs from that of the request.
        uri: Option<Box<Uri>>,
    },
}

/// The target of a request after the steps of its server and location.
pub(super) struct Current<'r> {
    pub(super) uri: &'r str,
    /// The path as nginx reads it, with its `;parameters`.
    pub(super) decoded: &'r [u8],
    /// The paths that the node may read.
    pub(super) paths: &'r RequestPaths<'r>,
    pub(super) ignores_pass_uri: bool,
    /// The URI that `rewrite` took from `$request_uri`.
    pub(super) raw_uri: Option<&'r str>,
    /// The request as nginx reads it, if the path has `;parameters`.
    pub(super) as_written: Option<&'r Scope<'r>>,
}

impl Current<'_> {
    /// Returns whether all applications read the same path.
    fn is_certain(&self) -> bool {
        let raw_is_certain = |raw| RequestPaths::of(&with_slash(raw), false).is_some_and(|paths| paths.is_certain());
        self.raw_uri.map_or(self.paths.is_certain(), raw_is_certain)
    }
}

/// Admits a request to a location, in the order of nginx's phases, and prepares it for the proxy.
pub(super) fn pass<'s>(
    site: &'s SiteParts,
    location: &'s Location,
    current: &Current<'_>,
    scope: &Scope<'_>,
    extensions: &mut Extensions,
    passed: &mut PassedChecks,
) -> Result<Admitted<'s>, Refused> {
    let settings = &location.settings;
    if let Some(pause) = admit(settings, scope, passed)? {
        return Ok(Admitted::Pause(pause));
    }
    let Route { proxy, declared, is_of_kylin, timeouts, logs, addresses, shows_outcome, .. } =
        &site.routes[location.number];
    let Action::Proxy(pass) = &location.action else { return Err(LEFT_OUT.into()) };
    let declared = declared.as_ref().filter(|_| scope.headers.contains_key(CONTENT_LENGTH));
    let Some(proxy) = declared.or(proxy.as_ref()) else { return Err(NOT_FOUND.into()) };
    if *is_of_kylin && !current.is_certain() {
        return Err(BAD_PATH.into());
    }
    let upstream = &site.config.upstreams[pass.upstream];
    let proxy_default_port = if matches!(upstream.passed, Some(Some(_))) { "443" } else { "80" };
    let scope = Scope { proxy_host: &pass.host, proxy_default_port, ..*scope };
    let sent = match &pass.uri {
        PassUri::Original => Cow::Borrowed(scope.request_uri),
        PassUri::Variables if current.raw_uri.is_some() => Cow::Owned(pass.raw_uri(&scope).ok_or(BAD_PATH)?),
        PassUri::Variables => Cow::Owned(pass.uri_of_variables(&scope, current.as_written).ok_or(BAD_PATH)?),
        PassUri::Normalised { query: false } if current.raw_uri.is_some() => {
            Cow::Borrowed(current.raw_uri.filter(|uri| is_plain(uri)).ok_or(BAD_PATH)?)
        }
        PassUri::Replace { .. } if current.ignores_pass_uri => Cow::Borrowed(current.uri),
        PassUri::Unchanged | PassUri::Replace { .. } | PassUri::Normalised { .. } => {
            pass.upstream_uri(current.uri, current.decoded, current.paths).ok_or(BAD_PATH)?
        }
    };
    // nginx would send a target without the slash that a `rewrite` has removed. No server reads
    // that as a path.
    if !sent.starts_with('/') {
        return Err(BAD_PATH.into());
    }
    let uri = match sent {
        Cow::Borrowed(same) if same == scope.request_uri => None,
        sent => Some(Box::new(sent.parse().map_err(|_| BAD_PATH)?)),
    };
    prepare(settings, pass, upstream, &scope, extensions)?;
    // nginx reads the variables when there is a response, and only if no error page replaces it.
    let values = scope.map_values.map(MapValues::fork);
    let edits = ResponseEdits::new(settings, pass, &Scope { map_values: values.as_ref(), ..scope })?;
    if let Some(timeouts) = timeouts {
        extensions.insert(*timeouts);
    }
    // The id is set before the headers that show it, so that logs show the same id.
    let is_shown = scope.id.is_some_and(|id| id.made().is_some());
    let pending = PendingRequest::begin(logs, &scope, addresses, passed.waited, *shows_outcome);
    let made = scope.id.and_then(|id| observe::RequestId::new(id.made()?));
    if let Some(id) = made.filter(|_| is_shown || !scope.headers.contains_key("x-request-id")) {
        extensions.insert(id);
    }
    if let Some(pending) = &pending {
        pending.observe(extensions);
    }
    Ok(Admitted::Forward { proxy, edits, pending, uri })
}
