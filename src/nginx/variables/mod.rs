//! Values with variables: `proxy_set_header`, `add_header`, `return`, `hash`, `sticky route`.
//!
//! A [`Template`] is compiled while the configuration is read, so an unknown variable is an error
//! with a position. A request only walks over the pieces, without a lookup by name.

mod geo;
mod logged;
mod lookup;
mod map;
mod names;
mod order;
mod outcome;
mod scope;
mod sink;
mod sources;
mod split_clients;
mod uses;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use thiserror::Error;

pub(crate) use logged::Escape;
pub(crate) use map::Maps;
pub(crate) use names::may_be_set;
pub(crate) use scope::{MapValues, Outcome, RequestId, Scope, Snapshot, TlsConnection, UpstreamAttempts};
pub(crate) use sources::ValueSources;
pub(crate) use uses::ValueParts;

use self::map::Map;
use self::names::{Evaluate, NAMES, hostname};
use self::sink::Sink;
use super::syntax::{Fault, Pattern, Word, nearest};

/// A value as nginx writes it: literal text and variables.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
    text: String,
}

/// The error for a value with a line break, or another byte that no header may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("value cannot be sent in a header")]
pub(crate) struct Unsendable;

#[derive(Debug, Clone)]
enum Piece {
    Literal(String),
    Variable {
        variable: Variable,
        /// The name in lower case.
        name: String,
    },
}

#[derive(Debug, Clone)]
enum Variable {
    Named(Evaluate),
    /// `$arg_NAME`.
    Arg(String),
    /// `$1` to `$9`.
    Capture(u8),
    /// `$cookie_NAME`.
    Cookie(String),
    /// `$http_NAME`.
    Header(HeaderName),
    /// `$sent_http_NAME`.
    Sent(HeaderName),
    /// `$upstream_http_NAME`.
    Received(HeaderName),
    /// A variable of nginx that has no value here, in a log.
    Absent,
    Mapped(Arc<Map>),
    /// `$uri` and `$document_uri`, which are decoded.
    Path,
    /// A variable of `set`, by its slot.
    Set(usize),
}

impl Template {
    /// Returns the text as written in the file.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Compiles a word as `ngx_http_script_compile` does.
    pub(crate) fn new(word: &Word, maps: &Maps) -> Result<Template, Fault> {
        Template::compile(word, maps, &[], false).map(|(template, _)| template)
    }

    /// Compiles a word of a log format. Also returns the variables of nginx that have no value
    /// here.
    ///
    /// # Errors
    /// Variables that hold secrets are errors too.
    pub(crate) fn for_log(word: &Word, maps: &Maps, sources: &ValueSources) -> Result<(Template, Vec<String>), Fault> {
        let (template, absent) = Template::compile(word, maps, &[], true)?;
        template.check_loggable(word.span, maps, sources)?;
        Ok((template, absent))
    }

    /// Compiles a word that may use the named groups of an expression as variables. `from` is the
    /// word of the expression.
    pub(crate) fn with_groups(word: &Word, maps: &Maps, pattern: &Pattern, from: &Word) -> Result<Template, Fault> {
        let groups = names::named_groups(pattern, from)?;
        Template::compile(word, maps, &groups, false).map(|(template, _)| template)
    }

    fn compile(
        word: &Word,
        maps: &Maps,
        groups: &[(String, u8)],
        for_log: bool,
    ) -> Result<(Template, Vec<String>), Fault> {
        let (mut pieces, mut absent): (Vec<Piece>, Vec<String>) = Default::default();
        let literal = |text: &str, pieces: &mut Vec<Piece>| match pieces.last_mut() {
            Some(Piece::Literal(before)) => before.push_str(text),
            _ if text.is_empty() => {}
            _ => pieces.push(Piece::Literal(text.to_owned())),
        };
        let mut rest = word.text.as_str();
        while let Some(dollar) = rest.find('$') {
            literal(&rest[..dollar], &mut pieces);
            let span = word.span.right(word.text.len() - rest.len() + dollar);
            let behind = &rest[dollar + 1..];
            let (name, after) = match behind.strip_prefix('{') {
                Some(braced) => {
                    braced.split_once('}').ok_or_else(|| span.syntax("variable without closing brace", "${NAME}"))?
                }
                // `$12` is the first capture, followed by a 2.
                None if behind.starts_with(|c: char| c.is_ascii_digit()) => behind.split_at(1),
                None => behind.split_at(behind.find(|c| !is_name_letter(c)).unwrap_or(behind.len())),
            };
            match name.to_ascii_lowercase().as_str() {
                "" => {
                    let expected = "$NAME or ${NAME}; nginx has no way to write a plain \"$\"";
                    return Err(span.syntax("\"$\" without the name of a variable", expected));
                }
                "hostname" => {
                    let unknown = || span.unsupported("the name of this machine is unknown", "the name itself");
                    literal(&hostname().ok_or_else(unknown)?, &mut pieces);
                }
                lower if for_log && (logged::is_absent(lower) || logged::is_secret(lower)) => {
                    absent.extend((!logged::is_secret(lower)).then(|| lower.to_owned()));
                    pieces.push(Piece::Variable { variable: Variable::Absent, name: lower.to_owned() });
                }
                lower => match Variable::find(lower, maps, groups) {
                    Some(variable) => pieces.push(Piece::Variable { variable, name: lower.to_owned() }),
                    None => {
                        let candidates = NAMES.iter().map(|(name, _)| *name).chain(maps.names());
                        let meant = nearest(lower, candidates);
                        let hint = meant.map(|meant| format!(", did you mean \"${meant}\"?")).unwrap_or_default();
                        let names: Vec<_> = NAMES.iter().map(|(name, _)| format!("${name}")).collect();
                        let expected = format!(
                            "one of: $http_NAME, $sent_http_NAME, $upstream_http_NAME, $cookie_NAME, $arg_NAME, $1..$9, $hostname, {}",
                            names.join(", ")
                        );
                        if let Some(instead) = logged::instead(lower) {
                            return Err(span.unsupported(format!("\"${name}\" is not known here"), instead));
                        }
                        if lower.starts_with("geoip") {
                            let message = format!("unknown variable \"${name}\": databases of places are not read");
                            return Err(
                                span.unknown(message, "geo $NAME { default VALUE; NETWORK VALUE; ... } in http")
                            );
                        }
                        if word.shell_variable() == Some(name) {
                            let message =
                                format!("unknown variable \"${name}\": variables of the shell are not filled in");
                            return Err(span.unknown(
                                message,
                                format!("envsubst '${{{name}}}' < TEMPLATE > FILE, before the file is read"),
                            ));
                        }
                        return Err(span.unknown(format!("unknown variable \"${name}\"{hint}"), expected));
                    }
                },
            }
            rest = after;
        }
        literal(rest, &mut pieces);
        Ok((Template { pieces, text: word.text.clone() }, absent))
    }

    /// Compiles a word for a header. Control characters in its literal parts are an error.
    pub(crate) fn for_header(word: &Word, maps: &Maps) -> Result<Template, Fault> {
        check_header(word)?;
        Template::new(word, maps)
    }

    /// Returns the value if it has no variables.
    pub(crate) fn as_literal(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    fn write(&self, scope: &Scope<'_>, sink: Sink<'_>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => sink(text.as_bytes()),
                Piece::Variable { variable, .. } => variable.write(scope, sink),
            }
        }
    }

    /// Returns the value, borrowed if it has no variables.
    pub(crate) fn value(&self, scope: &Scope<'_>) -> Cow<'_, [u8]> {
        match self.as_literal() {
            Some(text) => Cow::Borrowed(text.as_bytes()),
            None => Cow::Owned(self.to_bytes(scope)),
        }
    }

    pub(crate) fn to_bytes(&self, scope: &Scope<'_>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len());
        self.write(scope, &mut |piece| bytes.extend_from_slice(piece));
        bytes
    }

    /// Returns the value for a header; `None` if it is empty, because nginx then sends no such
    /// header.
    ///
    /// # Errors
    /// [`Unsendable`] if a variable holds a line break: such a value would add headers of its own.
    pub(crate) fn to_header(&self, scope: &Scope<'_>) -> Result<Option<HeaderValue>, Unsendable> {
        let bytes = self.to_bytes(scope);
        if bytes.is_empty() {
            return Ok(None);
        }
        HeaderValue::from_maybe_shared(Bytes::from(bytes)).map(Some).map_err(|_| Unsendable)
    }

    /// Returns the name of a cookie in lower case, if the whole value is that cookie.
    pub(crate) fn as_cookie(&self) -> Option<&str> {
        match &self.pieces[..] {
            [Piece::Variable { variable: Variable::Cookie(name), .. }] => Some(name),
            _ => None,
        }
    }

    /// Returns whether the value depends on the groups of a regular expression.
    pub(crate) fn has_captures(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Variable { variable: Variable::Capture(_), .. }))
    }

    /// Returns whether the name of one of the variables begins with `start`. Variables that a `map`
    /// reads count too.
    pub(crate) fn mentions(&self, start: &str) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Literal(_) => false,
            Piece::Variable { variable: Variable::Mapped(map), .. } => map.mentions(start),
            Piece::Variable { name, .. } => name.starts_with(start),
        })
    }

    /// Returns whether the value is known only when there is a response.
    pub(crate) fn needs_outcome(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Literal(_) => false,
            Piece::Variable { variable: Variable::Mapped(map), .. } => map.needs_outcome,
            Piece::Variable { variable: Variable::Sent(_) | Variable::Received(_), .. } => true,
            Piece::Variable { name, .. } => names::needs_outcome(name),
        })
    }

    /// Returns whether the value may change while a request is served: by `set`, `rewrite`, an
    /// expression or an error page.
    pub(super) fn may_change(&self) -> bool {
        self.pieces.iter().any(|piece| match piece {
            Piece::Literal(_) => false,
            Piece::Variable { variable: Variable::Mapped(map), .. } => map.may_change(),
            Piece::Variable { variable: Variable::Arg(_) | Variable::Capture(_), .. } => true,
            Piece::Variable { variable: Variable::Path | Variable::Set(_), .. } => true,
            Piece::Variable { name, .. } => names::may_change(name),
        })
    }

    /// Returns the maps whose variables the value uses.
    fn maps(&self) -> impl Iterator<Item = &Map> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable { variable: Variable::Mapped(map), .. } => Some(&**map),
            Piece::Variable { .. } | Piece::Literal(_) => None,
        })
    }

    /// Makes a template without variables.
    pub(crate) fn literal(text: &str) -> Template {
        Template { pieces: vec![Piece::Literal(text.to_owned())], text: text.to_owned() }
    }
}

impl fmt::Display for Template {
    /// Shows the value as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Variable {
    fn find(name: &str, maps: &Maps, groups: &[(String, u8)]) -> Option<Variable> {
        let group = groups.iter().find(|(group, _)| group == name).map(|(_, number)| Variable::Capture(*number));
        let set = || maps.set_slot(name).map(Variable::Set);
        group.or_else(|| maps.get(name).map(Variable::Mapped)).or_else(set).or_else(|| Variable::built_in(name))
    }

    fn built_in(name: &str) -> Option<Variable> {
        let rest = |prefix| name.strip_prefix(prefix).filter(|rest: &&str| !rest.is_empty());
        let header = |name: &str| HeaderName::try_from(name.replace('_', "-")).ok();
        if let Some(name) = rest("http_") {
            return header(name).map(Variable::Header);
        }
        if let Some(name) = rest("sent_http_") {
            return header(name).map(Variable::Sent);
        }
        if let Some(name) = rest("upstream_http_") {
            return header(name).map(Variable::Received);
        }
        if let Some(name) = rest("cookie_") {
            return Some(Variable::Cookie(name.to_owned()));
        }
        if let Some(name) = rest("arg_") {
            return Some(Variable::Arg(name.to_owned()));
        }
        if let [digit @ b'1'..=b'9'] = name.as_bytes() {
            return Some(Variable::Capture(digit - b'0'));
        }
        if matches!(name, "uri" | "document_uri") {
            return Some(Variable::Path);
        }
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, evaluate)| Variable::Named(*evaluate))
    }

    fn write(&self, scope: &Scope<'_>, sink: Sink<'_>) {
        match self {
            Variable::Named(evaluate) => evaluate(scope, sink),
            Variable::Arg(name) => sink(lookup::arg(scope.query(), name.as_bytes()).unwrap_or_default()),
            Variable::Capture(group) => {
                sink(scope.captures.0.get(usize::from(*group)).copied().flatten().unwrap_or_default());
            }
            Variable::Cookie(name) => {
                let mut lines = scope.headers.get_all(http::header::COOKIE).iter();
                sink(lines.find_map(|line| lookup::cookie(line.as_bytes(), name.as_bytes())).unwrap_or_default());
            }
            Variable::Header(name) => names::header(scope, name, sink),
            Variable::Sent(name) => outcome::sent(scope, name, sink),
            Variable::Received(name) => outcome::received(scope, name, sink),
            Variable::Absent => {}
            Variable::Mapped(map) => map.write(scope, sink),
            Variable::Path => sink(scope.path),
            Variable::Set(slot) => sink(scope.sets.get(*slot).map_or(b"", Vec::as_slice)),
        }
    }
}

/// Checks that a text that becomes a header has no control characters.
pub(crate) fn check_header(word: &Word) -> Result<(), Fault> {
    if word.text.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(word.span.value("a line break or control character in a header", "a value on one line"));
    }
    Ok(())
}

fn is_name_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Returns whether a name, in lower case, is a built-in variable.
fn is_built_in(name: &str) -> bool {
    name == "hostname" || Variable::built_in(name).is_some()
}

#[cfg(test)]
mod tests;
