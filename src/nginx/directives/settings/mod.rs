//! The settings that a block inherits from the block around it.
//!
//! A value is that of the file, or `None`. nginx's defaults do not always suit Kylin, whose queries
//! run for minutes. So the code that builds the site sets the defaults.

mod access;
mod auth_basic;
mod charset;
mod error_page;
mod expires;
mod limit_conn;
mod limit_req;
mod next_upstream;
mod read;
mod real_ip;
mod redirect;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};

pub(crate) use access::{Access, AccessRule};
pub(crate) use auth_basic::AuthBasic;
pub(crate) use charset::Charset;
pub(crate) use error_page::{ErrorPage, PageTarget};
pub(crate) use expires::{Expires, Lifetime};
pub(crate) use limit_conn::{InFlight, LimitConn, TooMany};
pub(crate) use limit_req::{LimitReq, LimitZones};
pub(crate) use next_upstream::NextUpstream;
pub(crate) use read::{MoreHeaders, SettingsReader, Types};
pub(crate) use real_ip::RealIp;
pub(crate) use redirect::{Change, CookieEdits, CookieFlags, Redirect, RedirectRule};
#[cfg_attr(not(feature = "tls"), allow(unused_imports, reason = "read, and not used"))]
pub(crate) use tls::{CertificateFiles, ClientSide, NodeSide, Protocols, VerifyClient};

use crate::nginx::directives::access_log::AccessLogs;
use crate::nginx::syntax::{Fault, Span};
use crate::nginx::variables::Template;

/// The settings of a block, after inheritance.
///
/// Lists follow nginx's rule: a block with a directive of its own inherits none of that name.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockSettings {
    /// `proxy_set_header`. If none sets `Host`, nginx sends `$proxy_host`.
    pub(crate) set_headers: Arc<Vec<SetHeader>>,
    /// The `proxy_set_header` that removes `Content-Length`.
    pub(crate) no_length: Option<Span>,
    /// Whether nodes get no body (`proxy_pass_request_body off`).
    pub(crate) drops_body: bool,
    /// `add_header`.
    pub(crate) add_headers: Arc<Vec<AddHeader>>,
    /// `more_set_headers` and `more_clear_headers`.
    pub(crate) more_headers: Arc<MoreHeaders>,
    /// Whether a node's response with `X-Accel-Redirect` reaches the client
    /// (`proxy_ignore_headers`).
    pub(crate) ignores_accel_redirect: bool,
    /// Whether error pages also replace responses of nodes (`proxy_intercept_errors`).
    pub(crate) intercept_errors: Option<bool>,
    /// Whether an error in an error page may have a page too (`recursive_error_pages`).
    pub(crate) recursive_error_pages: Option<bool>,
    /// `error_page`.
    pub(crate) error_pages: Arc<Vec<ErrorPage>>,
    /// `limit_req`.
    pub(crate) limit_reqs: Arc<Vec<LimitReq>>,
    /// `limit_req_status`; nginx: 503.
    pub(crate) limit_req_status: Option<u16>,
    /// `limit_conn`.
    pub(crate) limit_conns: Arc<Vec<LimitConn>>,
    /// `limit_conn_status`; nginx: 503.
    pub(crate) limit_conn_status: Option<u16>,
    /// `expires`.
    pub(crate) expires: Option<Expires>,
    /// `charset` and `charset_types`.
    pub(crate) charset: Charset,
    /// `access_log`.
    pub(crate) access_logs: Arc<AccessLogs>,
    /// `proxy_hide_header`.
    pub(crate) hide_headers: Arc<Vec<HeaderName>>,
    /// `proxy_pass_header`.
    pub(crate) pass_headers: Arc<Vec<HeaderName>>,
    /// `set_real_ip_from`, `real_ip_header`, `real_ip_recursive`.
    pub(crate) real_ip: Arc<RealIp>,
    /// `ssl_*`.
    pub(crate) client_tls: Arc<ClientSide>,
    /// `proxy_ssl_*`.
    pub(crate) node_tls: Arc<NodeSide>,
    /// `allow` and `deny`.
    pub(crate) access: Arc<Vec<AccessRule>>,
    /// `auth_basic` and `auth_basic_user_file`.
    pub(crate) auth: AuthBasic,
    /// Whether an allowed address or a password suffices (`satisfy any`).
    pub(crate) satisfies_any: bool,
    /// Whether only rewritten requests reach the location (`internal`).
    pub(crate) internal: bool,
    /// `proxy_cookie_path`.
    pub(crate) cookie_paths: Arc<Vec<RedirectRule>>,
    /// `proxy_cookie_domain`.
    pub(crate) cookie_domains: Arc<Vec<RedirectRule>>,
    /// `proxy_cookie_flags`.
    pub(crate) cookie_flags: Arc<Vec<CookieFlags>>,
    /// `proxy_redirect`.
    pub(crate) redirect: Arc<Vec<RedirectRule>>,
    /// `proxy_next_upstream`, `_tries` and `_timeout`.
    pub(crate) next_upstream: NextUpstream,
    /// `proxy_connect_timeout`; nginx: 60 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// `proxy_read_timeout`, between two reads from the node; nginx: 60 s.
    pub(crate) read_timeout: Option<Duration>,
    /// `client_max_body_size`; 0 is no limit; nginx: 1 MiB.
    pub(crate) max_body_size: Option<u64>,
    /// `proxy_buffer_size`: the maximum size of the head of a node's response; nginx: 4 or 8 KiB.
    pub(crate) node_head_bytes: Option<u64>,
    /// `client_body_timeout`, between two reads from the client; nginx: 60 s.
    pub(crate) body_timeout: Option<Duration>,
    /// `send_timeout`, between two writes to the client; nginx: 60 s.
    pub(crate) client_send_timeout: Option<Duration>,
    /// `client_header_timeout`; nginx: 60 s.
    pub(crate) header_timeout: Option<Duration>,
    /// `large_client_header_buffers`: their number, and the bytes of each; nginx: 4 of 8 KiB.
    pub(crate) head_buffers: Option<(u32, u64)>,
    /// `client_header_buffer_size`, which is used only with `large_client_header_buffers`; nginx: 1
    /// KiB.
    pub(crate) first_head_buffer: Option<u64>,
    /// `max_headers`; nginx: 1000.
    pub(crate) max_headers: Option<usize>,
    /// `keepalive_timeout` of client connections; 0 closes them; nginx: 75 s.
    pub(crate) keepalive_timeout: Option<Duration>,
    /// `proxy_buffering`; nginx: on. If off, a node waits for a slow client.
    pub(crate) buffering: Option<bool>,
    /// `proxy_request_buffering`; nginx: on. If off, a request is not retried once its body has
    /// begun.
    pub(crate) request_buffering: Option<bool>,
    /// `merge_slashes`; nginx: on.
    pub(crate) merge_slashes: Option<bool>,
    /// `underscores_in_headers`; nginx: off, which drops such headers of a request.
    pub(crate) underscores_in_headers: Option<bool>,
    /// `ignore_invalid_headers`; nginx: on, which drops request headers with characters other than
    /// `A-Za-z0-9-`.
    pub(crate) ignore_invalid_headers: Option<bool>,
    /// `ssl` of older versions: whether every address of the server has TLS.
    pub(crate) ssl: Option<bool>,
    /// `root`, for `$document_root` in an `if`.
    pub(crate) root: DocumentRoot,
    /// `types`.
    pub(crate) types: Types,
    /// `default_type`, the type of the text of a `return` without a type in `types`; nginx:
    /// `text/plain`.
    pub(crate) default_type: Option<String>,
}

/// The folder of `root`. A relative path is below nginx's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DocumentRoot {
    Folder(PathBuf),
    Variable,
}

impl Default for DocumentRoot {
    /// Returns nginx's default, `html`.
    fn default() -> Self {
        DocumentRoot::Folder("html".into())
    }
}

impl DocumentRoot {
    /// Returns the full path of the folder.
    ///
    /// # Errors
    /// The reason why the path is unknown.
    pub(crate) fn known(&self, prefix: Option<&Path>) -> Result<PathBuf, &'static str> {
        match self {
            DocumentRoot::Folder(folder) if folder.is_absolute() => Ok(folder.clone()),
            DocumentRoot::Folder(folder) => match prefix {
                Some(prefix) => Ok(prefix.join(folder)),
                None => Err("it is relative to nginx's prefix"),
            },
            DocumentRoot::Variable => Err("it has a variable"),
        }
    }
}

/// A `proxy_set_header` directive. An empty value removes the header.
#[derive(Debug, Clone)]
pub(crate) struct SetHeader {
    pub(crate) name: HeaderName,
    /// Whether an earlier directive has the same name. As in nginx, nodes get both headers.
    pub(crate) is_another: bool,
    pub(crate) value: Template,
}

/// An `add_header` directive. An empty value adds nothing, and removes a header that the directive
/// replaces.
#[derive(Debug, Clone)]
pub(crate) struct AddHeader {
    pub(crate) name: HeaderName,
    pub(crate) value: Template,
    /// Whether responses of any status get the header.
    pub(crate) always: bool,
}

impl AddHeader {
    /// Returns whether a response with this status gets the header.
    pub(crate) fn applies_to(&self, status: u16) -> bool {
        self.always || adds_to(status)
    }

    /// Returns whether the directive replaces the header of a node (`ngx_http_set_headers`).
    pub(crate) fn replaces(&self) -> bool {
        self.name == header::LAST_MODIFIED || self.name == header::ETAG
    }
}

/// Returns whether nginx adds headers to responses with a status.
pub(crate) fn adds_to(status: u16) -> bool {
    matches!(status, 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

impl BlockSettings {
    /// Returns the maximum length of a request body; `None` is no limit.
    pub(crate) fn max_body(&self) -> Option<u64> {
        /// nginx's default of `client_max_body_size`.
        const DEFAULT: u64 = 1 << 20;
        Some(self.max_body_size.unwrap_or(DEFAULT)).filter(|size| *size > 0)
    }

    /// Checks the settings of a location that passes requests on.
    pub(crate) fn check_pass(&self) -> Result<(), Fault> {
        match self.no_length {
            Some(span) if !self.drops_body => Err(span.unsupported(
                "a body without Content-Length: nodes could not read it",
                "proxy_pass_request_body off; beside it, or no such line",
            )),
            _ => Ok(()),
        }
    }

    /// Returns the headers that are added to responses, those of `more_set_headers` first.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &AddHeader> {
        self.more_headers.set.iter().chain(self.add_headers.iter())
    }

    /// Returns whether one of these headers, or `expires`, depends on the response.
    pub(crate) fn shows_outcome(&self) -> bool {
        self.headers().any(|header| header.value.needs_outcome())
            || self.expires.as_ref().is_some_and(Expires::needs_outcome)
    }

    /// Returns whether a header of a node's response is hidden from the client.
    pub(crate) fn hides(&self, name: &HeaderName) -> bool {
        // nginx hides these headers unless `proxy_pass_header` names them.
        let by_default = match name.as_str() {
            "date" | "server" | "x-pad" => true,
            name => name
                .strip_prefix("x-accel-")
                .is_some_and(|rest| matches!(rest, "expires" | "redirect" | "limit-rate" | "buffering" | "charset")),
        };
        self.hide_headers.contains(name) || (by_default && !self.pass_headers.contains(name))
    }
}
