//! Remarks about directives that have no effect here, or for which this crate differs from nginx.

use std::fmt;
use std::sync::Arc;

use crate::nginx::syntax::{Sources, Span};

/// A remark about a line of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) file: Arc<str>,
    /// The line, from 1.
    pub(crate) line: u32,
    /// The directive, or the remark.
    pub(crate) text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.text)
    }
}

/// Collects the remarks while a configuration is read.
#[derive(Debug)]
pub(crate) struct Remarks<'s> {
    sources: &'s Sources,
    /// The directives that are accepted without effect.
    pub(crate) ignored: Vec<Notice>,
    /// The directives for which this crate differs from nginx.
    pub(crate) notes: Vec<Notice>,
}

impl<'s> Remarks<'s> {
    pub(crate) fn new(sources: &'s Sources) -> Self {
        Remarks { sources, ignored: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn ignored(&mut self, span: Span, text: impl Into<String>) {
        self.ignored.push(self.notice(span, text.into()));
    }

    pub(crate) fn note(&mut self, span: Span, text: impl Into<String>) {
        self.notes.push(self.notice(span, text.into()));
    }

    /// Notes a line once, even if several blocks inherit it.
    pub(crate) fn note_once(&mut self, span: Span, text: impl Into<String>) {
        let notice = self.notice(span, text.into());
        if !self.notes.contains(&notice) {
            self.notes.push(notice);
        }
    }

    /// Returns the file and line of a word.
    pub(crate) fn place(&self, span: Span) -> String {
        format!("{}:{}", self.sources.name(span.file), span.line)
    }

    /// Returns the file, line and column of a word.
    pub(crate) fn position(&self, span: Span) -> String {
        format!("{}:{}", self.place(span), self.sources.position(span).column)
    }

    /// Returns the file of a word.
    pub(crate) fn file(&self, span: Span) -> Arc<str> {
        self.sources.name(span.file)
    }

    fn notice(&self, span: Span, text: String) -> Notice {
        Notice { file: self.sources.name(span.file), line: span.line, text }
    }
}
