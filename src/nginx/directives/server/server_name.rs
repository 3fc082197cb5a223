//! `server_name`, and the server of a request (`ngx_http_find_virtual_server`).

use std::collections::HashMap;

use crate::nginx::syntax::{Captures, Fault, NamedGroup, Pattern, Word};
use crate::nginx::variables::Maps;

/// A name of `server_name`.
#[derive(Debug, Clone)]
pub(crate) enum ServerName {
    /// A whole name. The empty name is for requests without a host.
    Exact(String),
    /// `*.example.org`, held as `.example.org`.
    Suffix(String),
    /// `www.example.*`, held as `www.example.`.
    Prefix(String),
    /// `~expression`.
    Regex(Pattern),
}

impl ServerName {
    /// Reads a word. It is one name, or two for `.example.org`.
    pub(crate) fn read(word: &Word, maps: &Maps) -> Result<Vec<ServerName>, Fault> {
        let name = word.text.to_ascii_lowercase();
        let invalid = || word.invalid("server name", "a name, *.NAME, NAME.*, .NAME, ~EXPRESSION, _ or \"\"");
        if let Some(expression) = word.text.strip_prefix('~').filter(|expression| !expression.is_empty()) {
            return Ok(vec![ServerName::Regex(maps.bind(Pattern::new(expression, true, word, 1)?, word)?)]);
        }
        if name.starts_with('~') || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == '$')
        {
            return Err(invalid());
        }
        let (read, fixed) = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (None, None) => match name.strip_prefix('.') {
                Some("") => return Err(invalid()),
                Some(bare) => (vec![ServerName::Exact(bare.to_owned()), ServerName::Suffix(name.clone())], bare),
                None => (vec![ServerName::Exact(name.clone())], name.as_str()),
            },
            (Some(suffix), None) if suffix.len() > 1 && suffix.starts_with('.') => {
                (vec![ServerName::Suffix(suffix.to_owned())], suffix)
            }
            (None, Some(prefix)) if prefix.len() > 1 && prefix.ends_with('.') && !prefix.starts_with('.') => {
                (vec![ServerName::Prefix(prefix.to_owned())], prefix)
            }
            _ => return Err(invalid()),
        };
        if fixed.contains('*') { Err(invalid()) } else { Ok(read) }
    }

    /// Returns whether groups of the name are bound to variables.
    pub(crate) fn has_groups(&self) -> bool {
        matches!(self, ServerName::Regex(pattern) if !pattern.named_groups().is_empty())
    }

    /// Returns `$server_name` of a server with this first name.
    pub(crate) fn text(&self) -> String {
        match self {
            ServerName::Exact(name) => name.clone(),
            ServerName::Suffix(suffix) => format!("*{suffix}"),
            ServerName::Prefix(prefix) => format!("{prefix}*"),
            ServerName::Regex(pattern) => format!("~{}", pattern.as_str()),
        }
    }
}

/// The names of all servers at one address.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerNames {
    exact: HashMap<String, usize>,
    suffixes: HashMap<String, usize>,
    prefixes: HashMap<String, usize>,
    patterns: Vec<(Pattern, usize)>,
}

impl ServerNames {
    /// Adds a name. Returns false if an earlier server has the name, and keeps it.
    pub(crate) fn add(&mut self, name: &ServerName, server: usize) -> bool {
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

    /// Returns the server whose name matches best: the whole name, the longest `*.x`, the longest
    /// `x.*`, the first expression.
    ///
    /// `host` is in lower case and has no port.
    pub(crate) fn find<'h>(&self, host: &'h str) -> Option<(usize, Captures<'h>, &[NamedGroup])> {
        // Suffixes are searched from the left and prefixes from the right, so the longest comes
        // first.
        let suffixes = || host.match_indices('.').map(|(dot, _)| dot).filter(|&dot| dot > 0);
        let prefixes = || host.rmatch_indices('.').map(|(dot, _)| dot + 1).filter(|&end| end < host.len());
        let fixed = self.exact.get(host);
        let fixed = fixed.or_else(|| suffixes().find_map(|dot| self.suffixes.get(&host[dot..])));
        let fixed = fixed.or_else(|| prefixes().find_map(|end| self.prefixes.get(&host[..end])));
        if let Some(server) = fixed {
            return Some((*server, Captures::default(), &[]));
        }
        if host.is_empty() {
            return None;
        }
        let mut patterns = self.patterns.iter();
        patterns
            .find_map(|(pattern, server)| Some((*server, pattern.captures(host.as_bytes())?, pattern.named_groups())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::syntax::Span;

    fn word(text: &str) -> Word {
        Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } }
    }

    #[test]
    fn the_best_name_wins() {
        let mut names = ServerNames::default();
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
            for name in ServerName::read(&word(text), &Maps::default()).unwrap() {
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
            assert_eq!(names.find(host).map(|(server, ..)| server), expected, "{host}");
        }
        assert_eq!(names.find("x.net").unwrap().1.0[1], Some(&b"x"[..]));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["*", "*a", "w*.org", "a.*.b", "*.a.*", ".", "*.", "~", "~(", "a b", "a/b"] {
            assert!(ServerName::read(&word(text), &Maps::default()).is_err(), "{text}");
        }
    }
}
