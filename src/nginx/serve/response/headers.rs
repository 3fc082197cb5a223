//! The headers that are added to a response, in the order of nginx's filters: `more_set_headers`,
//! `expires`, `add_header`, `charset`.

use http::{HeaderValue, Response, StatusCode};

use crate::Body;
use crate::nginx::directives::settings::{AddHeader, BlockSettings, Lifetime, adds_to};
use crate::nginx::serve::access_log::PendingRequest;
use crate::nginx::variables::{Outcome, Scope, Unsendable};

/// The headers of a block, with the values that do not depend on the response.
pub(super) struct HeaderFilters<'s> {
    settings: &'s BlockSettings,
    more: Lines<'s>,
    added: Lines<'s>,
    /// The lifetime of `expires`, unless it depends on the response.
    lifetime: Option<Lifetime>,
}

/// The directives of a block, and the value of each; `None` if it is empty or depends on the
/// response.
type Lines<'s> = Vec<(&'s AddHeader, Option<HeaderValue>)>;

/// The request whose variables show its response.
pub(super) enum Variables<'r> {
    OfSite(&'r Scope<'r>),
    OfNode(&'r PendingRequest),
}

impl<'s> HeaderFilters<'s> {
    /// Computes the values that do not depend on the response.
    ///
    /// # Errors
    /// [`Unsendable`] if one of them cannot be sent.
    pub(super) fn new(settings: &'s BlockSettings, scope: &Scope<'_>) -> Result<Self, Unsendable> {
        let lifetime = settings.expires.as_ref().filter(|expires| !expires.needs_outcome());
        Ok(HeaderFilters {
            settings,
            more: lines(&settings.more_headers.set, scope)?,
            added: lines(&settings.add_headers, scope)?,
            lifetime: lifetime.map(|expires| expires.lifetime(scope)),
        })
    }

    /// Changes the headers of a response. A value that depends on the response and cannot be sent
    /// is left out, because the request has already been served.
    pub(super) fn apply(self, response: &mut Response<Body>, variables: Option<Variables<'_>>) {
        let variables = variables.as_ref();
        let adds = adds_to(response.status().as_u16());
        let set = with_late_values(self.more, response, variables);
        for name in &self.settings.more_headers.removed {
            response.headers_mut().remove(name);
        }
        append(set, response);
        let late = self.settings.expires.as_ref().filter(|expires| expires.needs_outcome());
        let late = late.and_then(|expires| Some(variables?.read(response, |scope| expires.lifetime(scope))));
        if let Some(lifetime) = late.or(self.lifetime).filter(|_| adds) {
            lifetime.apply(response.headers_mut());
        }
        append(with_late_values(self.added, response, variables), response);
        // As in nginx, redirects keep their type (`ngx_http_set_charset`).
        if !matches!(response.status(), StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND) {
            self.settings.charset.apply(response.headers_mut());
        }
    }
}

fn lines<'s>(lines: &'s [AddHeader], scope: &Scope<'_>) -> Result<Lines<'s>, Unsendable> {
    let value = |line: &'s AddHeader| match line.value.needs_outcome() {
        true => Ok((line, None)),
        false => Ok((line, line.value.to_header(scope)?)),
    };
    lines.iter().map(value).collect()
}

/// Adds the values that depend on the response.
fn with_late_values<'s>(
    mut lines: Lines<'s>,
    response: &Response<Body>,
    variables: Option<&Variables<'_>>,
) -> Lines<'s> {
    if let Some(variables) = variables.filter(|_| lines.iter().any(|(line, _)| line.value.needs_outcome())) {
        variables.read(response, |scope| {
            for (line, value) in lines.iter_mut().filter(|(line, _)| line.value.needs_outcome()) {
                *value = line.value.to_header(scope).ok().flatten();
            }
        });
    }
    lines
}

fn append(lines: Lines<'_>, response: &mut Response<Body>) {
    let status = response.status().as_u16();
    for (line, value) in lines.into_iter().filter(|(line, _)| line.applies_to(status)) {
        if line.replaces() {
            response.headers_mut().remove(&line.name);
        }
        response.headers_mut().extend(value.map(|value| (line.name.clone(), value)));
    }
}

impl Variables<'_> {
    fn read<R>(&self, response: &Response<Body>, read: impl FnOnce(&Scope<'_>) -> R) -> R {
        match self {
            Variables::OfSite(scope) => {
                let outcome =
                    Outcome { sent: Some(response.headers()), ..Outcome::of_site(response.status().as_u16()) };
                read(&Scope { outcome: Some(outcome), ..**scope })
            }
            Variables::OfNode(pending) => {
                pending.sent(response);
                pending.with(read)
            }
        }
    }
}
