//! Reads the directives of [`BlockSettings`] in one block: `http`, `server` or `location`.

mod more_headers;

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, header};

pub(crate) use self::more_headers::MoreHeaders;

use super::{
    AccessRule, AddHeader, BlockSettings, CookieFlags, ErrorPage, Expires, LimitExcept, RedirectRule, SetHeader,
};
use crate::nginx::directives::catalogue::{arg, args, wrong_number};
use crate::nginx::directives::context::ReadContext;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Word};
use crate::nginx::variables::Template;
use crate::proxy::HeaderEdits;

/// The largest request head, whatever the file says: each client that sends one holds that much
/// memory.
const MAX_HEAD_BYTES: u64 = 1 << 20;

const SAME_ZONE: &str = "two limits in one zone";

/// The settings of a block while it is read: what it inherits, changed by its own directives.
#[derive(Debug, Default)]
pub(crate) struct SettingsReader {
    pub(crate) settings: BlockSettings,
    /// The directives of this block so far.
    seen: HashSet<String>,
}

impl SettingsReader {
    /// Begins a block inside one with these settings.
    pub(crate) fn inside(settings: &BlockSettings) -> SettingsReader {
        SettingsReader { settings: settings.clone(), seen: HashSet::new() }
    }

    /// Notes a directive that may stand once in a block.
    pub(crate) fn once(&mut self, directive: &Directive) -> Result<(), Fault> {
        let name = &directive.name.text;
        if self.seen.insert(name.clone()) {
            return Ok(());
        }
        Err(directive.span().duplicate(format!("\"{name}\" is duplicate"), format!("{name} once in a block")))
    }

    /// Reads a directive that the catalogue models and the reader of the block does not read
    /// itself.
    pub(crate) fn read(&mut self, directive: &Directive, context: &mut ReadContext<'_>) -> Result<(), Fault> {
        let settings = &mut self.settings;
        let is_first = !self.seen.contains(&directive.name.text);
        match directive.name.text.as_str() {
            "proxy_set_header" => list(is_first, &mut settings.set_headers).extend(set_header(directive, context)?),
            "add_header" => list(is_first, &mut settings.add_headers).extend(add_header(directive, context)?),
            "more_set_headers" | "more_clear_headers" => {
                Arc::make_mut(&mut settings.more_headers).read(directive, &context.maps)?;
            }
            "proxy_hide_header" => list(is_first, &mut settings.hide_headers).push(header_name(arg(directive)?)?),
            "proxy_pass_header" => list(is_first, &mut settings.pass_headers).push(header_name(arg(directive)?)?),
            "proxy_redirect" => {
                list(is_first, &mut settings.redirect).push(RedirectRule::read(directive, &context.maps)?);
            }
            "allow" | "deny" => {
                let is_first = !self.seen.contains("allow") && !self.seen.contains("deny");
                list(is_first, &mut settings.access).push(AccessRule::read(directive)?);
            }
            "proxy_cookie_path" => {
                list(is_first, &mut settings.cookie_paths).push(RedirectRule::read(directive, &context.maps)?);
            }
            "proxy_cookie_domain" => {
                list(is_first, &mut settings.cookie_domains).push(RedirectRule::read(directive, &context.maps)?);
            }
            "proxy_cookie_flags" => list(is_first, &mut settings.cookie_flags).extend(CookieFlags::read(directive)?),
            "error_page" => list(is_first, &mut settings.error_pages).push(ErrorPage::read(directive, context)?),
            "limit_req" => {
                let (limits, limit) = (list(is_first, &mut settings.limit_reqs), context.zones.limit_req(directive)?);
                if limits.iter().any(|other| other.shares_zone(&limit)) {
                    return Err(directive.span().duplicate(SAME_ZONE, "each zone once in a block"));
                }
                limits.push(limit);
            }
            "limit_conn" => {
                let (limits, limit) = (list(is_first, &mut settings.limit_conns), context.zones.limit_conn(directive)?);
                if limits.iter().any(|other| other.shares_zone(&limit)) {
                    return Err(directive.span().duplicate(SAME_ZONE, "each zone once in a block"));
                }
                limits.push(limit);
            }
            "access_log" => {
                if is_first {
                    settings.access_logs = Arc::default();
                }
                let ReadContext { formats, maps, folder, remarks, .. } = context;
                Arc::make_mut(&mut settings.access_logs).read(directive, formats, maps, folder.as_deref(), remarks)?;
            }
            "set_real_ip_from" => {
                let real_ip = Arc::make_mut(&mut settings.real_ip);
                if is_first {
                    (real_ip.networks, real_ip.unix) = (Vec::new(), false);
                }
                real_ip.trust(arg(directive)?)?;
            }
            _ => {
                self.once(directive)?;
                return self.read_value(directive, context);
            }
        }
        self.seen.insert(directive.name.text.clone());
        Ok(())
    }

    fn read_value(&mut self, directive: &Directive, context: &mut ReadContext<'_>) -> Result<(), Fault> {
        let settings = &mut self.settings;
        match directive.name.text.as_str() {
            "limit_except" => {
                settings.limit_except = Some(Arc::new(LimitExcept::read(directive, context)?));
                return Ok(());
            }
            "auth_basic" => return settings.auth.read_realm(directive, &context.maps),
            "charset" => return settings.charset.read_name(directive),
            "charset_types" => return settings.charset.read_types(directive),
            // Files are not served, but an `if` may ask for one.
            "root" => {
                let folder = Some(&arg(directive)?.text).filter(|folder| !folder.contains('$'));
                settings.root = folder.map(|folder| context.folder.clone().unwrap_or_default().join(folder));
                context.remarks.ignored(directive.span(), "root");
                return Ok(());
            }
            "auth_basic_user_file" => {
                return settings.auth.read_file(directive, context.folder.as_deref(), &mut context.remarks);
            }
            _ => {}
        }
        if super::tls::read(settings, directive, context.folder.as_deref(), &mut context.remarks)? {
            return Ok(());
        }
        let remarks = &mut context.remarks;
        let span = directive.span();
        let milliseconds = || values::time(arg(directive)?, TimeUnit::Milliseconds);
        let flag = || values::flag(arg(directive)?);
        match directive.name.text.as_str() {
            "proxy_connect_timeout" => settings.connect_timeout = Some(milliseconds()?),
            "proxy_send_timeout" => {
                milliseconds()?;
                let text = "proxy_send_timeout: a stalled upload ends proxy_read_timeout after its last progress";
                remarks.note(span, text);
            }
            "proxy_read_timeout" => settings.read_timeout = Some(milliseconds()?),
            "client_body_timeout" => settings.body_timeout = Some(milliseconds()?),
            "client_header_timeout" => settings.header_timeout = Some(milliseconds()?),
            "send_timeout" => {
                let time = milliseconds()?;
                if time.is_zero() {
                    return Err(arg(directive)?.invalid("time", "1ms or more"));
                }
                settings.client_send_timeout = Some(time);
            }
            "keepalive_time" => {
                milliseconds()?;
                remarks.note(span, "keepalive_time: the age of a client connection has no limit");
            }
            "keepalive_timeout" => {
                // nginx puts a second time into the Keep-Alive header of responses.
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
            "recursive_error_pages" => settings.recursive_error_pages = Some(flag()?),
            "proxy_intercept_errors" => settings.intercept_errors = Some(flag()?),
            "proxy_buffering" => settings.buffering = Some(flag()?),
            "proxy_request_buffering" => settings.request_buffering = Some(flag()?),
            "ssl" => settings.ssl = Some(flag()?),
            "merge_slashes" => settings.merge_slashes = Some(flag()?),
            "underscores_in_headers" => settings.underscores_in_headers = Some(flag()?),
            "ignore_invalid_headers" => settings.ignore_invalid_headers = Some(flag()?),
            "internal" => settings.internal = args::<0>(directive).map(|_| true)?,
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
            "satisfy" => {
                settings.satisfies_any = match arg(directive)?.text.as_str() {
                    "any" => true,
                    "all" => false,
                    _ => return Err(arg(directive)?.invalid("value", "satisfy all|any;")),
                };
            }
            "expires" => settings.expires = Some(Expires::read(directive, &context.maps)?),
            "http2" => {
                if !flag()? {
                    remarks.note(span, "http2 off: a client that begins with HTTP/2 is served all the same");
                }
            }
            "client_max_body_size" => settings.max_body_size = Some(values::size(arg(directive)?)?),
            "client_header_buffer_size" => {
                values::size(arg(directive)?)?;
                remarks.ignored(span, "client_header_buffer_size");
            }
            "proxy_pass_trailers" if flag()? => {
                remarks.note(span, "proxy_pass_trailers on: trailers after a response's body are dropped all the same");
            }
            "proxy_pass_trailers" => remarks.ignored(span, "proxy_pass_trailers"),
            "large_client_header_buffers" => {
                let [number, size] = args(directive)?;
                let bytes = u64::from(values::number(number, 1..=u32::MAX)?).saturating_mul(values::size(size)?);
                if bytes > MAX_HEAD_BYTES {
                    remarks.note(span, "large_client_header_buffers: the head of a request has at most 1 MiB");
                }
                settings.max_head_bytes = Some(bytes.min(MAX_HEAD_BYTES));
            }
            "default_type" => {
                let word = arg(directive)?;
                if HeaderValue::from_str(&word.text).is_err() || word.text.contains('$') {
                    return Err(word.invalid("type", "a type like application/json"));
                }
                settings.default_type = Some(word.text.clone());
            }
            "proxy_http_version" => match arg(directive)? {
                word if word.text == "1.1" => {}
                word if word.text == "1.0" => {
                    remarks.note(span, "proxy_http_version 1.0: the nodes get HTTP/1.1 all the same");
                }
                word => return Err(word.invalid("version", "1.1 or 1.0")),
            },
            "proxy_next_upstream" => settings.next_upstream.read(directive)?,
            "proxy_next_upstream_tries" => {
                settings.next_upstream.tries = values::number(arg(directive)?, 0..=u32::MAX)?;
            }
            "proxy_next_upstream_timeout" => settings.next_upstream.max_elapsed = milliseconds()?,
            "real_ip_header" => {
                let word = arg(directive)?;
                let real_ip = Arc::make_mut(&mut settings.real_ip);
                real_ip.by_proxy_protocol = word.text == "proxy_protocol";
                if !real_ip.by_proxy_protocol {
                    real_ip.header = header_name(word)?;
                }
            }
            "real_ip_recursive" => Arc::make_mut(&mut settings.real_ip).recursive = flag()?,
            // Each name in the catalogue has an arm in some reader; this is for one that was
            // forgotten.
            name => return Err(span.unsupported(format!("\"{name}\" is not supported here"), "another directive")),
        }
        Ok(())
    }
}

/// The list that a directive adds to: the first line in a block begins it anew.
fn list<T: Clone>(is_first: bool, list: &mut Arc<Vec<T>>) -> &mut Vec<T> {
    if is_first {
        *list = Arc::default();
    }
    Arc::make_mut(list)
}

/// `None` if the line has no effect here.
fn set_header(directive: &Directive, context: &mut ReadContext<'_>) -> Result<Option<SetHeader>, Fault> {
    let [word, value] = args(directive)?;
    let (name, value_text) = (header_name(word)?, value.text.as_str());
    let value = Template::for_header(value, &context.maps)?;
    if name == header::CONNECTION {
        if !value_text.is_empty() {
            let text = "proxy_set_header Connection: this crate decides itself whether a connection to a node is kept";
            context.remarks.note(word.span, text);
        }
        return Ok(None);
    }
    if name == header::UPGRADE {
        let text = "proxy_set_header Upgrade: protocol upgrades such as WebSocket are not passed on";
        context.remarks.note(word.span, text);
        return Ok(None);
    }
    settable(&name, word)?;
    Ok(Some(SetHeader { name, value }))
}

/// `None` if the line has no effect here.
fn add_header(directive: &Directive, context: &mut ReadContext<'_>) -> Result<Option<AddHeader>, Fault> {
    let (word, value, always) = match &directive.args[..] {
        [name, value] => (name, value, false),
        [name, value, always] if always.text == "always" => (name, value, true),
        [_, _, other] => {
            let message = format!("unknown parameter \"{}\" of add_header", other.text);
            return Err(other.span.unknown(message, "always"));
        }
        _ => return Err(wrong_number(directive)),
    };
    let name = header_name(word)?;
    if name == header::CONTENT_LENGTH {
        context.remarks.note(word.span, "add_header Content-Length: the length follows from the message itself");
        return Ok(None);
    }
    if name == header::ALT_SVC && value.text.contains("h3") {
        context.remarks.note(word.span, "add_header Alt-Svc: left out, because HTTP/3 is not served");
        return Ok(None);
    }
    settable(&name, word)?;
    Ok(Some(AddHeader { name, value: Template::for_header(value, &context.maps)?, always }))
}

fn settable(name: &HeaderName, word: &Word) -> Result<(), Fault> {
    if HeaderEdits::allows(name) {
        return Ok(());
    }
    let message = format!("header \"{}\" cannot be set by hand", word.text);
    Err(word.span.unsupported(message, "another header: this one follows from the message itself"))
}

fn header_name(word: &Word) -> Result<HeaderName, Fault> {
    HeaderName::try_from(&word.text).map_err(|_| word.invalid("header name", "a name like X-Real-IP"))
}
