//! The location or server that serves a request.

use http::header::CONTENT_LENGTH;

use crate::nginx::directives::location::Location;
use crate::nginx::directives::reply::Reply;
use crate::nginx::variables::Scope;

/// The location or server that serves a request. The settings of the location apply, or those of
/// the server if there is none.
pub(super) enum Destination<'s> {
    Location(&'s Location),
    /// The location is `internal`, and the request comes from the client.
    Internal(&'s Location),
    /// The declared length of the body is over the limit of the location.
    TooLong(&'s Location),
    /// The path lacks the trailing slash of the location.
    AddSlash(&'s Location),
    Return(&'s Reply, Option<&'s Location>),
    /// A `rewrite` redirects the client with this status.
    Redirect(u16, Vec<u8>, Option<&'s Location>),
}

impl<'s> Destination<'s> {
    /// Returns the location whose settings apply.
    pub(super) fn location(&self) -> Option<&'s Location> {
        match *self {
            Destination::Location(location)
            | Destination::Internal(location)
            | Destination::TooLong(location)
            | Destination::AddSlash(location) => Some(location),
            Destination::Return(_, location) | Destination::Redirect(_, _, location) => location,
        }
    }

    /// Returns whether two readings of a path lead to the same response or node.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        use Destination as D;

        let is_same = |one: Option<&Location>, other: Option<&Location>| match (one, other) {
            (Some(one), Some(other)) => std::ptr::eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let is_same_response = match (self, other) {
            (D::Location(_), D::Location(_))
            | (D::Internal(_), D::Internal(_))
            | (D::TooLong(_), D::TooLong(_))
            | (D::AddSlash(_), D::AddSlash(_)) => true,
            (D::Return(one, _), D::Return(other, _)) => std::ptr::eq(*one, *other),
            (D::Redirect(one, ..), D::Redirect(other, ..)) => one == other,
            (D::Location(_) | D::Internal(_) | D::TooLong(_) | D::AddSlash(_) | D::Return(..) | D::Redirect(..), _) => {
                false
            }
        };
        is_same_response && is_same(self.location(), other.location())
    }

    /// Returns whether the destination may keep the request from the nodes.
    pub(super) fn protects(&self) -> bool {
        match self {
            Destination::Location(location) => location.protects(),
            Destination::Internal(_) | Destination::TooLong(_) => true,
            Destination::Return(reply, _) => reply.status >= 400,
            Destination::AddSlash(_) | Destination::Redirect(..) => false,
        }
    }
}

/// Returns whether the declared length of a body is over the limit of a location.
///
/// nginx checks this before the steps of the location, which may respond
/// (`ngx_http_core_find_config_phase`).
pub(super) fn is_too_long(location: &Location, scope: &Scope<'_>) -> bool {
    let length = scope.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    location.settings.max_body().zip(length).is_some_and(|(max, length)| length > max)
}
