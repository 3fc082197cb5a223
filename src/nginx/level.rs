//! Reads the directives of [`Settings`] at one level: http, server or location.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};

use super::directives;
use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::parser::Directive;
use super::reader::Reader;
use super::real_ip::Trusted;
use super::redirect::RedirectRule;
use super::settings::{AddHeader, SetHeader, Settings};
use super::values::{self, Step};
use super::variables::Template;
use crate::proxy::HeaderEdits;

/// The most that is read of a request's head, whatever a file says: it is held in memory for every client that sends one.
const MOST_HEAD_BYTES: u64 = 1 << 20;

/// A block while it is read: what it inherited, changed by what it says itself.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub(super) settings: Settings,
    /// The directives that stood in this block so far.
    seen: HashSet<String>,
}

impl Level {
    /// A block inside one with these settings.
    pub(super) fn inside(settings: &Settings) -> Level {
        Level { settings: settings.clone(), seen: HashSet::new() }
    }

    /// Notes that a directive stands in this block, which it may do once.
    pub(super) fn once(&mut self, directive: &Directive) -> Result<(), Fault> {
        let name = &directive.name.text;
        if self.seen.insert(name.clone()) {
            return Ok(());
        }
        Err(Fault::new(ErrorKind::Duplicate, directive.span(), format!("\"{name}\" is duplicate"))
            .expecting("it once in a block"))
    }

    /// The list that a directive adds to: the first line in a block starts it anew.
    fn list<'l, T: Clone>(
        seen: &mut HashSet<String>,
        directive: &Directive,
        list: &'l mut Arc<Vec<T>>,
    ) -> &'l mut Vec<T> {
        if seen.insert(directive.name.text.clone()) {
            *list = Arc::default();
        }
        Arc::make_mut(list)
    }

    /// Reads a directive that [`directives::judge`] let through and that no caller read itself.
    pub(super) fn read(&mut self, directive: &Directive, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let (seen, settings) = (&mut self.seen, &mut self.settings);
        match directive.name.text.as_str() {
            "proxy_set_header" => {
                let [name, value] = words(directive)?;
                let list = Self::list(seen, directive, &mut settings.set_headers);
                list.extend(set_header(name, value, reader)?);
                return Ok(());
            }
            "add_header" => {
                let (name, value, always) = match &directive.args[..] {
                    [name, value] => (name, value, false),
                    [name, value, always] if always.text == "always" => (name, value, true),
                    [_, _, other] => {
                        let message = format!("unknown parameter \"{}\" of add_header", other.text);
                        return Err(Fault::new(ErrorKind::Unknown, other.span, message).expecting("always"));
                    }
                    _ => return Err(wrong_number(directive)),
                };
                let added =
                    AddHeader { name: field(name)?, value: Template::for_header(value, reader.maps())?, always };
                if !HeaderEdits::allows(&added.name) {
                    return Err(managed(name));
                }
                Self::list(seen, directive, &mut settings.add_headers).push(added);
                return Ok(());
            }
            "proxy_hide_header" => {
                let [name] = words(directive)?;
                Self::list(seen, directive, &mut settings.hide_headers).push(field(name)?);
                return Ok(());
            }
            "proxy_pass_header" => {
                let [name] = words(directive)?;
                Self::list(seen, directive, &mut settings.pass_headers).push(field(name)?);
                return Ok(());
            }
            "proxy_redirect" => {
                let rule = RedirectRule::read(directive, reader.maps())?;
                Self::list(seen, directive, &mut settings.redirect).push(rule);
                return Ok(());
            }
            "set_real_ip_from" => {
                let [from] = words(directive)?;
                let trusted = Trusted::read(from)?;
                let real_ip = Arc::make_mut(&mut settings.real_ip);
                if seen.insert(directive.name.text.clone()) {
                    real_ip.trusted.clear();
                }
                real_ip.trusted.push(trusted);
                return Ok(());
            }
            _ => {}
        }
        self.once(directive)?;
        self.read_single(directive, reader)
    }

    fn read_single(&mut self, directive: &Directive, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let settings = &mut self.settings;
        let milliseconds = || -> Result<Option<Duration>, Fault> {
            let [word] = words(directive)?;
            values::time(word, Step::Milliseconds).map(Some)
        };
        let flag = || -> Result<Option<bool>, Fault> {
            let [word] = words(directive)?;
            values::flag(word).map(Some)
        };
        match directive.name.text.as_str() {
            "proxy_connect_timeout" => settings.connect_timeout = milliseconds()?,
            "proxy_send_timeout" => {
                milliseconds()?;
                let text =
                    "proxy_send_timeout: an upload that stalls ends with proxy_read_timeout after its last progress";
                reader.note(directive.span(), text);
            }
            "proxy_read_timeout" => settings.read_timeout = milliseconds()?,
            "client_body_timeout" => settings.body_timeout = milliseconds()?,
            "client_header_timeout" => settings.header_timeout = milliseconds()?,
            "send_timeout" => settings.client_send_timeout = milliseconds()?,
            "keepalive_time" => {
                milliseconds()?;
                reader.note(directive.span(), "keepalive_time: a client's connection may be of any age");
            }
            "keepalive_timeout" => {
                // A second time is what the Keep-Alive field of answers says.
                let (first, second) = match &directive.args[..] {
                    [first] => (first, None),
                    [first, second] => (first, Some(second)),
                    _ => return Err(wrong_number(directive)),
                };
                settings.keepalive_timeout = Some(values::time(first, Step::Milliseconds)?);
                second.map(|second| values::time(second, Step::Seconds)).transpose()?;
            }
            "keepalive_requests" => {
                let [word] = words(directive)?;
                values::number(word, "", 0, u32::MAX)?;
                reader
                    .note(directive.span(), "keepalive_requests: a client's connection carries any number of requests");
            }
            "proxy_buffering" => {
                flag()?;
                reader.harmless(directive); // answers stream, at the pace of the client
            }
            "proxy_request_buffering" => settings.request_buffering = flag()?,
            "merge_slashes" => settings.merge_slashes = flag()?,
            "underscores_in_headers" => settings.underscores_in_headers = flag()?,
            "http2" => {
                if flag()? == Some(false) {
                    reader.note(directive.span(), "http2 off: HTTP/2 with prior knowledge is taken all the same");
                }
            }
            "client_max_body_size" => {
                let [word] = words(directive)?;
                settings.max_body_size = Some(values::size(word)?);
            }
            "client_header_buffer_size" => {
                let [word] = words(directive)?;
                values::size(word)?;
                reader.harmless(directive); // what is read of a head at first
            }
            "proxy_pass_trailers" => {
                if flag()? == Some(true) {
                    let text = "proxy_pass_trailers on: trailer fields after an answer's body are dropped all the same";
                    reader.note(directive.span(), text);
                } else {
                    reader.harmless(directive);
                }
            }
            "large_client_header_buffers" => {
                let [number, size] = words(directive)?;
                let (number, size) = (values::number(number, "", 1, u32::MAX)?, values::size(size)?);
                let bytes = u64::from(number).saturating_mul(size);
                if bytes > MOST_HEAD_BYTES {
                    let text = "large_client_header_buffers: the head of a request may have 1 MiB at most";
                    reader.note(directive.span(), text);
                }
                settings.max_head_bytes = Some(bytes.min(MOST_HEAD_BYTES));
            }
            "default_type" => {
                let [word] = words(directive)?;
                if http::HeaderValue::from_str(&word.text).is_err() || word.text.contains('$') {
                    return Err(values::invalid(word, "type").expecting("a type like application/json"));
                }
                settings.default_type = Some(word.text.clone());
            }
            "proxy_http_version" => {
                let [word] = words(directive)?;
                match word.text.as_str() {
                    "1.1" => {}
                    "1.0" => reader
                        .note(directive.span(), "proxy_http_version 1.0: HTTP/1.1 is spoken to the nodes all the same"),
                    _ => return Err(values::invalid(word, "version").expecting("1.1 or 1.0")),
                }
            }
            "proxy_next_upstream" => {
                if directive.args.is_empty() {
                    return Err(wrong_number(directive));
                }
                settings.next_upstream.read(&directive.args)?;
            }
            "proxy_next_upstream_tries" => {
                let [word] = words(directive)?;
                settings.next_upstream.tries = values::number(word, "", 0, u32::MAX)?;
            }
            "proxy_next_upstream_timeout" => settings.next_upstream.within = milliseconds()?.unwrap_or_default(),
            "real_ip_header" => {
                let [word] = words(directive)?;
                if word.text == "proxy_protocol" {
                    return Err(Fault::new(ErrorKind::Unsupported, word.span, "the PROXY protocol is not supported")
                        .expecting("X-Forwarded-For, X-Real-IP or another field"));
                }
                Arc::make_mut(&mut settings.real_ip).header = field(word)?;
            }
            "real_ip_recursive" => Arc::make_mut(&mut settings.real_ip).recursive = flag()?.unwrap_or_default(),
            // The table of directives and this match must not drift apart.
            name => {
                return Err(Fault::new(
                    ErrorKind::Unsupported,
                    directive.span(),
                    format!("\"{name}\" is not supported here"),
                ));
            }
        }
        Ok(())
    }
}

/// `None` when the line has no effect here.
fn set_header(name: &Word, value: &Word, reader: &mut Reader<'_>) -> Result<Option<SetHeader>, Fault> {
    let read = SetHeader { name: field(name)?, value: Template::for_header(value, reader.maps())? };
    if read.name == header::CONNECTION {
        if !value.text.is_empty() {
            reader
                .note(name.span, "proxy_set_header Connection: connections to the nodes are kept or closed without it");
        }
        return Ok(None);
    }
    if read.name == header::UPGRADE {
        reader.note(name.span, "proxy_set_header Upgrade: protocol upgrades such as WebSocket are not passed on");
        return Ok(None);
    }
    if HeaderEdits::allows(&read.name) { Ok(Some(read)) } else { Err(managed(name)) }
}

fn managed(name: &Word) -> Fault {
    Fault::new(ErrorKind::Unsupported, name.span, format!("field \"{}\" cannot be set by hand", name.text))
        .expecting("another field: this one follows from the message itself")
}

fn field(word: &Word) -> Result<HeaderName, Fault> {
    HeaderName::try_from(&word.text).map_err(|_| values::invalid(word, "field name").expecting("a name like X-Real-IP"))
}

/// Exactly as many words as the caller can take.
pub(super) fn words<const N: usize>(directive: &Directive) -> Result<[&Word; N], Fault> {
    let words: Vec<&Word> = directive.args.iter().collect();
    words.try_into().map_err(|_| wrong_number(directive))
}

pub(super) fn wrong_number(directive: &Directive) -> Fault {
    let name = &directive.name.text;
    Fault::new(ErrorKind::Value, directive.span(), format!("invalid number of arguments of \"{name}\""))
        .expecting(directives::usage(name))
}
