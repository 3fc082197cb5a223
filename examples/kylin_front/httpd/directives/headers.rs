//! `Header` and `RequestHeader`.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use kylin_lb::proxy::HeaderEdits;
use regex::bytes::Regex;

use crate::httpd::syntax::{Directive, Fault, Word};

/// A `Header` or `RequestHeader` directive.
#[derive(Debug, Clone)]
pub struct HeaderRule {
    /// Whether the directive also applies to responses of the front end, and does not see the
    /// headers of the node (`always`).
    pub always: bool,
    operation: Operation,
    name: HeaderName,
    condition: Option<RouteChanged>,
}

#[derive(Debug, Clone)]
enum Operation {
    Set(Template),
    SetIfEmpty(Template),
    Add(Template),
    /// Appends the value after a comma. With `merge`, only if the header does not have the value.
    Append {
        value: Template,
        merge: bool,
    },
    Unset,
    Edit {
        pattern: Regex,
        value: Template,
        all: bool,
    },
}

/// The condition `env=BALANCER_ROUTE_CHANGED`, which `!` negates.
#[derive(Debug, Clone, Copy)]
struct RouteChanged {
    negated: bool,
}

/// A value with variables.
#[derive(Debug, Clone)]
struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable(Variable),
}

#[derive(Debug, Clone, Copy)]
enum Variable {
    WorkerRoute,
    WorkerName,
    SessionRoute,
    SessionSticky,
    RouteChanged,
    RemoteAddr,
    Scheme,
    Https,
    Host,
}

/// The variables by name, and whether each is known before the request reaches a node.
const VARIABLES: [(&str, Variable, bool); 9] = [
    ("BALANCER_WORKER_ROUTE", Variable::WorkerRoute, false),
    ("BALANCER_WORKER_NAME", Variable::WorkerName, false),
    ("BALANCER_SESSION_ROUTE", Variable::SessionRoute, false),
    ("BALANCER_SESSION_STICKY", Variable::SessionSticky, false),
    ("BALANCER_ROUTE_CHANGED", Variable::RouteChanged, false),
    ("REMOTE_ADDR", Variable::RemoteAddr, true),
    ("REQUEST_SCHEME", Variable::Scheme, true),
    ("HTTPS", Variable::Https, true),
    ("HTTP_HOST", Variable::Host, true),
];

/// The values of the variables.
#[derive(Debug, Clone, Default)]
pub struct Scope<'r> {
    pub client: Option<IpAddr>,
    pub is_tls: bool,
    pub host: Cow<'r, str>,
    /// The route that the session of the request names.
    pub session_route: Option<Cow<'r, str>>,
    pub session_name: Option<&'r str>,
    /// The route and the URL of the node that served.
    pub worker: Option<(&'r str, Cow<'r, str>)>,
    /// Whether a node other than that of the session served the request.
    pub route_changed: bool,
}

/// Returns whether proxies name the client in a header. The front end sets such a header itself, or
/// drops it from untrusted peers.
pub fn names_client(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    matches!(&*name, "forwarded" | "x-real-ip" | "x-forwarded") || name.starts_with("x-forwarded-")
}

impl HeaderRule {
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    pub fn is_unset(&self) -> bool {
        matches!(self.operation, Operation::Unset)
    }

    /// Returns whether the directive depends on a header in which an untrusted peer may have named
    /// another client.
    pub fn reads_client(&self) -> bool {
        names_client(&self.name) && !matches!(self.operation, Operation::Set(_) | Operation::Unset)
    }

    /// Reads `Header [always|onsuccess] OPERATION NAME [VALUE [REPLACEMENT]]
    /// [env=NAME]`, and `RequestHeader`.
    pub fn read(directive: &Directive) -> Result<Self, Fault> {
        let is_request = directive.is("RequestHeader");
        let mut words = directive.args.iter().peekable();
        let condition = |text: &str, word: &&Word| word.text.eq_ignore_ascii_case(text);
        let always = !is_request && words.next_if(|word| condition("always", word)).is_some();
        if !is_request && !always {
            _ = words.next_if(|word| condition("onsuccess", word));
        }
        let forms = "set, setifempty, add, append, merge, unset, edit or edit*";
        let (Some(operation), Some(name)) = (words.next(), words.next()) else {
            return Err(directive.fault(
                format!("{} needs an operation and a name", directive.name.text),
                format!("{forms}, and a name"),
            ));
        };
        let text = name.defined()?.text.trim_end_matches(':');
        let Ok(header) = HeaderName::from_bytes(text.as_bytes()) else {
            return Err(name.fault(format!("not the name of a header: \"{text}\""), "a name such as X-Served-By"));
        };
        if !HeaderEdits::allows(&header) {
            return Err(name.fault(format!("{text} belongs to the connection or frames the body"), "another header"));
        }
        let mut value = || match words.next() {
            Some(word) => Template::read(word, is_request),
            None => Err(directive.fault(format!("{} {text} has no value", operation.text), "a value")),
        };
        let operation = match operation.text.to_ascii_lowercase().as_str() {
            "set" => Operation::Set(value()?),
            "setifempty" => Operation::SetIfEmpty(value()?),
            "add" => Operation::Add(value()?),
            "append" => Operation::Append { value: value()?, merge: false },
            "merge" => Operation::Append { value: value()?, merge: true },
            "unset" => Operation::Unset,
            edit @ ("edit" | "edit*") => {
                let Some(pattern) = words.next() else {
                    return Err(directive.fault("edit needs an expression", "edit NAME EXPRESSION VALUE"));
                };
                let pattern = super::pass::pattern(pattern)?;
                let value = match words.next() {
                    Some(word) => Template::read(word, is_request)?,
                    None => return Err(directive.fault("edit needs a value", "edit NAME EXPRESSION VALUE")),
                };
                Operation::Edit { pattern, value, all: edit == "edit*" }
            }
            "echo" | "note" => return Err(operation.fault(format!("{} is not supported", operation.text), forms)),
            _ => return Err(operation.fault(format!("unknown operation \"{}\"", operation.text), forms)),
        };
        let condition = words.next().map(|word| RouteChanged::read(word, is_request)).transpose()?;
        match words.next() {
            Some(more) => Err(more.unexpected(directive, "quotes around a value with spaces")),
            None => Ok(HeaderRule { always, operation, name: header, condition }),
        }
    }

    /// Applies the directive to the headers of a message. A value that cannot be sent changes
    /// nothing.
    pub fn apply(&self, headers: &mut HeaderMap, scope: &Scope<'_>) {
        if self.condition.is_some_and(|condition| scope.route_changed == condition.negated) {
            return;
        }
        let name = &self.name;
        let value = |template: &Template| HeaderValue::from_bytes(template.value(scope).as_bytes()).ok();
        match &self.operation {
            Operation::Unset => _ = headers.remove(name),
            Operation::Set(template) => {
                if let Some(value) = value(template) {
                    headers.insert(name, value);
                }
            }
            Operation::SetIfEmpty(template) => {
                if let (Some(value), true) = (value(template), headers.get(name).is_none_or(HeaderValue::is_empty)) {
                    headers.insert(name, value);
                }
            }
            Operation::Add(template) => {
                if let Some(value) = value(template) {
                    headers.append(name, value);
                }
            }
            Operation::Append { value: template, merge } => {
                let new = template.value(scope);
                let old: Vec<u8> =
                    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b", "[..]);
                let is_there = old.split(|byte| *byte == b',').any(|part| part.trim_ascii() == new.as_bytes());
                if *merge && is_there {
                    return;
                }
                let joined =
                    if old.is_empty() { new.into_bytes() } else { [&old, &b", "[..], new.as_bytes()].concat() };
                if let Ok(value) = HeaderValue::from_bytes(&joined) {
                    headers.insert(name, value);
                }
            }
            Operation::Edit { pattern, value: template, all } => {
                let to = template.value(scope);
                let to = super::pass::replacement(&to);
                let edit = |value: &HeaderValue| {
                    let count = if *all { 0 } else { 1 };
                    let edited = pattern.replacen(value.as_bytes(), count, to.as_bytes());
                    HeaderValue::from_bytes(&edited).unwrap_or_else(|_| value.clone())
                };
                let edited: Vec<_> = headers.get_all(name).iter().map(edit).collect();
                headers.remove(name);
                edited.into_iter().for_each(|value| _ = headers.append(name, value));
            }
        }
    }
}

impl RouteChanged {
    fn read(word: &Word, is_request: bool) -> Result<Self, Fault> {
        let expected = "env=BALANCER_ROUTE_CHANGED, or no condition";
        let condition =
            word.text.strip_prefix("env=").map(|name| (name.trim_start_matches('!'), name.starts_with('!')));
        match condition {
            Some(("BALANCER_ROUTE_CHANGED", negated)) if !is_request => Ok(RouteChanged { negated }),
            Some((name, _)) => Err(word.fault(format!("the variable {name} is not set here"), expected)),
            None if word.text.eq_ignore_ascii_case("early") => {
                Err(word.fault("early is not supported", "the line without it"))
            }
            None => Err(word.fault(
                format!("not understood: \"{}\"", word.text),
                format!("{expected}; quotes around a value with spaces"),
            )),
        }
    }
}

impl Template {
    fn read(word: &Word, is_request: bool) -> Result<Self, Fault> {
        word.defined()?;
        let names = || VARIABLES.iter().filter(|(.., early)| *early || !is_request).map(|(name, ..)| *name);
        let expected = || format!("text, %% or %{{NAME}}e with {}", names().collect::<Vec<_>>().join(", "));
        let find = |name: &str| VARIABLES.iter().find(|(known, _, early)| *known == name && (*early || !is_request));
        if let Some(expression) = word.text.strip_prefix("expr=") {
            let name = expression.strip_prefix("%{").and_then(|name| name.strip_suffix('}'));
            return match name.and_then(find) {
                Some((_, variable, _)) => Ok(Template(vec![Part::Variable(*variable)])),
                None => Err(word.fault("expressions are not supported", expected())),
            };
        }
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = word.text.as_str();
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            if let Some(after) = behind.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let place = word.text.len() - behind.len() - 1;
            let end = behind.strip_prefix('{').and_then(|name| Some((name, name.find('}')?)));
            let Some((named, end)) =
                end.filter(|(named, end)| matches!(named.as_bytes().get(end + 1), Some(b'e' | b's')))
            else {
                let format: String = behind.chars().take(1).collect();
                return Err(word.fault_at(place, format!("\"%{format}\" is not supported"), expected()));
            };
            let Some((_, variable, _)) = find(&named[..end]) else {
                return Err(word.fault_at(
                    place,
                    format!("the variable {} is not set here", &named[..end]),
                    expected(),
                ));
            };
            parts.extend((!text.is_empty()).then(|| Part::Text(std::mem::take(&mut text))));
            parts.push(Part::Variable(*variable));
            rest = &named[end + 2..];
        }
        text.push_str(rest);
        if HeaderValue::from_str(&text).is_err() {
            return Err(word.fault("a header cannot carry this value", "text without line ends"));
        }
        parts.extend((!text.is_empty()).then_some(Part::Text(text)));
        Ok(Template(parts))
    }

    fn value(&self, scope: &Scope<'_>) -> String {
        let mut value = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Variable(variable) => variable.add(scope, &mut value),
            }
        }
        value
    }
}

impl Variable {
    fn add(self, scope: &Scope<'_>, to: &mut String) {
        // httpd writes this for a variable that is not set.
        const NONE: &str = "(null)";
        match self {
            Variable::WorkerRoute => {
                to.push_str(
                    scope.worker.as_ref().map(|(route, _)| *route).filter(|route| !route.is_empty()).unwrap_or(NONE),
                );
            }
            Variable::WorkerName => to.push_str(scope.worker.as_ref().map_or(NONE, |(_, name)| name)),
            Variable::SessionRoute => to.push_str(scope.session_route.as_deref().unwrap_or(NONE)),
            Variable::SessionSticky => to.push_str(scope.session_name.unwrap_or(NONE)),
            Variable::RouteChanged => to.push_str(if scope.route_changed { "1" } else { NONE }),
            Variable::RemoteAddr => {
                to.push_str(&scope.client.map(|client| client.to_canonical().to_string()).unwrap_or_default())
            }
            Variable::Scheme => to.push_str(if scope.is_tls { "https" } else { "http" }),
            Variable::Https => to.push_str(if scope.is_tls { "on" } else { "off" }),
            Variable::Host => to.push_str(&scope.host),
        }
    }
}
