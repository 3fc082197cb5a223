//! What the readers of the blocks share: the groups met so far, and remarks about lines.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::parser::Directive;
use super::source::{Sources, Span};
use super::upstream::Upstream;
use super::variables::Maps;

/// What is collected while the tree is read.
#[derive(Debug)]
pub(super) struct Reader<'s> {
    sources: &'s Sources,
    pub(super) collected: Collected,
    locations: usize,
    /// By lower-case name.
    by_name: HashMap<String, usize>,
    maps: Maps,
}

/// What is left of it for the configuration.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) harmless: Vec<Notice>,
    pub(super) notes: Vec<Notice>,
    pub(super) upstreams: Vec<Upstream>,
}

/// A remark about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: u32,
    /// The directive, or the remark.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.text)
    }
}

impl<'s> Reader<'s> {
    pub(super) fn new(sources: &'s Sources) -> Self {
        Reader {
            sources,
            collected: Collected::default(),
            locations: 0,
            by_name: HashMap::new(),
            maps: Maps::default(),
        }
    }

    pub(super) fn harmless(&mut self, directive: &Directive) {
        self.remark_harmless(directive.span(), &directive.name.text);
    }

    pub(super) fn remark_harmless(&mut self, span: Span, text: &str) {
        self.collected.harmless.push(Notice {
            file: self.sources.name(span.file),
            line: span.line,
            text: text.to_owned(),
        });
    }

    pub(super) fn note(&mut self, span: Span, text: impl Into<String>) {
        self.collected.notes.push(Notice { file: self.sources.name(span.file), line: span.line, text: text.into() });
    }

    /// The variables that the configuration defines.
    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    pub(super) fn define(&mut self, maps: Maps) {
        self.maps = maps;
    }

    /// A number that no location has yet.
    pub(super) fn next_location(&mut self) -> usize {
        self.locations += 1;
        self.locations - 1
    }

    /// The position of a group; names compare without case.
    pub(super) fn upstream(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    pub(super) fn is_declared(&self, upstream: usize) -> bool {
        self.collected.upstreams.get(upstream).is_some_and(|upstream| upstream.declared)
    }

    pub(super) fn add_upstream(&mut self, upstream: Upstream) -> usize {
        let position = self.collected.upstreams.len();
        self.by_name.insert(upstream.name.to_ascii_lowercase(), position);
        self.collected.upstreams.push(upstream);
        position
    }
}
