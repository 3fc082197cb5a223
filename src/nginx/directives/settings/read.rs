//! Reads the directives of [`BlockSettings`] in one block: `http`, `server` or `location`.

mod more_headers;
mod once;
mod types;

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderName, header};

pub(crate) use self::more_headers::MoreHeaders;
use self::once::{read_amount, read_flag, read_policy, read_protection, read_response, read_time, read_tls};
pub(crate) use self::types::Types;
use super::{AccessRule, AddHeader, BlockSettings, CookieFlags, ErrorPage, RedirectRule, SetHeader};
use crate::nginx::directives::catalogue::{arg, args, unended, wrong_number};
use crate::nginx::directives::context::ReadContext;
use crate::nginx::syntax::{Directive, Fault, Word, nearest};
use crate::nginx::variables::Template;
use crate::proxy::HeaderEdits;

const SAME_ZONE: &str = "two limits in one zone";

/// The directives that combine if they occur several times in a block (as with
/// `ngx_conf_set_bitmask_slot`).
const COMBINED: [&str; 7] = [
    "charset_types",
    "proxy_ignore_headers",
    "proxy_next_upstream",
    "proxy_ssl_protocols",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_protocols",
];

/// The settings of a block while it is read: inherited ones, changed by its own directives.
#[derive(Debug, Default)]
pub(crate) struct SettingsReader {
    pub(crate) settings: BlockSettings,
    /// The directives of this block so far.
    seen: HashSet<String>,
}

impl SettingsReader {
    /// Begins a block inside a block with these settings.
    pub(crate) fn inside(settings: &BlockSettings) -> SettingsReader {
        SettingsReader { settings: settings.clone(), seen: HashSet::new() }
    }

    /// Records a directive that may stand only once in a block.
    pub(crate) fn once(&mut self, directive: &Directive) -> Result<(), Fault> {
        let name = &directive.name.text;
        if self.seen.insert(name.clone()) {
            return Ok(());
        }
        Err(directive.span().duplicate(format!("\"{name}\" is duplicate"), format!("{name} once in a block")))
    }

    /// Reads a modelled directive that the reader of the block does not read itself.
    pub(crate) fn read(&mut self, directive: &Directive, context: &mut ReadContext<'_>) -> Result<(), Fault> {
        let settings = &mut self.settings;
        let is_first = !self.seen.contains(&directive.name.text);
        match directive.name.text.as_str() {
            "proxy_set_header" => {
                let headers = list(is_first, &mut settings.set_headers);
                headers.extend(set_header(directive, headers, context)?);
                let removes_length = removes(directive, &header::CONTENT_LENGTH).then(|| directive.span());
                settings.no_length = removes_length.or(settings.no_length.filter(|_| !is_first));
            }
            "add_header" => list(is_first, &mut settings.add_headers).extend(add_header(directive, context)?),
            "more_set_headers" | "more_clear_headers" => {
                Arc::make_mut(&mut settings.more_headers).read(directive, &context.maps)?;
            }
            "proxy_hide_header" => list(is_first, &mut settings.hide_headers).push(header_name(arg(directive)?)?),
            "proxy_pass_header" => list(is_first, &mut settings.pass_headers).push(header_name(arg(directive)?)?),
            "types" => settings.types.read(directive, is_first)?,
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
            name if !is_first && COMBINED.contains(&name) => {
                let before = settings.clone();
                self.read_value(directive, context)?;
                self.settings.combine(&before, directive, context);
            }
            name => {
                if !COMBINED.contains(&name) {
                    self.once(directive)?;
                }
                self.read_value(directive, context)?;
            }
        }
        self.seen.insert(directive.name.text.clone());
        Ok(())
    }

    fn read_value(&mut self, directive: &Directive, context: &mut ReadContext<'_>) -> Result<(), Fault> {
        let readers = [read_policy, read_protection, read_tls, read_time, read_flag, read_amount, read_response];
        for read in readers {
            if read(&mut self.settings, directive, context)? {
                return Ok(());
            }
        }
        // Each name in the catalogue has an arm in some reader. This error is for a forgotten one.
        let name = &directive.name.text;
        Err(directive.span().unsupported(format!("\"{name}\" is not supported here"), "another directive"))
    }
}

impl BlockSettings {
    /// Combines a directive with those of the same name `before` it in the block.
    fn combine(&mut self, before: &BlockSettings, directive: &Directive, context: &mut ReadContext<'_>) {
        match directive.name.text.as_str() {
            "charset_types" => self.charset.add_types(&before.charset),
            "proxy_ignore_headers" => self.ignores_accel_redirect |= before.ignores_accel_redirect,
            "proxy_next_upstream" => self.next_upstream.add(&before.next_upstream),
            "proxy_ssl_protocols" => Arc::make_mut(&mut self.node_tls).protocols.add(before.node_tls.protocols),
            "ssl_protocols" => Arc::make_mut(&mut self.client_tls).protocols.add(before.client_tls.protocols),
            // `ssl_certificate` and `ssl_certificate_key`
            name => {
                self.client_tls = Arc::clone(&before.client_tls);
                let text = format!("{name}: a server presents one certificate, the first");
                context.remarks.note(directive.span(), text);
            }
        }
    }
}

/// Returns the list that a directive adds to. The first directive in a block begins a new list.
fn list<T: Clone>(is_first: bool, list: &mut Arc<Vec<T>>) -> &mut Vec<T> {
    if is_first {
        *list = Arc::default();
    }
    Arc::make_mut(list)
}

/// Reads `proxy_set_header`. `before` are the earlier directives in its block. Returns `None` if
/// the directive has no effect here.
fn set_header(
    directive: &Directive,
    before: &[SetHeader],
    context: &mut ReadContext<'_>,
) -> Result<Option<SetHeader>, Fault> {
    let [word, value] = args(directive)?;
    let (name, value_text) = (header_name(word)?, value.text.as_str());
    let value = Template::for_header(value, &context.maps)?;
    if value.needs_outcome() {
        let text = format!(
            "proxy_set_header {}: variables of the response are empty when the request is sent; $status is that of the error in the \
             location of an error_page",
            word.text
        );
        context.remarks.note(word.span, text);
    }
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
    // The proxy removes these headers itself, and writes the length of the body that it sends.
    if value_text.is_empty() && !HeaderEdits::allows(&name) {
        return Ok(None);
    }
    if name == header::CONTENT_LENGTH && matches!(value_text, "$content_length" | "$http_content_length") {
        return Ok(None);
    }
    if OF_CONNECTION.contains(&name) {
        let text = format!("proxy_set_header {}: the header is about one connection, and no node gets it", word.text);
        context.remarks.note(word.span, text);
        return Ok(None);
    }
    settable(&name, word)?;
    let mut is_another = before.iter().any(|line| line.name == name);
    if is_another && name == header::HOST {
        let text =
            "a second proxy_set_header Host: this one is sent; nginx sends both, and servers refuse a request with two";
        context.remarks.note(word.span, text);
        is_another = false;
    }
    Ok(Some(SetHeader { name, is_another, value }))
}

/// Returns whether a `proxy_set_header` removes this header.
fn removes(directive: &Directive, name: &HeaderName) -> bool {
    matches!(&directive.args[..], [word, value] if value.text.is_empty() && word.text.eq_ignore_ascii_case(name.as_str()))
}

/// Connection headers, which are never sent to a node.
static OF_CONNECTION: [HeaderName; 2] =
    [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// Reads `add_header`. Returns `None` if the directive has no effect here.
fn add_header(directive: &Directive, context: &mut ReadContext<'_>) -> Result<Option<AddHeader>, Fault> {
    if directive.args.len() > 2
        && let Some(fault) = unended(directive)
    {
        return Err(fault);
    }
    let (word, value, always) = match &directive.args[..] {
        [name, value] => (name, value, false),
        [name, value, always] if always.text == "always" => (name, value, true),
        [_, _, other] => {
            let hint = nearest(&other.text, ["always"]).map_or("", |_| ", did you mean \"always\"?");
            let message = format!("unknown parameter \"{}\" of add_header{hint}", other.text);
            return Err(other.span.unknown(message, format!("always; or the value in quotes: {}", quoted(directive))));
        }
        [_, _, _, ..] => {
            let message = "invalid number of arguments of \"add_header\"";
            return Err(directive.span().value(message, format!("the value in quotes: {}", quoted(directive))));
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

/// Returns an `add_header` directive with its value in quotes, which were missing.
fn quoted(directive: &Directive) -> String {
    let (name, mut value) = (directive.args.first().map_or("", |name| &name.text), directive.args[1..].to_vec());
    let always = value.pop_if(|last| last.text == "always").map_or("", |_| " always");
    let words: Vec<_> = value.iter().map(|word| word.text.as_str()).collect();
    format!("add_header {name} \"{}\"{always};", words.join(" "))
}

fn settable(name: &HeaderName, word: &Word) -> Result<(), Fault> {
    if HeaderEdits::allows(name) {
        return Ok(());
    }
    let message = format!("header \"{}\" cannot be set by hand", word.text);
    let expected = match OF_CONNECTION.contains(name) {
        true => "no such line: the header is about one connection, and no node gets it",
        false => "another header: this one follows from the message itself",
    };
    Err(word.span.unsupported(message, expected))
}

fn header_name(word: &Word) -> Result<HeaderName, Fault> {
    HeaderName::try_from(&word.text).map_err(|_| word.invalid("header name", "a name like X-Real-IP"))
}
