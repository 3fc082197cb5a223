//! Values with `$1`, `%1` and `%{NAME}`.

use std::net::IpAddr;

use http::{HeaderName, Method, Version, header::HeaderMap};
use regex::bytes::Captures;

use crate::httpd::directives::pass::Paths;
use crate::httpd::syntax::{Fault, Word};

/// A value of a rule or condition.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    /// `$1`: a group of the rule.
    Rule(usize),
    /// `%1`: a group of the last condition.
    Condition(usize),
    Variable(Variable),
}

#[derive(Debug, Clone)]
enum Variable {
    Header(HeaderName),
    Https,
    Method,
    Protocol,
    Query,
    RemoteAddr,
    /// The path as changed by earlier rules.
    Filename,
    Scheme,
    ServerName,
    ServerPort,
    /// The request line.
    Line,
    /// The path of the request before the rules.
    Uri,
}

const VARIABLES: [(&str, Variable); 13] = [
    ("HTTPS", Variable::Https),
    ("REQUEST_METHOD", Variable::Method),
    ("SERVER_PROTOCOL", Variable::Protocol),
    ("QUERY_STRING", Variable::Query),
    ("REMOTE_ADDR", Variable::RemoteAddr),
    ("REMOTE_HOST", Variable::RemoteAddr),
    ("REQUEST_FILENAME", Variable::Filename),
    ("SCRIPT_FILENAME", Variable::Filename),
    ("REQUEST_SCHEME", Variable::Scheme),
    ("SERVER_NAME", Variable::ServerName),
    ("SERVER_PORT", Variable::ServerPort),
    ("THE_REQUEST", Variable::Line),
    ("REQUEST_URI", Variable::Uri),
];

/// The headers that have a variable without `HTTP:`.
const HEADERS: [(&str, &str); 7] = [
    ("HTTP_ACCEPT", "accept"),
    ("HTTP_COOKIE", "cookie"),
    ("HTTP_FORWARDED", "forwarded"),
    ("HTTP_HOST", "host"),
    ("HTTP_PROXY_CONNECTION", "proxy-connection"),
    ("HTTP_REFERER", "referer"),
    ("HTTP_USER_AGENT", "user-agent"),
];

/// The parts of a request that rules read.
#[derive(Clone)]
pub struct Asked<'r> {
    pub path: Paths,
    /// The path as httpd compares it, if it differs.
    pub compared: Option<String>,
    /// The path and query as the client wrote them.
    pub raw: &'r str,
    pub query: Option<&'r str>,
    pub method: &'r Method,
    pub version: Version,
    pub headers: &'r HeaderMap,
    pub client: Option<IpAddr>,
    pub is_tls: bool,
    /// The host, with the port if the client names one.
    pub host: &'r str,
    /// The port of the server.
    pub port: u16,
}

/// The values, besides the request, that a rule reads for one form of the path.
#[derive(Clone, Copy)]
pub struct Local<'r> {
    pub path: &'r str,
    /// The path before the rules.
    pub uri: &'r str,
    pub query: Option<&'r str>,
    pub groups: &'r Groups,
}

/// The groups of the expressions of a rule and its conditions.
#[derive(Debug, Default, Clone)]
pub struct Groups {
    pub(super) rule: Vec<String>,
    pub(super) condition: Vec<String>,
}

pub(super) fn groups(captures: Option<Captures<'_>>) -> Vec<String> {
    let text = |group: Option<regex::bytes::Match<'_>>| {
        group.map(|group| String::from_utf8_lossy(group.as_bytes()).into_owned()).unwrap_or_default()
    };
    captures.iter().flat_map(Captures::iter).map(text).collect()
}

impl Asked<'_> {
    /// Returns the request with another path.
    pub(super) fn with_path(&self, path: &str) -> Self {
        Asked { path: Paths { read: path.to_owned(), full: path.to_owned() }, ..self.clone() }
    }

    /// Returns the scheme and host.
    pub fn origin(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.host)
    }
}

impl Template {
    pub(super) fn read(word: &Word) -> Result<Self, Fault> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = word.defined()?.text.as_str();
        while let Some(at) = rest.find(['\\', '$', '%']) {
            text.push_str(&rest[..at]);
            let place = word.text.len() - rest.len() + at;
            let behind = &rest[at + 1..];
            let first = behind.chars().next();
            let part = match (&rest[at..=at], first) {
                ("\\", Some(c)) => {
                    text.push(c);
                    rest = &behind[c.len_utf8()..];
                    continue;
                }
                ("$", Some(c)) if c.is_ascii_digit() => Some((Part::Rule(c as usize - '0' as usize), 1)),
                ("%", Some(c)) if c.is_ascii_digit() => Some((Part::Condition(c as usize - '0' as usize), 1)),
                ("%", Some('{')) => {
                    let name = behind[1..].split('}').next().unwrap_or_default();
                    Some((Part::Variable(variable(name, place, word)?), name.len() + 2))
                }
                ("$", Some('{')) => {
                    return Err(word.fault_at(
                        place,
                        "RewriteMap is not supported",
                        "a rule for each value of the map",
                    ));
                }
                _ => None,
            };
            match part {
                Some((part, length)) => {
                    parts.extend((!text.is_empty()).then(|| Part::Text(std::mem::take(&mut text))));
                    parts.push(part);
                    rest = behind.get(length..).unwrap_or_default();
                }
                None => {
                    text.push_str(&rest[at..=at]);
                    rest = behind;
                }
            }
        }
        text.push_str(rest);
        parts.extend((!text.is_empty()).then_some(Part::Text(text)));
        Ok(Template(parts))
    }

    /// Returns the value if it does not depend on the request.
    pub(super) fn as_literal(&self) -> Option<&str> {
        match &self.0[..] {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Returns whether the value may contain a part of the path, which is compared without
    /// parameters.
    pub(super) fn reads_path(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Rule(_) | Part::Condition(_) => true,
            Part::Variable(variable) => matches!(variable, Variable::Filename | Variable::Uri),
            Part::Text(_) => false,
        })
    }

    pub(super) fn value(&self, asked: &Asked<'_>, local: &Local<'_>) -> String {
        self.0.iter().map(|part| part.value(asked, local)).collect()
    }

    /// Returns whether the first `?` of the value comes from the request. That `?` begins the
    /// query, and should come from the configuration.
    pub(super) fn begins_query_by_value(&self, asked: &Asked<'_>, local: &Local<'_>) -> bool {
        let first = self.0.iter().find(|part| part.value(asked, local).contains('?'));
        first.is_some_and(|part| !matches!(part, Part::Text(_)))
    }
}

impl Part {
    fn value(&self, asked: &Asked<'_>, local: &Local<'_>) -> String {
        let group = |groups: &[String], number: usize| groups.get(number).cloned().unwrap_or_default();
        match self {
            Part::Text(text) => text.clone(),
            Part::Rule(number) => group(&local.groups.rule, *number),
            Part::Condition(number) => group(&local.groups.condition, *number),
            Part::Variable(variable) => variable.value(asked, local),
        }
    }
}

impl Variable {
    fn value(&self, asked: &Asked<'_>, local: &Local<'_>) -> String {
        let (name, port) = match asked.host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.to_owned()),
            _ => (asked.host, asked.port.to_string()),
        };
        match self {
            Variable::Header(name) => {
                let values = asked.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
                values.collect::<Vec<_>>().join(", ")
            }
            Variable::Https => if asked.is_tls { "on" } else { "off" }.to_owned(),
            Variable::Method => asked.method.to_string(),
            Variable::Protocol => format!("{:?}", asked.version),
            Variable::Query => local.query.unwrap_or_default().to_owned(),
            Variable::RemoteAddr => asked.client.map(|client| client.to_canonical().to_string()).unwrap_or_default(),
            Variable::Filename => local.path.to_owned(),
            Variable::Scheme => if asked.is_tls { "https" } else { "http" }.to_owned(),
            Variable::ServerName => name.trim_end_matches('.').to_owned(),
            Variable::ServerPort => port,
            Variable::Line => format!("{} {} {:?}", asked.method, asked.raw, asked.version),
            Variable::Uri => local.uri.to_owned(),
        }
    }
}

fn variable(name: &str, place: usize, word: &Word) -> Result<Variable, Fault> {
    let named = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok().map(Variable::Header);
    let known = VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, variable)| variable.clone());
    let header = HEADERS.iter().find(|(known, _)| *known == name).map(|(_, header)| *header);
    known.or_else(|| named(header.or(name.strip_prefix("HTTP:"))?)).ok_or_else(|| {
        let names = VARIABLES.iter().map(|(name, _)| *name).chain(HEADERS.iter().map(|(name, _)| *name));
        let expected = format!("HTTP:HEADER, {}", names.collect::<Vec<_>>().join(", "));
        word.fault_at(place, format!("the variable %{{{name}}} has no value here"), expected)
    })
}
