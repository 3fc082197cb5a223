//! The paths of a location.

use std::fmt;

use crate::nginx::directives::catalogue::{usage, wrong_number};
use crate::nginx::syntax::{Captures, Directive, Fault, NamedGroup, Pattern, Word};
use crate::nginx::variables::Maps;

#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    /// `location = PATH`.
    Exact(String),
    /// `location PATH`, or with `^~`, which prevents regular expressions from being tried.
    Prefix { path: String, no_regex: bool },
    /// `location @NAME`.
    Named(String),
    /// `location ~ EXPRESSION` or `~*`.
    Regex(PathPattern),
}

/// A regular expression over paths.
#[derive(Debug, Clone)]
pub(crate) struct PathPattern {
    pattern: Pattern,
    ignore_case: bool,
}

impl PathPattern {
    pub(super) fn named_groups(&self) -> &[NamedGroup] {
        self.pattern.named_groups()
    }

    pub(super) fn captures<'r>(&self, path: &'r [u8]) -> Option<Captures<'r>> {
        self.pattern.captures(path)
    }
}

impl Matcher {
    /// Reads the arguments of `location = /x`, where the space may be missing as in nginx. Also
    /// returns the word of the path.
    pub(super) fn read<'d>(directive: &'d Directive, maps: &Maps) -> Result<(Matcher, &'d Word), Fault> {
        let modifiers = ["=", "^~", "~*", "~"];
        let (modifier, word, skip) = match &directive.args[..] {
            [word] => {
                let found = modifiers.into_iter().find(|modifier| word.text.starts_with(modifier));
                let modifier = found.unwrap_or_default();
                (modifier, word, modifier.len())
            }
            [modifier, word] if modifiers.contains(&modifier.text.as_str()) => (modifier.text.as_str(), word, 0),
            [modifier, _] => return Err(modifier.invalid("location modifier", usage("location"))),
            _ => return Err(wrong_number(directive)),
        };
        let text = &word.text[skip..];
        let matcher = match modifier {
            "~" | "~*" if text.is_empty() => return Err(word.invalid("regular expression", usage("location"))),
            "~" | "~*" => {
                let ignore_case = modifier == "~*";
                let pattern = maps.bind(Pattern::new(text, ignore_case, word, skip)?, word)?;
                Matcher::Regex(PathPattern { pattern, ignore_case })
            }
            "" if text.starts_with('@') && text.len() > 1 => Matcher::Named(text.to_owned()),
            _ if !text.starts_with('/') => {
                return Err(word.invalid("location", "a path that begins with \"/\", as every request's path does"));
            }
            "=" => Matcher::Exact(text.to_owned()),
            _ => Matcher::Prefix { path: text.to_owned(), no_regex: modifier == "^~" },
        };
        Ok((matcher, word))
    }

    /// Returns the path or expression.
    pub(crate) fn text(&self) -> &str {
        match self {
            Matcher::Exact(path) | Matcher::Prefix { path, .. } | Matcher::Named(path) => path,
            Matcher::Regex(pattern) => pattern.pattern.as_str(),
        }
    }

    /// Returns the groups of an expression that are bound to variables.
    pub(crate) fn named_groups(&self) -> &[NamedGroup] {
        if let Matcher::Regex(pattern) = self { pattern.named_groups() } else { &[] }
    }

    /// Returns whether this is `location /`.
    pub(crate) fn is_catch_all(&self) -> bool {
        matches!(self, Matcher::Prefix { path, .. } if path == "/")
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modifier = match self {
            Matcher::Exact(_) => "= ",
            Matcher::Prefix { no_regex: false, .. } | Matcher::Named(_) => "",
            Matcher::Prefix { no_regex: true, .. } => "^~ ",
            Matcher::Regex(PathPattern { ignore_case: false, .. }) => "~ ",
            Matcher::Regex(PathPattern { ignore_case: true, .. }) => "~* ",
        };
        let text = if let Matcher::Regex(pattern) = self { pattern.pattern.written() } else { self.text() };
        write!(f, "{modifier}{text}")
    }
}
