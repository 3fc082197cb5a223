//! The lines of a `map`.

use std::collections::HashMap;

use super::USAGE;
use crate::nginx::syntax::{Directive, Fault, Pattern};
use crate::nginx::variables::{Maps, Scope, Template};

/// The lines of a `map`.
#[derive(Debug, Default)]
pub(super) struct Values {
    /// The results by the value in lower case, because nginx ignores case.
    exact: HashMap<Vec<u8>, Template>,
    /// Whether names with an asterisk may occur (`hostnames`).
    has_hostnames: bool,
    /// Whether each use computes the value (`volatile`).
    pub(super) is_volatile: bool,
    /// The results by the end of the value, which begins with a dot: `*.example.org`.
    suffixes: HashMap<Vec<u8>, Template>,
    /// The results by the beginning of the value, which ends with a dot: `www.example.*`.
    prefixes: HashMap<Vec<u8>, Template>,
    /// The expressions in the order of the file, which are tried if nothing else matches.
    patterns: Vec<(Pattern, Template)>,
    pub(super) default: Option<Template>,
}

impl Values {
    pub(super) fn read(block: &[Directive], maps: &Maps) -> Result<Values, Fault> {
        let mut values = Values::default();
        block.iter().try_for_each(|line| values.read_line(line, maps))?;
        Ok(values)
    }

    pub(super) fn results(&self) -> impl Iterator<Item = &Template> {
        let names = self.suffixes.values().chain(self.prefixes.values());
        self.exact.values().chain(names).chain(self.patterns.iter().map(|(_, result)| result)).chain(&self.default)
    }

    fn read_line(&mut self, line: &Directive, maps: &Maps) -> Result<(), Fault> {
        let key = &line.name;
        let result = match (&line.args[..], &line.block) {
            ([result], None) => result,
            ([], None) if matches!(key.text.as_str(), "hostnames" | "volatile") => {
                self.has_hostnames |= key.text == "hostnames";
                self.is_volatile |= key.text == "volatile";
                return Ok(());
            }
            _ => return Err(key.span.value("a line of map is a value and a result", USAGE)),
        };
        if let Some(expression) = key.text.strip_prefix('~') {
            let (expression, ignore_case) = match expression.strip_prefix('*') {
                Some(expression) => (expression, true),
                None => (expression, false),
            };
            let pattern = Pattern::new(expression, ignore_case, key, key.text.len() - expression.len())?;
            let result = Template::with_groups(result, maps, &pattern, key)?;
            self.patterns.push((pattern, result));
            return Ok(());
        }
        let result = Template::new(result, maps)?;
        let lower = key.text.strip_prefix('\\').unwrap_or(&key.text).to_ascii_lowercase();
        let name = Some(&lower).filter(|_| self.has_hostnames && !key.text.starts_with('\\'));
        let suffix = name.and_then(|name| name.strip_prefix('*').unwrap_or(name).strip_prefix('.'));
        let prefix = name.and_then(|name| name.strip_suffix(".*"));
        let replaced = if key.text == "default" {
            self.default.replace(result)
        } else if let Some(suffix) = suffix {
            // `.example.org` also matches the name itself.
            let own = (!lower.starts_with('*')).then(|| self.exact.insert(suffix.into(), result.clone())).flatten();
            own.or(self.suffixes.insert(format!(".{suffix}").into_bytes(), result))
        } else if let Some(prefix) = prefix {
            self.prefixes.insert(format!("{prefix}.").into_bytes(), result)
        } else {
            self.exact.insert(lower.into_bytes(), result)
        };
        match replaced {
            None => Ok(()),
            Some(_) => Err(key.span.duplicate(format!("\"{}\" is duplicate", key.text), "each value once in a map")),
        }
    }

    /// Returns the result for a name by its longest known suffix, else by its longest known prefix.
    fn name(&self, lower: &[u8]) -> Option<&Template> {
        const MAX_NAME: usize = 255;
        if !self.has_hostnames || lower.len() > MAX_NAME {
            return None;
        }
        let dots = || (1..lower.len()).filter(|&at| lower[at] == b'.');
        let suffix = dots().find_map(|dot| self.suffixes.get(&lower[dot..]));
        suffix.or_else(|| dots().rev().find_map(|dot| self.prefixes.get(&lower[..=dot])))
    }

    /// Calls `write` with the result for a value, and the scope with the groups of its expression.
    pub(super) fn find(&self, source: &[u8], scope: &Scope<'_>, write: impl FnOnce(&Template, &Scope<'_>)) {
        let mut lower = source.to_ascii_lowercase();
        if self.has_hostnames && lower.last() == Some(&b'.') {
            lower.pop();
        }
        if let Some(result) = self.exact.get(&lower).or_else(|| self.name(&lower)) {
            return write(result, scope);
        }
        // As in nginx, no expression is tried on an empty value.
        for (pattern, result) in self.patterns.iter().filter(|_| !source.is_empty()) {
            if let Some(captures) = pattern.captures(source) {
                return write(result, &Scope { captures, ..*scope });
            }
        }
        if let Some(default) = &self.default {
            write(default, scope);
        }
    }
}
