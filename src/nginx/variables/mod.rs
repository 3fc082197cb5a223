//! Values with variables in them: `proxy_set_header`, `add_header`, `return`, `hash`, `sticky route`.
//!
//! A [`Template`] is compiled when the configuration is read, where an unknown variable is an error with a place. What
//! is left for a request is a walk over pieces, without a lookup by name.

mod lookup;
mod map;
mod scope;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use thiserror::Error;

pub(crate) use map::{Map, Maps};
pub(crate) use scope::{Captures, Scope};

use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::suggest;

/// A value as nginx writes it: literal text and variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
    text: String,
}

/// A value that would hold a line break or another byte that no header field may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("value cannot be sent in a header field")]
pub(crate) struct Unsendable;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variable {
    Args,
    BinaryRemoteAddr,
    Capture(u8),
    Cookie(String),
    Arg(String),
    Host,
    Http(HeaderName),
    IsArgs,
    Mapped(Arc<Map>),
    ProxyAddXForwardedFor,
    ProxyHost,
    RealipRemoteAddr,
    RealipRemotePort,
    RemoteAddr,
    RemotePort,
    Request,
    RequestMethod,
    RequestUri,
    Scheme,
    ServerAddr,
    ServerName,
    ServerPort,
    ServerProtocol,
    Uri,
}

static NAMES: &[(&str, Variable)] = &[
    ("args", Variable::Args),
    ("binary_remote_addr", Variable::BinaryRemoteAddr),
    ("content_length", Variable::Http(http::header::CONTENT_LENGTH)),
    ("content_type", Variable::Http(http::header::CONTENT_TYPE)),
    ("document_uri", Variable::Uri),
    ("host", Variable::Host),
    ("is_args", Variable::IsArgs),
    ("proxy_add_x_forwarded_for", Variable::ProxyAddXForwardedFor),
    ("proxy_host", Variable::ProxyHost),
    ("query_string", Variable::Args),
    ("realip_remote_addr", Variable::RealipRemoteAddr),
    ("realip_remote_port", Variable::RealipRemotePort),
    ("remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("request", Variable::Request),
    ("request_method", Variable::RequestMethod),
    ("request_uri", Variable::RequestUri),
    ("scheme", Variable::Scheme),
    ("server_addr", Variable::ServerAddr),
    ("server_name", Variable::ServerName),
    ("server_port", Variable::ServerPort),
    ("server_protocol", Variable::ServerProtocol),
    ("uri", Variable::Uri),
];

impl Template {
    /// Compiles a word, as `ngx_http_script_compile` reads it.
    pub(super) fn new(word: &Word, maps: &Maps) -> Result<Template, Fault> {
        Template::of_pattern(word, maps, &[])
    }

    /// The same where a regular expression has just found its named groups.
    fn of_pattern(word: &Word, maps: &Maps, groups: &[(String, u8)]) -> Result<Template, Fault> {
        let mut pieces: Vec<Piece> = Vec::new();
        let literal = |text: &str, pieces: &mut Vec<Piece>| match pieces.last_mut() {
            Some(Piece::Literal(before)) => before.push_str(text),
            _ if text.is_empty() => {}
            _ => pieces.push(Piece::Literal(text.to_owned())),
        };
        let mut rest = word.text.as_str();
        while let Some(dollar) = rest.find('$') {
            literal(&rest[..dollar], &mut pieces);
            let at = word.text.len() - rest.len() + dollar;
            let fault = |kind, message: String| Fault::new(kind, word.span, message).right(at);
            let behind = &rest[dollar + 1..];
            let (name, after) = match behind.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or_else(|| {
                    fault(ErrorKind::Syntax, "variable without closing brace".into()).expecting("${NAME}")
                })?,
                // `$12` is the first capture and a 2.
                None if behind.starts_with(|c: char| c.is_ascii_digit()) => behind.split_at(1),
                None => {
                    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    behind.split_at(behind.find(|c| !letter(c)).unwrap_or(behind.len()))
                }
            };
            match name.to_ascii_lowercase().as_str() {
                "" => {
                    return Err(fault(ErrorKind::Syntax, "\"$\" without the name of a variable".into())
                        .expecting("$NAME or ${NAME}; there is no way to write a plain \"$\""));
                }
                "hostname" => literal(
                    &hostname().ok_or_else(|| {
                        fault(ErrorKind::Unsupported, "the name of this machine is not known".into())
                            .expecting("the name itself")
                    })?,
                    &mut pieces,
                ),
                lower => pieces.push(Piece::Variable(variable(lower, maps, groups).ok_or_else(|| {
                    let meant = suggest::nearest(lower, NAMES.iter().map(|(name, _)| *name).chain(maps.names()));
                    let hint = meant.map(|meant| format!(", did you mean \"${meant}\"?")).unwrap_or_default();
                    let known: Vec<_> = NAMES.iter().map(|(name, _)| format!("${name}")).collect();
                    fault(ErrorKind::Unknown, format!("unknown variable \"${name}\"{hint}")).expecting(format!(
                        "one of: $http_NAME, $cookie_NAME, $arg_NAME, $1..$9, $hostname, {}",
                        known.join(", ")
                    ))
                })?)),
            }
            rest = after;
        }
        literal(rest, &mut pieces);
        Ok(Template { pieces, text: word.text.clone() })
    }

    /// Compiles a word for a header field, whose literal parts can be judged at once.
    pub(super) fn for_header(word: &Word, maps: &Maps) -> Result<Template, Fault> {
        if word.text.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
            return Err(Fault::new(ErrorKind::Value, word.span, "a line break or control character in a header field")
                .expecting("a value on one line"));
        }
        Template::new(word, maps)
    }

    /// The value, when it has no variables.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Hands the value to `sink`, piece by piece and without allocating: hash keys are computed so.
    pub(crate) fn write(&self, scope: &Scope<'_>, sink: &mut dyn FnMut(&[u8])) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => sink(text.as_bytes()),
                Piece::Variable(variable) => variable.write(scope, sink),
            }
        }
    }

    /// The value, borrowed when it has no variables.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Cow<'_, [u8]> {
        match self.as_literal() {
            Some(text) => Cow::Borrowed(text.as_bytes()),
            None => Cow::Owned(self.to_bytes(scope)),
        }
    }

    /// The value as bytes.
    pub(crate) fn to_bytes(&self, scope: &Scope<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len());
        self.write(scope, &mut |piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// The value for a header field; `None` when it is empty, which in nginx means no such field.
    ///
    /// # Errors
    /// [`Unsendable`] when a variable brought in a line break or the like: such a value would add fields of its own.
    pub(crate) fn to_header(&self, scope: &Scope<'_>) -> Result<Option<HeaderValue>, Unsendable> {
        let bytes = self.to_bytes(scope);
        if bytes.is_empty() {
            return Ok(None);
        }
        HeaderValue::from_maybe_shared(Bytes::from(bytes)).map(Some).map_err(|_| Unsendable)
    }

    /// The name of the cookie, in lower case, when the value is that of a cookie and nothing else.
    pub(super) fn as_cookie(&self) -> Option<&str> {
        match &self.pieces[..] {
            [Piece::Variable(Variable::Cookie(name))] => Some(name),
            _ => None,
        }
    }

    /// True when the value depends on the groups of a regular expression.
    pub(super) fn has_captures(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Variable(Variable::Capture(_))))
    }

    /// The value put together from literals, by the rules of this module only.
    pub(super) fn literal(text: &str) -> Template {
        Template { pieces: vec![Piece::Literal(text.to_owned())], text: text.to_owned() }
    }
}

impl fmt::Display for Template {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Variable {
    fn named(name: &str) -> Option<Variable> {
        if let Some(name) = name.strip_prefix("http_").filter(|name| !name.is_empty()) {
            return HeaderName::try_from(name.replace('_', "-")).ok().map(Variable::Http);
        }
        if let Some(name) = name.strip_prefix("cookie_").filter(|name| !name.is_empty()) {
            return Some(Variable::Cookie(name.to_owned()));
        }
        if let Some(name) = name.strip_prefix("arg_").filter(|name| !name.is_empty()) {
            return Some(Variable::Arg(name.to_owned()));
        }
        if let [digit @ b'1'..=b'9'] = name.as_bytes() {
            return Some(Variable::Capture(digit - b'0'));
        }
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, variable)| variable.clone())
    }
}

fn variable(name: &str, maps: &Maps, groups: &[(String, u8)]) -> Option<Variable> {
    let group = groups.iter().find(|(group, _)| group == name).map(|(_, number)| Variable::Capture(*number));
    group.or_else(|| maps.variable(name)).or_else(|| Variable::named(name))
}

/// Has a name, in lower case, a meaning without any map?
fn is_known(name: &str) -> bool {
    name == "hostname" || Variable::named(name).is_some()
}

/// `$hostname`. The standard library cannot ask the system, which on Linux also says it in files.
fn hostname() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok().map(|name| name.trim().to_ascii_lowercase());
    let sources = [read("/proc/sys/kernel/hostname"), read("/etc/hostname"), std::env::var("HOSTNAME").ok()];
    sources.into_iter().flatten().find(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
