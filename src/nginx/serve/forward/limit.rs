//! The limit on internal redirects.

use http::StatusCode;

use crate::proxy::ErrorResponse;

/// The internal redirects that a request may have, as in nginx (`NGX_HTTP_MAX_URI_CHANGES`).
const MAX_REDIRECTS: u8 = 10;

const CYCLE: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "the configuration leads the request in a circle");

/// The internal redirects that a request may still have. Whatever leads it to another location spends one: a `rewrite`, `try_files` or
/// an error page. So no configuration leads a request in a circle for ever.
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
    /// There have been too many.
    pub(super) fn spend(&mut self) -> Result<(), ErrorResponse> {
        self.0 = self.0.checked_sub(1).ok_or(CYCLE)?;
        Ok(())
    }
}
