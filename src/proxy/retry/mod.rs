//! Decides when a request is sent to another endpoint.

mod budget;

use std::num::NonZeroU32;
use std::time::Duration;

use http::{Method, StatusCode};

pub use self::budget::RetryBudget;
pub(super) use self::budget::{RetryAccount, Withdrawn};
use crate::backend::SendErrorKind;
use crate::endpoint::Outcome;
use crate::setting::InvalidSetting;

/// Decides when a request is sent to another endpoint (nginx: `proxy_next_upstream`).
///
/// - Each endpoint gets a request once. The exception is a kept-alive connection that the node
///   closed before it responded, which is no failure of the node. The proxy then sends the request
///   to the same endpoint once more, on a fresh connection. A Kylin-aware proxy does so only if no
///   other endpoint is eligible or knows the session.
/// - A request that certainly was not processed may be retried regardless of its method. If no node
///   got it, each endpoint is attempted once, regardless of the budget and `max_attempts`.
/// - A request that may have been processed is retried only if its method is idempotent (RFC 9110,
///   9.2.2). In addition, its body must have been short enough to be kept, and the
///   [budget](Self::budget) must allow it. POST, LOCK and PATCH count as not idempotent.
///
/// In a Kylin-aware proxy the class of the request replaces its method, and the class of the
/// response its status. The kinds of failure, `max_attempts`, `max_elapsed` and the budget apply
/// there too. A request that a node may have executed is sent once more at most.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct RetryPolicy {
    pub(super) error: bool,
    pub(super) timeout: bool,
    pub(super) invalid: bool,
    pub(super) stopping: bool,
    pub(super) timeout_is_failure: bool,
    pub(super) statuses: Vec<StatusCode>,
    pub(super) non_idempotent: bool,
    pub(super) max_attempts: Option<NonZeroU32>,
    pub(super) count_unsent: bool,
    pub(super) max_elapsed: Option<Duration>,
    pub(super) budget: Option<RetryBudget>,
}

impl Default for RetryPolicy {
    /// Returns nginx's default: `error timeout` without limits of attempts or time. In addition,
    /// invalid responses are retried, and there is a default [`RetryBudget`].
    fn default() -> Self {
        RetryPolicy {
            error: true,
            timeout: true,
            invalid: true,
            stopping: true,
            timeout_is_failure: false,
            statuses: Vec::new(),
            non_idempotent: false,
            max_attempts: None,
            count_unsent: false,
            max_elapsed: None,
            budget: Some(RetryBudget::default()),
        }
    }
}

impl RetryPolicy {
    /// Returns a policy without retries. The proxy still skips an endpoint whose backend is at its
    /// connection limit.
    pub fn none() -> Self {
        RetryPolicy { error: false, timeout: false, invalid: false, stopping: false, ..RetryPolicy::default() }
    }

    /// Sets whether to retry when a connection fails, before or after the request was sent.
    /// Default: yes.
    pub fn on_error(mut self, on: bool) -> Self {
        self.error = on;
        self
    }

    /// Sets whether to retry when a connection is not established, or the head of a response does
    /// not arrive, in time. Default: yes.
    ///
    /// A request that takes long is then sent to one endpoint after another, and waits at each
    /// until its timeout.
    pub fn on_timeout(mut self, on: bool) -> Self {
        self.timeout = on;
        self
    }

    /// Sets whether a response head that does not arrive in time counts as a failure of an endpoint
    /// with [`max_fails`](crate::Endpoint::max_fails), as in nginx. Default: no. The outcome is
    /// then [`Slow`](crate::Outcome::Slow), which ejects no endpoint, since a query may take
    /// minutes. A Kylin-aware proxy never counts it as a failure.
    pub fn timeout_is_failure(mut self, on: bool) -> Self {
        self.timeout_is_failure = on;
        self
    }

    /// Sets whether to retry when a response is not valid HTTP. Default: yes.
    pub fn on_invalid(mut self, on: bool) -> Self {
        self.invalid = on;
        self
    }

    /// Sets whether a plain proxy retries a request whose node responds with 404 or 503 because it
    /// is stopping. A stopping server ends its applications before it closes its port. nginx and
    /// httpd do not retry in this case. Default: yes, except after [`RetryPolicy::none`].
    ///
    /// The endpoint needs a running [`HealthCheck`](crate::probe::HealthCheck) that has found it
    /// healthy. Such a response triggers a probe, at most ten times a second, and waits up to 500
    /// ms for the result.
    ///
    /// | response | probe | retried |
    /// |---|---|---|
    /// | 404 in HTML or text, or without a body | 404, 503, or no connection | whatever the method and the budget: no application has executed the request |
    /// | 404 in JSON, as an application writes it | fails | if the method is idempotent, within the budget |
    /// | any 404 | fails otherwise, or has no result in 500 ms | if the method is idempotent, within the budget |
    /// | 503 | fails, or has no result in 500 ms | if the method is idempotent, within the budget |
    /// | any | succeeds, or cannot be made | no |
    ///
    /// Such a response counts neither as a failure nor as a success of the endpoint, because the
    /// probe has already been counted. The exception is a status of [`on_status`](Self::on_status).
    /// A Kylin-aware proxy does this for paths to which its rules do not apply
    /// ([`KylinRules::other_paths`](crate::proxy::KylinRules::other_paths)). For all other paths it
    /// asks the node whether Kylin runs there.
    pub fn on_stopping(mut self, on: bool) -> Self {
        self.stopping = on;
        self
    }

    /// Adds a status whose response causes a retry, from 400 to 599. Default: none.
    ///
    /// A retry counts as a failure of the endpoint unless the status is 403 or 404. When the
    /// request cannot be retried, the client gets the response, which then counts as a success
    /// (ngx_http_upstream_test_next).
    pub fn on_status(mut self, status: StatusCode) -> Self {
        self.statuses.push(status);
        self
    }

    /// Sets whether to retry requests that may have been processed and whose method is not
    /// idempotent. Default: no.
    ///
    /// A node may then execute a POST that another node has executed before.
    pub fn non_idempotent(mut self, on: bool) -> Self {
        self.non_idempotent = on;
        self
    }

    /// Sets how many endpoints may get a request; `None` is no limit. Default: `None`.
    ///
    /// An endpoint that certainly received nothing of the request does not count, for example one
    /// that refused the connection. The request then goes to the next endpoint at once, until each
    /// was attempted once. In a Kylin-aware proxy, an endpoint on which Kylin does not run does not
    /// count either. See [`count_unsent`](Self::count_unsent).
    pub fn max_attempts(mut self, attempts: Option<NonZeroU32>) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets whether an endpoint that certainly received nothing of a request counts towards
    /// [`max_attempts`](Self::max_attempts) too, as in nginx (`proxy_next_upstream_tries`).
    /// Default: no.
    pub fn count_unsent(mut self, on: bool) -> Self {
        self.count_unsent = on;
        self
    }

    /// Sets how long after the first attempt another one may begin; `None` is no limit. Default:
    /// `None`.
    pub fn max_elapsed(mut self, limit: Option<Duration>) -> Self {
        self.max_elapsed = limit;
        self
    }

    /// Sets the budget for retries of requests that a node may have received; `None` is no limit.
    /// Default: [`RetryBudget::default`].
    pub fn budget(mut self, budget: impl Into<Option<RetryBudget>>) -> Self {
        self.budget = budget.into();
        self
    }

    /// Checks the values of the setters.
    pub(super) fn validate(&self) -> Result<(), InvalidSetting> {
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        InvalidSetting::unless(self.statuses.iter().all(is_error), "on_status", "400 to 599")
    }

    /// Returns whether failures of this kind are retried.
    pub(super) fn covers(&self, kind: SendErrorKind) -> bool {
        match kind {
            SendErrorKind::Connect | SendErrorKind::Refused | SendErrorKind::Broken | SendErrorKind::Stale => {
                self.error
            }
            SendErrorKind::ConnectTimeout | SendErrorKind::HeadTimeout => self.timeout,
            SendErrorKind::Invalid => self.invalid,
            // Another endpoint may have a free connection.
            SendErrorKind::Limit | SendErrorKind::Shortage => true,
            SendErrorKind::HeadTooLarge | SendErrorKind::RequestBody => false,
        }
    }

    /// Returns the outcome that a failure of this kind has for the endpoint. `may_time_out` is true
    /// if a time-out is never a failure.
    pub(super) fn outcome(&self, kind: SendErrorKind, may_time_out: bool) -> Outcome {
        match kind {
            // A query may take minutes.
            SendErrorKind::HeadTimeout if may_time_out || !self.timeout_is_failure => Outcome::Slow,
            kind => kind.outcome(),
        }
    }

    /// Returns whether the responses of a stopping node are retried.
    pub(super) fn covers_stopping(&self) -> bool {
        self.stopping
    }

    /// Returns whether responses of this status are retried.
    pub(super) fn covers_status(&self, status: StatusCode) -> bool {
        self.statuses.contains(&status)
    }

    /// Returns whether a response of this status that is retried counts as a failure of the
    /// endpoint.
    pub(super) fn is_failure(&self, status: StatusCode) -> bool {
        self.covers_status(status) && !matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
    }

    /// Returns whether a request that a node may have processed can be sent again.
    pub(super) fn is_repeatable(&self, method: &Method) -> bool {
        // nginx's rule. It agrees with RFC 9110 for the methods that it names, but also repeats
        // unknown methods.
        self.non_idempotent || !matches!(method.as_str(), "POST" | "LOCK" | "PATCH")
    }

    /// Returns whether nothing is retried.
    pub(super) fn is_none(&self) -> bool {
        !(self.error || self.timeout || self.invalid) && self.statuses.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_retries_only_a_full_endpoint_is_passed_over() {
        let none = RetryPolicy::none();
        for kind in [
            SendErrorKind::Connect,
            SendErrorKind::ConnectTimeout,
            SendErrorKind::Refused,
            SendErrorKind::Broken,
            SendErrorKind::Stale,
            SendErrorKind::HeadTimeout,
            SendErrorKind::Invalid,
        ] {
            assert!(!none.covers(kind), "{kind:?}");
            assert!(RetryPolicy::default().covers(kind), "{kind:?}");
        }
        assert!(none.covers(SendErrorKind::Limit));
        assert!(!RetryPolicy::default().covers(SendErrorKind::RequestBody));
    }

    #[test]
    fn statuses_403_and_404_never_count_as_failures() {
        let retry = RetryPolicy::default().on_status(StatusCode::NOT_FOUND).on_status(StatusCode::BAD_GATEWAY);
        assert!(retry.covers_status(StatusCode::NOT_FOUND) && !retry.is_failure(StatusCode::NOT_FOUND));
        assert!(retry.is_failure(StatusCode::BAD_GATEWAY) && !retry.is_failure(StatusCode::INTERNAL_SERVER_ERROR));
    }

    #[test]
    fn only_idempotent_methods_are_repeated_by_default() {
        let retry = RetryPolicy::default();
        assert!(
            retry.is_repeatable(&Method::GET)
                && retry.is_repeatable(&Method::PUT)
                && retry.is_repeatable(&Method::DELETE)
        );
        assert!(!retry.is_repeatable(&Method::POST) && !retry.is_repeatable(&Method::PATCH));
        assert!(retry.non_idempotent(true).is_repeatable(&Method::POST));
    }
}
