//! Values in the form that logs show: without secrets, and escaped.

use std::borrow::Cow;

use http::HeaderName;

use super::{Piece, Scope, Template, Variable};
use crate::observe::{is_secret_name, masked_query, masked_target};

/// How values are escaped in a log (`escape=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Escape {
    /// Quotes, backslashes and bytes that are not printable ASCII become `\xXX`; a missing value is
    /// `-`.
    Default,
    /// The form of a JSON string; a missing value is empty.
    Json,
    /// Control characters become `\xXX`, because a client could write lines of its own with them.
    /// nginx does not escape them.
    None,
}

/// The text in place of a value that is not shown, as in [`masked_target`].
const MASK: &str = "***";

/// Headers that hold credentials though their names do not say so.
const SECRET_HEADERS: [&str; 3] = ["authentication-info", "www-authenticate", "proxy-authenticate"];

/// Headers whose value is the target of a request, which logs show masked.
const TARGETS: [&str; 8] = [
    "referer",
    "location",
    "content-location",
    "refresh",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded-uri",
];

/// Variables whose empty value nginx logs as empty, not as missing.
const EMPTY: [&str; 4] = ["https", "is_args", "request_completion", "server_name"];

/// The variables of nginx and its own modules that have no value here. Copied log formats name
/// them.
const ABSENT: &str = "
    ancient_browser body_bytes connection connection_requests connection_time connections_active connections_reading
    connections_waiting connections_writing date_gmt date_local document_root fastcgi_path_info fastcgi_script_name gzip_ratio
    invalid_referer is_request_port limit_conn_status limit_rate limit_req_status memcached_key modern_browser msie nginx_version
    pid pipe proxy_internal_body_length proxy_internal_chunked quic_connection realpath_root request_filename request_port secure_link secure_link_expires proxy_port proxy_protocol_addr
    proxy_protocol_port proxy_protocol_server_addr proxy_protocol_server_port server_label slice_range spdy spdy_request_priority ssl_alpn_protocol
    ssl_ciphers ssl_client_cert ssl_client_fingerprint ssl_client_i_dn_legacy
    ssl_client_raw_cert ssl_client_s_dn_legacy ssl_client_sigalg ssl_client_v_end ssl_client_v_remain ssl_client_v_start ssl_curve ssl_curves ssl_early_data
    ssl_sigalg tcpinfo_rcv_space tcpinfo_rtt tcpinfo_rttvar tcpinfo_snd_cwnd uid_got uid_reset uid_set
    upstream_bytes_sent upstream_cache_etag upstream_cache_last_modified upstream_cache_status upstream_last_addr upstream_last_server_name upstream_queue_time
";

/// The prefixes of the variables of common third-party modules, and of variables whose names a
/// configuration chooses.
const OF_MODULES: [&str; 14] = [
    "acme_",
    "brotli_",
    "geoip",
    "jwt_",
    "modsecurity_",
    "mqtt_",
    "opentelemetry_",
    "opentracing_",
    "otel_",
    "passenger_",
    "proxy_protocol_tlv_",
    "session_log_",
    "vts_",
    "zstd_",
];

/// Returns whether a variable in lower case is one of nginx or of a common module, and has no value
/// here.
pub(super) fn is_absent(name: &str) -> bool {
    OF_MODULES.iter().any(|start| name.starts_with(start))
        || ABSENT.split_ascii_whitespace().any(|absent| absent == name)
}

/// Returns what to write outside of a log instead of a variable of nginx that has no value here.
/// Returns `None` for any other variable.
pub(super) fn instead(name: &str) -> Option<&'static str> {
    if !(is_absent(name) || is_secret(name)) || name.starts_with("geoip") {
        return None;
    }
    Some(match name {
        "ssl_client_cert" | "ssl_client_raw_cert" => "$ssl_client_escaped_cert, in one line",
        _ if name.starts_with("ssl_client_") => {
            "$ssl_client_s_dn, $ssl_client_i_dn, $ssl_client_serial or $ssl_client_escaped_cert"
        }
        _ if name.starts_with("ssl_") => "$ssl_protocol, $ssl_cipher, $ssl_server_name or $ssl_session_reused",
        "connection" | "connection_requests" | "pid" => "$request_id, which differs for each request",
        "document_root" | "realpath_root" | "request_filename" => "$uri; files are not served",
        "date_gmt" | "date_local" => "$time_iso8601 or $time_local",
        "limit_rate" => "no such variable: bandwidth is not limited",
        "request_body" | "request_body_file" => "no such variable: the node gets the body itself",
        _ => "the value itself, or a variable of map",
    })
}

pub(super) fn is_secret(name: &str) -> bool {
    secret(name).is_some()
}

/// Returns why no log may show the variable with this name in lower case; `None` if a log may show
/// it.
pub(super) fn secret(name: &str) -> Option<&'static str> {
    let header = ["upstream_http_", "upstream_trailer_", "sent_http_", "sent_trailer_", "http_"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .map(|name| name.replace('_', "-"));
    if name.starts_with("cookie_") || name.starts_with("upstream_cookie_") {
        return Some("cookies hold session ids, with which a reader of the log could act as that user");
    }
    match name {
        "request_body" | "request_body_file" => return Some("bodies hold SQL and passwords"),
        "ssl_session_id" => return Some("it lets others resume the connection"),
        _ => {}
    }
    let is_secret = |header: &str| is_secret_name(header) || SECRET_HEADERS.contains(&header);
    header.filter(|header| is_secret(header)).map(|_| "the header holds credentials or session ids")
}

impl Template {
    /// Appends the value to a line of a log.
    pub(crate) fn log(&self, scope: &Scope<'_>, escape: Escape, line: &mut Vec<u8>) {
        let mut value = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => line.extend_from_slice(text.as_bytes()),
                Piece::Variable { variable, name } => {
                    value.clear();
                    let found = variable.write_masked(name, scope, &mut value);
                    match escape {
                        Escape::Default if !found => line.push(b'-'),
                        Escape::Default => escape_default(&value, line),
                        Escape::Json => escape_json(&value, line),
                        Escape::None => escape_controls(&value, line),
                    }
                }
            }
        }
    }

    /// Appends the value with its variables masked. Returns whether the value exists.
    pub(super) fn write_masked(&self, scope: &Scope<'_>, value: &mut Vec<u8>) -> bool {
        let mut found = self.pieces.is_empty();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => {
                    value.extend_from_slice(text.as_bytes());
                    found = true;
                }
                Piece::Variable { variable, name } => found |= variable.write_masked(name, scope, value),
            }
        }
        found
    }
}

impl Variable {
    /// Appends the value as a log may show it. Returns whether the value exists, because nginx
    /// distinguishes an empty value from a missing one.
    fn write_masked(&self, name: &str, scope: &Scope<'_>, value: &mut Vec<u8>) -> bool {
        if let Variable::Mapped(map) = self {
            map.write_masked(scope, value);
            return true;
        }
        let start = value.len();
        self.write(scope, &mut |piece| value.extend_from_slice(piece));
        let written = &value[start..];
        let masked = match self {
            // The configuration may have moved a secret of the target to a place where it is not
            // recognised.
            Variable::Path | Variable::Named(_) | Variable::Arg(_) | Variable::Sent(_)
                if !written.is_empty() && self.is_rewritten(name, scope) && has_secret(scope.request_uri) =>
            {
                Some(MASK.to_owned())
            }
            Variable::Path | Variable::Named(_) => {
                TargetKind::of(name).and_then(|kind| kind.masked(&String::from_utf8_lossy(written)))
            }
            Variable::Arg(name) if !written.is_empty() => {
                let pair = format!("{name}={}", String::from_utf8_lossy(written));
                let masked = masked_query(&pair);
                (*masked != *pair).then(|| masked.split_once('=').map_or("", |(_, value)| value).to_owned())
            }
            Variable::Header(name) | Variable::Sent(name) | Variable::Received(name) if is_target(name) => {
                if_masked(masked_target(&String::from_utf8_lossy(written)))
            }
            _ => None,
        };
        if let Some(masked) = masked {
            value.truncate(start);
            value.extend_from_slice(masked.as_bytes());
        }
        value.len() > start || EMPTY.contains(&name)
    }
}

impl Variable {
    /// Returns whether the configuration may have computed the value from the target of the
    /// request.
    fn is_rewritten(&self, name: &str, scope: &Scope<'_>) -> bool {
        match self {
            Variable::Sent(header) => is_target(header),
            _ => scope.is_rewritten && may_be_rewritten(self, name),
        }
    }
}

fn has_secret(target: &str) -> bool {
    *masked_target(target) != *target
}

/// Returns whether `rewrite` changes the value of a variable.
pub(super) fn may_be_rewritten(variable: &Variable, name: &str) -> bool {
    match variable {
        Variable::Path | Variable::Arg(_) => true,
        Variable::Named(_) => matches!(name, "args" | "query_string"),
        _ => false,
    }
}

/// Returns whether the value of a variable may contain a secret of the target: SQL, or a session
/// id.
pub(super) fn may_hold_target(variable: &Variable, name: &str) -> bool {
    match variable {
        Variable::Path => true,
        Variable::Named(_) => TargetKind::of(name).is_some(),
        Variable::Arg(name) => has_secret(&format!("?{name}=x")),
        Variable::Header(name) | Variable::Sent(name) | Variable::Received(name) => is_target(name),
        _ => false,
    }
}

/// The variables that hold the target of a request.
#[derive(Debug, Clone, Copy)]
enum TargetKind {
    /// A path, or a path and a query.
    Path,
    Query,
    /// `$request`.
    Line,
}

impl TargetKind {
    fn of(name: &str) -> Option<Self> {
        match name {
            "request_uri" | "uri" | "document_uri" => Some(TargetKind::Path),
            "args" | "query_string" => Some(TargetKind::Query),
            "request" => Some(TargetKind::Line),
            _ => None,
        }
    }

    /// Returns the value with its secrets masked; `None` if it has no secret.
    fn masked(self, value: &str) -> Option<String> {
        match self {
            TargetKind::Path => if_masked(masked_target(value)),
            TargetKind::Query => if_masked(masked_query(value)),
            TargetKind::Line => {
                let (method, rest) = value.split_once(' ')?;
                let (target, protocol) = rest.rsplit_once(' ')?;
                Some(format!("{method} {} {protocol}", if_masked(masked_target(target))?))
            }
        }
    }
}

/// Returns the value if it was masked; `None` if it had no secret, and is unchanged.
fn if_masked(value: Cow<'_, str>) -> Option<String> {
    match value {
        Cow::Borrowed(_) => None,
        Cow::Owned(masked) => Some(masked),
    }
}

fn is_target(name: &HeaderName) -> bool {
    TARGETS.contains(&name.as_str())
}

/// Escapes as `ngx_http_log_escape` does.
fn escape_default(value: &[u8], line: &mut Vec<u8>) {
    escape_if(|byte| matches!(byte, 0..=0x1f | b'"' | b'\\' | 0x7f..=0xff), value, line);
}

fn escape_controls(value: &[u8], line: &mut Vec<u8>) {
    escape_if(|byte| byte.is_ascii_control(), value, line);
}

fn escape_if(is_escaped: impl Fn(u8) -> bool, value: &[u8], line: &mut Vec<u8>) {
    for &byte in value {
        match is_escaped(byte) {
            true => line.extend_from_slice(format!("\\x{byte:02X}").as_bytes()),
            false => line.push(byte),
        }
    }
}

/// Escapes as `ngx_escape_json` does.
fn escape_json(value: &[u8], line: &mut Vec<u8>) {
    for byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', *byte]),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            b'\t' => line.extend_from_slice(b"\\t"),
            0x08 => line.extend_from_slice(b"\\b"),
            0x0c => line.extend_from_slice(b"\\f"),
            0..=0x1f => line.extend_from_slice(format!("\\u{byte:04X}").as_bytes()),
            _ => line.push(*byte),
        }
    }
}
