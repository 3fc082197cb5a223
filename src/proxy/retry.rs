use std::time::Duration;

use http::{Method, StatusCode};

use crate::backend::SendErrorKind;

/// When a request goes on to another endpoint (nginx: `proxy_next_upstream`).
///
/// A request is never sent to an endpoint on which it was tried already, but for once when a kept connection ended under it:
/// that says nothing of the node, and a fresh connection is tried first. One that was certainly not processed may go on
/// whatever its method. One that may have been processed goes on only if its method is idempotent (RFC 9110, 9.2.2) and
/// its body, if any, was short enough to be kept; POST, LOCK and PATCH are not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct RetryPolicy {
    pub(super) error: bool,
    pub(super) timeout: bool,
    pub(super) invalid: bool,
    pub(super) statuses: Vec<StatusCode>,
    pub(super) non_idempotent: bool,
    pub(super) tries: u32,
    pub(super) max_elapsed: Option<Duration>,
}

impl Default for RetryPolicy {
    /// nginx's default, `error timeout` without limits of tries or time, and answers that are not HTTP as well.
    fn default() -> Self {
        RetryPolicy {
            error: true,
            timeout: true,
            invalid: true,
            statuses: Vec::new(),
            non_idempotent: false,
            tries: 0,
            max_elapsed: None,
        }
    }
}

impl RetryPolicy {
    /// Never.
    pub fn off() -> Self {
        RetryPolicy { error: false, timeout: false, invalid: false, ..RetryPolicy::default() }
    }

    /// On failed connections, before or after the request was sent.
    pub fn on_error(mut self, on: bool) -> Self {
        self.error = on;
        self
    }

    /// On connections or answers that do not come in time. A request that takes long is then tried on one endpoint after
    /// the other, each for the whole timeout.
    pub fn on_timeout(mut self, on: bool) -> Self {
        self.timeout = on;
        self
    }

    /// On answers that are not HTTP.
    pub fn on_invalid(mut self, on: bool) -> Self {
        self.invalid = on;
        self
    }

    /// On an answer of `status`. Going on counts as a failure of the endpoint unless the status is 403 or 404. When the
    /// request may not be repeated, or no other endpoint is left, the answer is passed on and counts as a success.
    pub fn on_status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self
    }

    /// Also requests that may have been processed and whose method is not idempotent. A POST may then be executed twice.
    pub fn non_idempotent(mut self, on: bool) -> Self {
        self.non_idempotent = on;
        self
    }

    /// How many endpoints are tried at most; 0, the default, is no limit.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// For how long after the first try another one may begin. Default: no limit.
    pub fn max_elapsed(mut self, limit: Option<Duration>) -> Self {
        self.max_elapsed = limit;
        self
    }

    /// May a request that failed in `phase` go on, as far as the kind of failure is concerned?
    pub(super) fn covers(&self, phase: SendErrorKind) -> bool {
        match phase {
            SendErrorKind::Connect | SendErrorKind::Refused | SendErrorKind::Broken | SendErrorKind::Stale => {
                self.error
            }
            SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout => self.timeout,
            SendErrorKind::Invalid => self.invalid,
            SendErrorKind::Limit => true,
            SendErrorKind::RequestBody => false,
        }
    }

    /// Does `status` count against the endpoint?
    pub(super) fn counts(&self, status: StatusCode) -> bool {
        self.is_listed(status) && !matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
    }

    pub(super) fn is_listed(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }

    /// May a request that a node may have processed be sent again?
    pub(super) fn repeats(&self, method: &Method) -> bool {
        // nginx's rule, which is RFC 9110's for the methods it names, and trusts unknown methods.
        self.non_idempotent || !matches!(method.as_str(), "POST" | "LOCK" | "PATCH")
    }

    pub(super) fn is_off(&self) -> bool {
        !(self.error || self.timeout || self.invalid) && self.statuses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_lets_nothing_go_on_but_a_full_endpoint() {
        let off = RetryPolicy::off();
        for phase in [
            SendErrorKind::Connect,
            SendErrorKind::ConnectTimeout,
            SendErrorKind::Refused,
            SendErrorKind::Broken,
            SendErrorKind::Stale,
            SendErrorKind::HeadTimeout,
            SendErrorKind::Invalid,
        ] {
            assert!(!off.covers(phase), "{phase:?}");
            assert!(RetryPolicy::default().covers(phase), "{phase:?}");
        }
        assert!(off.covers(SendErrorKind::Limit));
        assert!(!RetryPolicy::default().covers(SendErrorKind::RequestBody));
    }

    #[test]
    fn statuses_403_and_404_never_count_as_failures() {
        let retry = RetryPolicy::default().on_status(StatusCode::NOT_FOUND).on_status(StatusCode::BAD_GATEWAY);
        assert!(retry.is_listed(StatusCode::NOT_FOUND) && !retry.counts(StatusCode::NOT_FOUND));
        assert!(retry.counts(StatusCode::BAD_GATEWAY) && !retry.counts(StatusCode::INTERNAL_SERVER_ERROR));
    }

    #[test]
    fn only_idempotent_methods_repeat_unless_told_otherwise() {
        let retry = RetryPolicy::default();
        assert!(retry.repeats(&Method::GET) && retry.repeats(&Method::PUT) && retry.repeats(&Method::DELETE));
        assert!(!retry.repeats(&Method::POST) && !retry.repeats(&Method::PATCH));
        assert!(retry.non_idempotent(true).repeats(&Method::POST));
    }
}
