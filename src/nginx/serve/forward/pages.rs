//! The front end's own responses: `error_page` and `add_header`.

use http::{Response, StatusCode};

use super::script::{Found, Rewritten};
use crate::Body;
use crate::nginx::directives::server::Server;
use crate::nginx::directives::settings::{BlockSettings, ErrorPage};
use crate::nginx::serve::response::{self, NOT_FOUND, Pages};
use crate::nginx::variables::Scope;
use crate::proxy::ErrorResponse;

/// Returns what the client gets for a response without a node: the page for its status if there is one, else the response itself with
/// the headers of `settings`.
pub(super) fn finish(
    mut response: Response<Body>,
    server: &Server,
    settings: &BlockSettings,
    scope: &Scope<'_>,
    may_have_page: bool,
) -> Result<Response<Body>, ErrorResponse> {
    let status = response.status().as_u16();
    if let Some(page) = settings.error_pages.iter().find(|page| may_have_page && page.is_of(status)) {
        if let Some(mut of_page) = of_location(page, server, scope)? {
            set_status(&mut of_page, page, status);
            return Ok(of_page);
        }
        set_status(&mut response, page, status);
    }
    response::add_headers(settings, scope, &mut response)?;
    Ok(response)
}

/// Returns the `error_page` lines that change a response of the proxy, and the responses of their locations.
pub(super) fn of_proxy<'s>(
    server: &Server,
    settings: &'s BlockSettings,
    scope: &Scope<'_>,
) -> Result<Pages<'s>, ErrorResponse> {
    let pages = settings.error_pages.iter().filter(|page| page.has_effect());
    pages.map(|page| Ok((page, of_location(page, server, scope)?))).collect()
}

/// Returns the response of the named location of a page; `None` for a page without one.
fn of_location(page: &ErrorPage, server: &Server, scope: &Scope<'_>) -> Result<Option<Response<Body>>, ErrorResponse> {
    let Some(location) = page.named.as_ref().and_then(|name| server.locations.named_reply(name)) else {
        return Ok(None);
    };
    let mut rewritten = Rewritten::of(scope);
    let found = rewritten.run_named(location, scope)?;
    let scope = rewritten.scope(scope);
    let (mut response, at) = match found {
        Found::Return(reply, at) => {
            let at = at.unwrap_or(location);
            (response::reply(reply, &at.settings, &scope)?, at)
        }
        Found::Redirect(status, to, at) => (response::redirect_to(status, to, &scope)?, at.unwrap_or(location)),
        Found::Location(_) | Found::AddSlash(_) => return Err(NOT_FOUND),
    };
    response::add_headers(&at.settings, &scope, &mut response)?;
    Ok(Some(response))
}

fn set_status(response: &mut Response<Body>, page: &ErrorPage, of_error: u16) {
    let status = page.status(of_error, response.status().as_u16());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
}
