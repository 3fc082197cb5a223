use std::borrow::Cow;

use http::StatusCode;

/// The error for a request that is not served.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: Cow<'static, str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Refusal { status, message: message.into() }
    }
}
