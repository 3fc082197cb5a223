//! Names of servers, and which server a request belongs to: `ngx_http_find_virtual_server`.

use std::collections::HashMap;

use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::pattern::Pattern;
use super::variables::Captures;

/// One name of `server_name`.
#[derive(Debug, Clone)]
pub(crate) enum ServerName {
    /// A whole name; the empty one is for requests without a host.
    Exact(String),
    /// `*.example.org`, held as `.example.org`.
    Suffix(String),
    /// `www.example.*`, held as `www.example.`.
    Prefix(String),
    /// `~expression`.
    Regex(ServerPattern),
}

/// A regular expression over host names.
#[derive(Debug, Clone)]
pub(crate) struct ServerPattern(Pattern);

impl ServerName {
    /// `.example.org` stands for two names.
    pub(super) fn read(word: &Word) -> Result<Vec<ServerName>, Fault> {
        let name = word.text.to_ascii_lowercase();
        let invalid = || {
            Fault::new(ErrorKind::Value, word.span, format!("invalid server name \"{}\"", word.text))
                .expecting("a name, *.NAME, NAME.*, .NAME, ~EXPRESSION, _ or \"\"")
        };
        if let Some(expression) = word.text.strip_prefix('~') {
            if expression.is_empty() {
                return Err(invalid());
            }
            return Ok(vec![ServerName::Regex(ServerPattern(Pattern::new(expression, true, word, 1)?))]);
        }
        if name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '$') {
            return Err(invalid());
        }
        if let Some(bare) = name.strip_prefix('.') {
            let valid = !bare.is_empty() && !bare.contains('*');
            return if valid {
                Ok(vec![ServerName::Exact(bare.to_owned()), ServerName::Suffix(name)])
            } else {
                Err(invalid())
            };
        }
        let read = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(suffix), None) if suffix.len() > 1 && suffix.starts_with('.') => {
                ServerName::Suffix(suffix.to_owned())
            }
            (None, Some(prefix)) if prefix.len() > 1 && prefix.ends_with('.') => ServerName::Prefix(prefix.to_owned()),
            (None, None) => ServerName::Exact(name.clone()),
            _ => return Err(invalid()),
        };
        let fixed = match &read {
            ServerName::Suffix(text) | ServerName::Prefix(text) | ServerName::Exact(text) => text,
            ServerName::Regex(_) => return Ok(vec![read]),
        };
        if fixed.contains('*') { Err(invalid()) } else { Ok(vec![read]) }
    }

    /// What `$server_name` is when this is a server's first name.
    pub(super) fn text(&self) -> String {
        match self {
            ServerName::Exact(name) => name.clone(),
            ServerName::Suffix(suffix) => format!("*{suffix}"),
            ServerName::Prefix(prefix) => format!("{prefix}*"),
            ServerName::Regex(ServerPattern(pattern)) => format!("~{}", pattern.as_str()),
        }
    }
}

/// The names of all servers behind one address.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    exact: HashMap<String, usize>,
    suffixes: HashMap<String, usize>,
    prefixes: HashMap<String, usize>,
    patterns: Vec<(ServerPattern, usize)>,
}

impl Names {
    /// Adds a name; false when an earlier server has it, which then keeps it.
    pub(super) fn add(&mut self, name: &ServerName, server: usize) -> bool {
        let (map, text) = match name {
            ServerName::Exact(text) => (&mut self.exact, text),
            ServerName::Suffix(text) => (&mut self.suffixes, text),
            ServerName::Prefix(text) => (&mut self.prefixes, text),
            ServerName::Regex(pattern) => {
                self.patterns.push((pattern.clone(), server));
                return true;
            }
        };
        *map.entry(text.clone()).or_insert(server) == server
    }

    /// The server whose name fits best: the whole name, the longest `*.x`, the longest `x.*`, the first expression.
    /// `host` is lower-case and has no port.
    pub(super) fn find<'h>(&self, host: &'h str) -> Option<(usize, Captures<'h>)> {
        let plain = |server: &usize| (*server, Captures::default());
        if let Some(server) = self.exact.get(host) {
            return Some(plain(server));
        }
        // From the left a suffix gets shorter, from the right a prefix does: the longest comes first.
        let mut dots = host.match_indices('.').map(|(dot, _)| dot).filter(|&dot| dot > 0);
        if let Some(server) = dots.find_map(|dot| self.suffixes.get(&host[dot..])) {
            return Some(plain(server));
        }
        let mut dots = host.rmatch_indices('.').map(|(dot, _)| dot + 1).filter(|&end| end < host.len());
        if let Some(server) = dots.find_map(|end| self.prefixes.get(&host[..end])) {
            return Some(plain(server));
        }
        if host.is_empty() {
            return None;
        }
        self.patterns.iter().find_map(|(ServerPattern(pattern), server)| {
            pattern.captures(host.as_bytes()).map(|captures| (*server, captures))
        })
    }
}

/// A host without its port and without a closing dot. Case is left as it is.
pub(super) fn host_without_port(host: &[u8]) -> &[u8] {
    let end = match host.iter().position(|&byte| byte == b']') {
        Some(bracket) if host.first() == Some(&b'[') => bracket + 1,
        _ => host.iter().position(|&byte| byte == b':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix(b".").unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::source::Span;

    fn word(text: &str) -> Word {
        Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } }
    }

    #[test]
    fn the_best_name_wins() {
        let mut names = Names::default();
        let all = [
            "www.example.org",
            "*.example.org",
            "*.www.example.org",
            "www.*",
            "www.example.*",
            r"~^(\w+)\.net$",
            ".bare.org",
            "",
        ];
        for (server, text) in all.into_iter().enumerate() {
            for name in ServerName::read(&word(text)).unwrap() {
                assert!(names.add(&name, server), "{text}");
            }
        }
        assert!(!names.add(&ServerName::Exact("www.example.org".into()), 9));
        for (host, expected) in [
            ("www.example.org", Some(0)),
            ("a.example.org", Some(1)),
            ("a.b.example.org", Some(1)),
            ("a.www.example.org", Some(2)),
            ("www.other.com", Some(3)),
            ("www.example.com", Some(4)),
            ("www.example.co.uk", Some(4)),
            ("x.net", Some(5)),
            ("bare.org", Some(6)),
            ("a.bare.org", Some(6)),
            ("", Some(7)),
            ("example.org", None),
            ("www.", None),
        ] {
            assert_eq!(names.find(host).map(|(server, _)| server), expected, "{host}");
        }
        assert_eq!(names.find("x.net").unwrap().1.0[1], Some(&b"x"[..]));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["*", "*a", "w*.org", "a.*.b", "*.a.*", ".", "*.", "~", "~(", "a b", "a/b"] {
            assert!(ServerName::read(&word(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_loses_its_port_and_its_last_dot() {
        for (host, expected) in
            [("a:80", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a.", "a"), ("a.:1", "a"), ("", "")]
        {
            assert_eq!(host_without_port(host.as_bytes()), expected.as_bytes());
        }
    }
}
