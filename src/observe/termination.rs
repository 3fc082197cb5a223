use std::cell::Cell;
use std::fmt;

use http::StatusCode;

/// How a request ended.
///
/// | variant | [name](Self::as_str) | Envoy's response flag | HAProxy's termination state |
/// |---|---|---|---|
/// | `Complete` | `complete` | `-` | `--` |
/// | `ClientGone` | `client_gone` | `DC` | `CD` |
/// | `Refused` | `refused` | `DPE` | `PR` |
/// | `Denied` | `denied` | `RL` | `PR` |
/// | `RequestTooLarge` | `request_too_large` | `DPE` | `PR` |
/// | `RequestTimeout` | `request_timeout` | `SI` | `cH` |
/// | `RequestAborted` | `request_aborted` | `DC` | `CH` |
/// | `NoEndpoint` | `no_endpoint` | `UH` | `SC` |
/// | `Overflow` | `overflow` | `UO` | `sQ` |
/// | `QueueFull` | `queue_full` | `UO` | `SQ` |
/// | `QueueTimeout` | `queue_timeout` | `UO` | `sQ` |
/// | `ConnectFailed` | `connect_failed` | `UF` | `SC` |
/// | `ConnectTimeout` | `connect_timeout` | `UF` | `sC` |
/// | `ResponseTimeout` | `response_timeout` | `UT` | `sH` |
/// | `ConnectionBroken` | `connection_broken` | `UC` | `SH` |
/// | `InvalidResponse` | `invalid_response` | `UPE` | `PH` |
/// | `ResponseTruncated` | `response_truncated` | `UC` | `SD` |
/// | `ResponseStalled` | `response_stalled` | `SI` | `sD` |
/// | `Stopped` | `stopped` | `DC` | `CD` |
/// | `Unconfirmed` | `unconfirmed` | `UC` | `SH` |
/// | `ServerStopped` | `server_stopped` | `LR` | `KH` |
/// | `Panicked` | `panicked` | `LR` | `IH` |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Termination {
    /// The client got the whole response, with any status, or the last byte was handed to its
    /// connection.
    Complete,
    /// The client left before the end of the response.
    ClientGone,
    /// The head of the request is ambiguous or not supported. The client got 400, 405, 417 or 501.
    Refused,
    /// The path is closed to clients. The client got 403.
    Denied,
    /// The body of the request is too large. The client got 413.
    RequestTooLarge,
    /// The body of the request arrived too slowly. The client got 408.
    RequestTimeout,
    /// The body of the request ended early.
    RequestAborted,
    /// No endpoint is eligible. The client got 503.
    NoEndpoint,
    /// Every eligible endpoint or its backend is at its limit, or the login of the session
    /// currently cannot be checked.
    Overflow,
    /// Too many queries wait for a slot of an endpoint. The client got 503.
    QueueFull,
    /// The query has waited for a slot as long as it may. The client got 503.
    QueueTimeout,
    /// The node could not be reached.
    ConnectFailed,
    /// No connection to the node was made in time.
    ConnectTimeout,
    /// The node did not respond in time.
    ResponseTimeout,
    /// The connection to the node broke before a response.
    ConnectionBroken,
    /// The response of the node is not valid HTTP.
    InvalidResponse,
    /// The response of the node ended early.
    ResponseTruncated,
    /// The node paused for too long within its response.
    ResponseStalled,
    /// The client stopped the query by its id while the query waited for a slot, or shared an
    /// execution that has another id or other clients.
    Stopped,
    /// A stop, a logout or another request for all nodes was not confirmed by each of them, for any
    /// reason. The client got 502.
    Unconfirmed,
    /// The server of the front end stopped, and its grace time was over. The client got 502, or a
    /// part of its response.
    ServerStopped,
    /// The code of the front end panicked.
    Panicked,
}

impl Termination {
    /// Every variant, for the labels of a metric.
    pub const ALL: [Termination; 22] = [
        Termination::Complete,
        Termination::ClientGone,
        Termination::Refused,
        Termination::Denied,
        Termination::RequestTooLarge,
        Termination::RequestTimeout,
        Termination::RequestAborted,
        Termination::NoEndpoint,
        Termination::Overflow,
        Termination::QueueFull,
        Termination::QueueTimeout,
        Termination::ConnectFailed,
        Termination::ConnectTimeout,
        Termination::ResponseTimeout,
        Termination::ConnectionBroken,
        Termination::InvalidResponse,
        Termination::ResponseTruncated,
        Termination::ResponseStalled,
        Termination::Stopped,
        Termination::Unconfirmed,
        Termination::ServerStopped,
        Termination::Panicked,
    ];

    /// Returns the name for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        self.names().0
    }

    /// Returns the closest response flag of Envoy; `-` for a complete response.
    pub const fn envoy_flag(self) -> &'static str {
        self.names().1
    }

    /// Returns the first two characters of the closest termination state of HAProxy.
    pub const fn haproxy_state(self) -> &'static str {
        self.names().2
    }

    /// Returns whether the body of the node's response ended early or paused for too long.
    pub(super) const fn is_by_node_body(self) -> bool {
        match self {
            Termination::ResponseTruncated | Termination::ResponseStalled => true,
            Termination::Complete
            | Termination::ClientGone
            | Termination::Refused
            | Termination::Denied
            | Termination::RequestTooLarge
            | Termination::RequestTimeout
            | Termination::RequestAborted
            | Termination::NoEndpoint
            | Termination::Overflow
            | Termination::QueueFull
            | Termination::QueueTimeout
            | Termination::ConnectFailed
            | Termination::ConnectTimeout
            | Termination::ResponseTimeout
            | Termination::ConnectionBroken
            | Termination::InvalidResponse
            | Termination::Stopped
            | Termination::Unconfirmed
            | Termination::ServerStopped
            | Termination::Panicked => false,
        }
    }

    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Termination::Complete => ("complete", "-", "--"),
            Termination::ClientGone => ("client_gone", "DC", "CD"),
            Termination::Refused => ("refused", "DPE", "PR"),
            Termination::Denied => ("denied", "RL", "PR"),
            Termination::RequestTooLarge => ("request_too_large", "DPE", "PR"),
            Termination::RequestTimeout => ("request_timeout", "SI", "cH"),
            Termination::RequestAborted => ("request_aborted", "DC", "CH"),
            Termination::NoEndpoint => ("no_endpoint", "UH", "SC"),
            Termination::Overflow => ("overflow", "UO", "sQ"),
            Termination::QueueFull => ("queue_full", "UO", "SQ"),
            Termination::QueueTimeout => ("queue_timeout", "UO", "sQ"),
            Termination::ConnectFailed => ("connect_failed", "UF", "SC"),
            Termination::ConnectTimeout => ("connect_timeout", "UF", "sC"),
            Termination::ResponseTimeout => ("response_timeout", "UT", "sH"),
            Termination::ConnectionBroken => ("connection_broken", "UC", "SH"),
            Termination::InvalidResponse => ("invalid_response", "UPE", "PH"),
            Termination::ResponseTruncated => ("response_truncated", "UC", "SD"),
            Termination::ResponseStalled => ("response_stalled", "SI", "sD"),
            Termination::Stopped => ("stopped", "DC", "CD"),
            Termination::Unconfirmed => ("unconfirmed", "UC", "SH"),
            Termination::ServerStopped => ("server_stopped", "LR", "KH"),
            Termination::Panicked => ("panicked", "LR", "IH"),
        }
    }
}

impl fmt::Display for Termination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

thread_local! {
    static CUT: Cell<Option<Cut>> = const { Cell::new(None) };
}

/// How a stopping server ends a request.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server stops"))]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// The client gets a response with this status.
    Responds(StatusCode),
    /// The client gets nothing more.
    Closes,
}

impl Cut {
    /// Returns the termination of a request that is dropped, and sets the status that its client
    /// gets.
    pub(super) fn end_of_dropped(status: &mut Option<StatusCode>) -> Termination {
        match CUT.try_with(Cell::get).ok().flatten() {
            None => Termination::ClientGone,
            Some(Cut::Closes) => Termination::ServerStopped,
            Some(Cut::Responds(sent)) => {
                status.get_or_insert(sent);
                Termination::ServerStopped
            }
        }
    }
}

/// Marks a scope of the current thread. Requests that the thread drops after
/// [`enter`](Self::enter), and before the scope is dropped, count as ended by the server and not by
/// their clients. Nothing may be awaited in the scope.
#[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server stops"))]
#[derive(Debug, Default)]
pub(crate) struct CutScope(bool);

impl CutScope {
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only the server stops"))]
    pub(crate) fn enter(&mut self, cut: Cut) {
        self.0 = true;
        CUT.set(Some(cut));
    }
}

impl Drop for CutScope {
    fn drop(&mut self) {
        if self.0 {
            CUT.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_ends_what_is_dropped_within_the_scope_and_the_client_what_is_dropped_after_it() {
        let end_of_dropped = || {
            let mut status = None;
            (Cut::end_of_dropped(&mut status), status)
        };
        let gone = (Termination::ClientGone, None);
        for (cut, end) in [
            (Cut::Responds(StatusCode::BAD_GATEWAY), (Termination::ServerStopped, Some(StatusCode::BAD_GATEWAY))),
            (Cut::Closes, (Termination::ServerStopped, None)),
        ] {
            let mut scope = CutScope::default();
            assert_eq!(end_of_dropped(), gone, "before {cut:?}");
            scope.enter(cut);
            // A scope of another request that ends meanwhile and was not entered changes nothing.
            drop(CutScope::default());
            assert_eq!(end_of_dropped(), end, "{cut:?}");
            drop(scope);
            assert_eq!(end_of_dropped(), gone, "after {cut:?}");
        }
    }

    #[test]
    fn every_way_to_end_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Termination::ALL.iter().map(|end| end.as_str()).collect();
        assert_eq!(names.len(), Termination::ALL.len());
        let docs = include_str!("termination.rs");
        for end in Termination::ALL {
            let row = format!("`{}` | `{}` | `{}` |", end.as_str(), end.envoy_flag(), end.haproxy_state());
            assert!(docs.contains(&row), "{row}");
        }
    }
}
