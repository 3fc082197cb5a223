//! Reads the directives that may stand only once in a block. Each function returns whether it has
//! read the directive.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::super::{BlockSettings, DocumentRoot, Expires};
use super::header_name;
use crate::nginx::directives::catalogue::{arg, args, wrong_number};
use crate::nginx::directives::context::ReadContext;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault};

/// The maximum size of the head of a request or response, even if the file sets more. Each head may
/// take that much memory.
const MAX_HEAD_BYTES: u64 = 1 << 20;

fn milliseconds(directive: &Directive) -> Result<Duration, Fault> {
    values::time(arg(directive)?, TimeUnit::Milliseconds)
}

fn flag(directive: &Directive) -> Result<bool, Fault> {
    values::flag(arg(directive)?)
}

/// Reads times, and limits on client connections.
pub(super) fn read_time(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    let (remarks, span) = (&mut context.remarks, directive.span());
    match directive.name.text.as_str() {
        "proxy_connect_timeout" => settings.connect_timeout = Some(milliseconds(directive)?),
        "proxy_send_timeout" => {
            milliseconds(directive)?;
            let text = "proxy_send_timeout: a stalled upload ends proxy_read_timeout after its last progress";
            remarks.note(span, text);
        }
        "proxy_read_timeout" => settings.read_timeout = Some(milliseconds(directive)?),
        "proxy_next_upstream_timeout" => settings.next_upstream.max_elapsed = milliseconds(directive)?,
        "client_body_timeout" => settings.body_timeout = Some(milliseconds(directive)?),
        "client_header_timeout" => settings.header_timeout = Some(milliseconds(directive)?),
        "send_timeout" => {
            let time = milliseconds(directive)?;
            if time.is_zero() {
                return Err(arg(directive)?.invalid("time", "1ms or more"));
            }
            settings.client_send_timeout = Some(time);
        }
        "keepalive_time" => {
            milliseconds(directive)?;
            remarks.note(span, "keepalive_time: the age of a client connection has no limit");
        }
        "keepalive_timeout" => {
            // nginx sends the second time in the `Keep-Alive` header of responses.
            let (first, second) = match &directive.args[..] {
                [first] => (first, None),
                [first, second] => (first, Some(second)),
                _ => return Err(wrong_number(directive)),
            };
            settings.keepalive_timeout = Some(values::time(first, TimeUnit::Milliseconds)?);
            second.map(|second| values::time(second, TimeUnit::Seconds)).transpose()?;
        }
        "keepalive_requests" => {
            values::number(arg(directive)?, 0..=u32::MAX)?;
            remarks.note(span, "keepalive_requests: the requests of a client connection have no limit");
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads directives that are on or off.
pub(super) fn read_flag(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    let (remarks, span) = (&mut context.remarks, directive.span());
    match directive.name.text.as_str() {
        "proxy_ignore_headers" => {
            let mut names = directive.args.iter();
            settings.ignores_accel_redirect = names.any(|word| word.text.eq_ignore_ascii_case("x-accel-redirect"));
            remarks.ignored(span, "proxy_ignore_headers");
        }
        "recursive_error_pages" => settings.recursive_error_pages = Some(flag(directive)?),
        "proxy_intercept_errors" => settings.intercept_errors = Some(flag(directive)?),
        "proxy_pass_request_body" => settings.drops_body = !flag(directive)?,
        "proxy_buffering" => settings.buffering = Some(flag(directive)?),
        "proxy_request_buffering" => settings.request_buffering = Some(flag(directive)?),
        "ssl" => settings.ssl = Some(flag(directive)?),
        "merge_slashes" => {
            settings.merge_slashes = Some(flag(directive)?);
            if settings.merge_slashes == Some(false) {
                let text = "merge_slashes off: locations, conditions and $uri see one slash for several all the same, as Tomcat does; \
                    the nodes get the path as the client sent it";
                remarks.note(span, text);
            }
        }
        "underscores_in_headers" => settings.underscores_in_headers = Some(flag(directive)?),
        "ignore_invalid_headers" => settings.ignore_invalid_headers = Some(flag(directive)?),
        "real_ip_recursive" => Arc::make_mut(&mut settings.real_ip).recursive = flag(directive)?,
        "internal" => settings.internal = args::<0>(directive).map(|_| true)?,
        "satisfy" => {
            settings.satisfies_any = match arg(directive)?.text.as_str() {
                "any" => true,
                "all" => false,
                _ => return Err(arg(directive)?.invalid("value", "satisfy all|any;")),
            };
        }
        "http2" => {
            if !flag(directive)? {
                remarks.note(span, "http2 off: a client that begins with HTTP/2 is served all the same");
            }
        }
        "proxy_pass_trailers" if flag(directive)? => {
            remarks.note(span, "proxy_pass_trailers on: trailers after a response's body are dropped all the same");
        }
        "proxy_pass_trailers" => remarks.ignored(span, "proxy_pass_trailers"),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads numbers and sizes.
pub(super) fn read_amount(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    let (remarks, span) = (&mut context.remarks, directive.span());
    match directive.name.text.as_str() {
        "max_headers" => {
            settings.max_headers = usize::try_from(values::number(arg(directive)?, 1..=u32::MAX)?).ok();
        }
        "limit_conn_status" | "limit_req_status" => {
            let status = u16::try_from(values::number(arg(directive)?, 400..=599)?).ok();
            match directive.is("limit_conn_status") {
                true => settings.limit_conn_status = status,
                false => settings.limit_req_status = status,
            }
        }
        "proxy_buffer_size" => {
            let size = values::size(arg(directive)?)?;
            if size > MAX_HEAD_BYTES {
                remarks.note(span, "proxy_buffer_size: the head of a response has at most 1 MiB");
            }
            settings.node_head_bytes = Some(size.clamp(1, MAX_HEAD_BYTES));
        }
        "client_max_body_size" => settings.max_body_size = Some(values::size(arg(directive)?)?),
        "client_header_buffer_size" => {
            settings.first_head_buffer = Some(values::size(arg(directive)?)?);
            let text = "client_header_buffer_size: it counts beside large_client_header_buffers only";
            remarks.note_once(span, text);
        }
        "large_client_header_buffers" => {
            let [number, size] = args(directive)?;
            let (number, size) = (values::number(number, 1..=u32::MAX)?, values::size(size)?);
            if u64::from(number).saturating_mul(size) > MAX_HEAD_BYTES {
                remarks.note(span, "large_client_header_buffers: the head of a request has at most 1 MiB");
            }
            settings.head_buffers = Some((number, size));
        }
        "proxy_next_upstream_tries" => {
            settings.next_upstream.tries = values::number(arg(directive)?, 0..=u32::MAX)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads directives that select the next server or identify the client.
pub(super) fn read_policy(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    match directive.name.text.as_str() {
        "proxy_next_upstream" => settings.next_upstream.read(directive)?,
        "proxy_http_version" => match arg(directive)? {
            word if word.text == "1.1" => {}
            word if word.text == "1.0" => {
                let text = "proxy_http_version 1.0: the nodes get HTTP/1.1 all the same";
                context.remarks.note(directive.span(), text);
            }
            word => return Err(word.invalid("version", "1.1 or 1.0")),
        },
        "real_ip_header" => {
            let word = arg(directive)?;
            let real_ip = Arc::make_mut(&mut settings.real_ip);
            real_ip.by_proxy_protocol = word.text == "proxy_protocol";
            if !real_ip.by_proxy_protocol {
                real_ip.header = header_name(word)?;
            }
        }
        // Files are not served, but an `if` may test whether one exists.
        "root" => {
            let folder = &arg(directive)?.text;
            settings.root = match folder.contains('$') {
                true => DocumentRoot::Variable,
                false => DocumentRoot::Folder(folder.into()),
            };
            context.remarks.ignored(directive.span(), "root");
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Reads directives that restrict access.
pub(super) fn read_protection(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    match directive.name.text.as_str() {
        "auth_basic" => settings.auth.read_realm(directive, &context.maps)?,
        "auth_basic_user_file" => {
            settings.auth.read_file(directive, context.folder.as_deref(), &mut context.remarks)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) fn read_tls(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    super::super::tls::read(settings, directive, context.folder.as_deref(), &mut context.remarks)
}

/// Reads directives that change responses.
pub(super) fn read_response(
    settings: &mut BlockSettings,
    directive: &Directive,
    context: &mut ReadContext<'_>,
) -> Result<bool, Fault> {
    match directive.name.text.as_str() {
        "charset" => settings.charset.read_name(directive)?,
        "charset_types" => settings.charset.read_types(directive)?,
        "expires" => settings.expires = Some(Expires::read(directive, &context.maps, &mut context.remarks)?),
        "default_type" => {
            let word = arg(directive)?;
            if HeaderValue::from_str(&word.text).is_err() || word.text.contains('$') {
                return Err(word.invalid("type", "a type like application/json"));
            }
            settings.default_type = Some(word.text.clone());
        }
        _ => return Ok(false),
    }
    Ok(true)
}
