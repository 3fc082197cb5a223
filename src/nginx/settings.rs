//! Directives that a block hands down to the blocks inside it.
//!
//! Values are what the file says, `None` where it says nothing: a front end for Kylin has reasons for other defaults
//! than nginx's (queries run for minutes), and only who assembles it knows which.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::next_upstream::NextUpstream;
use super::real_ip::RealIp;
use super::redirect::RedirectRule;
use super::variables::Template;

/// What holds in a block, after inheritance.
///
/// Lists follow nginx's rule: a block that has any line of a kind does not see those of the blocks around it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// `proxy_set_header`. Without a line for `Host` nginx sends [`ProxyPass::host`](super::ProxyPass::host).
    pub(crate) set_headers: Arc<Vec<SetHeader>>,
    /// `add_header`.
    pub(crate) add_headers: Arc<Vec<AddHeader>>,
    /// `proxy_hide_header`.
    pub(crate) hide_headers: Arc<Vec<HeaderName>>,
    /// `proxy_pass_header`.
    pub(crate) pass_headers: Arc<Vec<HeaderName>>,
    /// `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`.
    pub(crate) real_ip: Arc<RealIp>,
    /// `proxy_redirect`.
    pub(crate) redirect: Arc<Vec<RedirectRule>>,
    /// `proxy_next_upstream`, `_tries` and `_timeout`.
    pub(crate) next_upstream: NextUpstream,
    /// `proxy_connect_timeout`; nginx: 60 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// `proxy_read_timeout`, between two reads from the node; nginx: 60 s.
    pub(crate) read_timeout: Option<Duration>,
    /// `client_max_body_size`, 0 for no limit; nginx: 1 MiB.
    pub(crate) max_body_size: Option<u64>,
    /// `client_body_timeout`, between two reads from the client; nginx: 60 s.
    pub(crate) body_timeout: Option<Duration>,
    /// `send_timeout`, between two writes to the client; nginx: 60 s.
    pub(crate) client_send_timeout: Option<Duration>,
    /// `client_header_timeout`; nginx: 60 s.
    pub(crate) header_timeout: Option<Duration>,
    /// `large_client_header_buffers`, the bytes of all; nginx: 4 of 8 KiB.
    pub(crate) max_head_bytes: Option<u64>,
    /// `keepalive_timeout` of client connections, 0 for none kept; nginx: 75 s.
    pub(crate) keepalive_timeout: Option<Duration>,
    /// `proxy_request_buffering`; nginx: on. Off: a request whose body was begun is not sent again.
    pub(crate) request_buffering: Option<bool>,
    /// `merge_slashes`; nginx: on.
    pub(crate) merge_slashes: Option<bool>,
    /// `underscores_in_headers`; nginx: off, which drops such fields of a request.
    pub(crate) underscores_in_headers: Option<bool>,
    /// `default_type`, the type of a text that `return` answers with; nginx: `text/plain`.
    pub(crate) default_type: Option<String>,
}

/// One `proxy_set_header` line.
#[derive(Debug, Clone)]
pub(crate) struct SetHeader {
    /// The field.
    pub(crate) name: HeaderName,
    /// Its value; a value that turns out empty removes the field.
    pub(crate) value: Template,
}

/// One `add_header` line.
#[derive(Debug, Clone)]
pub(crate) struct AddHeader {
    /// The field.
    pub(crate) name: HeaderName,
    /// Its value; a value that turns out empty adds nothing.
    pub(crate) value: Template,
    /// Whether it is added to every answer.
    pub(crate) always: bool,
}

impl AddHeader {
    /// True when an answer with this status gets the field.
    pub(crate) fn applies_to(&self, status: u16) -> bool {
        self.always || matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
    }
}

impl Settings {
    /// True when a field of a node's answer does not reach the client. nginx keeps `Date`, `Server`, `X-Pad` and
    /// `X-Accel-...` to itself unless `proxy_pass_header` names them.
    pub(crate) fn hides(&self, name: &HeaderName) -> bool {
        static HIDDEN: &[&str] = &[
            "date",
            "server",
            "x-pad",
            "x-accel-expires",
            "x-accel-redirect",
            "x-accel-limit-rate",
            "x-accel-buffering",
            "x-accel-charset",
        ];
        self.hide_headers.contains(name) || (HIDDEN.contains(&name.as_str()) && !self.pass_headers.contains(name))
    }
}
