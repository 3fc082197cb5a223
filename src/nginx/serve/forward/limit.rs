//! The limit on internal redirects.

use http::StatusCode;

use crate::proxy::ErrorResponse;

/// The maximum number of internal redirects of a request, as in nginx (`NGX_HTTP_MAX_URI_CHANGES`).
const MAX_REDIRECTS: u8 = 10;

const CYCLE: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the configuration leads the request in a circle");

/// The number of internal redirects that a request has left.
///
/// A `rewrite`, `try_files` or an error page that leads to another location spends one. So no
/// configuration can cause an endless redirection cycle.
#[derive(Debug, Clone)]
pub(super) struct RedirectsLeft(u8);

impl Default for RedirectsLeft {
    fn default() -> Self {
        RedirectsLeft(MAX_REDIRECTS)
    }
}

impl RedirectsLeft {
    /// Counts an internal redirect.
    ///
    /// # Errors
    /// The request has no redirect left.
    pub(super) fn spend(&mut self) -> Result<(), ErrorResponse> {
        self.0 = self.0.checked_sub(1).ok_or(CYCLE)?;
        Ok(())
    }
}
