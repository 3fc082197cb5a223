//! The requests to which a section applies.

use std::fmt;

use regex::bytes::Regex;

use crate::httpd::directives::pass;
use crate::httpd::syntax::{Directive, Fault, Word};

/// The requests of a section.
#[derive(Debug, Clone)]
pub enum Matcher {
    /// All requests of a server.
    All,
    /// Requests to a balancer or a host.
    Proxied(ProxiedUrls),
    Below(String),
    Pattern(Regex),
}

/// The URLs of `<Proxy URL>`.
///
/// As in httpd, a URL covers all URLs that begin with it: `balancer://kylin` also covers
/// `balancer://kylin2`. Case matters.
#[derive(Debug, Clone)]
pub struct ProxiedUrls {
    start: String,
    written: Word,
}

impl Matcher {
    /// Reads the words after `<Location` or `<LocationMatch`.
    pub(super) fn read(section: &Directive) -> Result<Self, Fault> {
        let expected = "a path such as /kylin, or ~ and an expression";
        match (&section.args[..], section.is("<LocationMatch")) {
            ([word], true) => Ok(Matcher::Pattern(pass::pattern_without_parameters(word)?)),
            ([tilde, word], false) if tilde.text == "~" => {
                Ok(Matcher::Pattern(pass::pattern_without_parameters(word)?))
            }
            ([word], false) if word.defined()?.text.contains(['*', '?', '[']) => {
                Err(word.fault("a pattern of a shell in <Location>", "<LocationMatch EXPRESSION>"))
            }
            ([word], false) if word.text.starts_with('/') => {
                pass::check_parameters(word)?;
                Ok(Matcher::Below(word.text.clone()))
            }
            ([word, ..], _) => Err(word.fault(format!("not the path of a location: \"{}\"", word.text), expected)),
            ([], _) => Err(section.fault("a location without a path", expected)),
        }
    }

    /// Returns whether a section applies to a request. `target` is the URL to which the request is
    /// sent, up to the slash that begins its path.
    pub fn is_for(&self, path: &str, target: Option<&str>) -> bool {
        match self {
            Matcher::All => true,
            Matcher::Below(location) => pass::is_below(location, path),
            Matcher::Pattern(pattern) => pattern.is_match(path.as_bytes()),
            Matcher::Proxied(urls) => target.is_some_and(|target| urls.cover(target)),
        }
    }
}

impl ProxiedUrls {
    /// Reads `*`, `SCHEME://*` and `SCHEME://HOST`. A host may be followed by `/`, `/*` or `*`.
    pub fn read(word: &Word) -> Result<Self, Fault> {
        let text = word.defined()?.text.as_str();
        let fault = |message: String| {
            word.fault(
                message,
                "*, balancer://NAME or http://HOST:PORT; for some of their paths <Location PATH> instead",
            )
        };
        let start = text.strip_suffix('*').unwrap_or(text);
        if start.contains(['*', '?', '[', '\\']) {
            return Err(fault(format!("a pattern in the URL of <Proxy>: \"{text}\"")));
        }
        match start.split_once("://") {
            _ if text == "*" => {}
            Some((_, host)) if host.is_empty() && start == text => {
                return Err(fault(format!("not the URL of <Proxy>: \"{text}\"")));
            }
            Some((_, host)) if host.find('/').is_none_or(|slash| slash + 1 == host.len()) => {}
            Some(_) => return Err(fault(format!("a path in the URL of <Proxy>: \"{text}\""))),
            None => return Err(fault(format!("not the URL of <Proxy>: \"{text}\""))),
        }
        Ok(ProxiedUrls { start: start.to_owned(), written: word.clone() })
    }

    fn cover(&self, url: &str) -> bool {
        url.starts_with(&self.start)
    }

    /// Refuses a section whose URL differs from that of a `ProxyPass` only by case. httpd would
    /// send such requests without the rules of the section.
    pub fn check_capitals(&self, url: &str) -> Result<(), Fault> {
        let start = url.get(..self.start.len()).unwrap_or_default();
        if !self.start.is_empty() && start != self.start && start.eq_ignore_ascii_case(&self.start) {
            let message =
                format!("{} in other capitals than ProxyPass, so that httpd does not apply it", self.written.text);
            return Err(self.written.fault(message, format!("<Proxy {}>", url.trim_end_matches('/'))));
        }
        Ok(())
    }
}

impl fmt::Display for ProxiedUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written.text)
    }
}
