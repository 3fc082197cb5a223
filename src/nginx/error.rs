//! What is wrong with a configuration, said so that it can be mended without reading this crate.
//!
//! Every error shows the line, points at the word and says what would have been accepted there.

use std::fmt::{self, Write as _};
use std::io;

use super::source::{Sources, Span};

/// Which sort of mistake a [`ConfigError`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file cannot be read, or is not UTF-8.
    Io,
    /// The text breaks nginx's syntax.
    Syntax,
    /// No directive, parameter or variable has this name.
    Unknown,
    /// The directive exists but not in this block.
    Misplaced,
    /// Something was said twice.
    Duplicate,
    /// A value that the directive does not take.
    Value,
    /// Something that must be there is not.
    Missing,
    /// nginx knows it, this crate does not do it.
    Unsupported,
    /// The configuration is larger or more deeply nested than this crate reads.
    Limit,
}

/// A mistake in a configuration, with the place where it is.
///
/// ```
/// use kylin_lb::nginx::Config;
///
/// let error = Config::parse("kylin.conf", "upstream kylin {\n    server 1.1.1.1:7070 wieght=2;\n}\n").unwrap_err();
/// assert_eq!((error.line(), error.column()), (2, 25));
/// assert!(error.to_string().starts_with("kylin.conf:2:25: unknown parameter \"wieght=2\" of server"));
/// ```
#[derive(Debug)]
pub struct ConfigError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    file: String,
    line: u32,
    column: u32,
    text: String,
    message: String,
    expected: String,
    source: Option<io::Error>,
}

impl ConfigError {
    /// The sort of mistake.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file, as it was named when it was read.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// The line, from 1; 0 when the error is about the whole file.
    pub fn line(&self) -> u32 {
        self.0.line
    }

    /// The column, from 1 and in characters; 0 when the error is about the whole file.
    pub fn column(&self) -> u32 {
        self.0.column
    }

    /// The line's text.
    pub fn line_text(&self) -> &str {
        &self.0.text
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What would be accepted; empty when nothing would.
    pub fn expected(&self) -> &str {
        &self.0.expected
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { file, line, column, text, message, expected, .. } = &*self.0;
        let (file, message, expected) = (printable(file), printable(message), printable(expected));
        if *line == 0 {
            write!(f, "{file}: {message}")?;
        } else {
            let (shown, caret) = excerpt(text, *column);
            write!(f, "{file}:{line}:{column}: {message}\n{shown}\n{:caret$}^", "")?;
        }
        if expected.is_empty() { Ok(()) } else { write!(f, "\nexpected {expected}") }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// A mistake whose place is not yet put into words: what the rooms of this module hand up.
#[derive(Debug)]
pub(super) struct Fault {
    kind: ErrorKind,
    span: Option<Span>,
    message: String,
    expected: String,
    source: Option<io::Error>,
}

impl Fault {
    pub(super) fn new(kind: ErrorKind, span: Span, message: impl Into<String>) -> Fault {
        Fault { kind, span: Some(span), message: message.into(), expected: String::new(), source: None }
    }

    /// About the main file as a whole.
    pub(super) fn of_file(kind: ErrorKind, message: impl Into<String>, source: Option<io::Error>) -> Fault {
        Fault { kind, span: None, message: message.into(), expected: String::new(), source }
    }

    pub(super) fn expecting(mut self, expected: impl Into<String>) -> Fault {
        self.expected = expected.into();
        self
    }

    pub(super) fn caused_by(mut self, source: Option<io::Error>) -> Fault {
        self.source = source;
        self
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Moves the pointer to the right, into a word.
    pub(super) fn right(mut self, bytes: usize) -> Fault {
        self.span = self.span.map(|span| span.right(bytes));
        self
    }

    pub(super) fn locate(self, main: &str, sources: &Sources) -> ConfigError {
        let (file, line, column, text) = match self.span.map(|span| sources.place(span)) {
            Some(place) => (place.file.to_owned(), place.line, place.column, place.text.to_owned()),
            None => (main.to_owned(), 0, 0, String::new()),
        };
        let Fault { kind, message, expected, source, .. } = self;
        ConfigError(Box::new(Inner { kind, file, line, column, text, message, expected, source }))
    }
}

/// The most characters of a line that an error shows.
const WIDTH: usize = 100;

/// The part of a line around a column, safe to print, and how far from its left edge the column stands.
fn excerpt(text: &str, column: u32) -> (String, usize) {
    let column = (column as usize).saturating_sub(1);
    let long = text.chars().nth(WIDTH).is_some();
    let from = if long { column.saturating_sub(WIDTH * 2 / 3) } else { 0 };
    let mut shown = String::from(if from > 0 { "..." } else { "" });
    let mut caret = None;
    let mut rest = text.chars().skip(from);
    for (index, c) in rest.by_ref().take(WIDTH).enumerate() {
        if from + index == column {
            caret = Some(shown.chars().count());
        }
        print(c, &mut shown);
    }
    let caret = caret.unwrap_or_else(|| shown.chars().count());
    if rest.next().is_some() {
        shown.push_str("...");
    }
    (shown, caret)
}

/// Text that cannot move the terminal's cursor or change the reading direction.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| print(c, &mut shown));
    shown
}

fn print(c: char, to: &mut String) {
    match c {
        '\t' => to.push(' '),
        c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
            // Writing to a String cannot fail.
            let _ = write!(to, "{}", c.escape_unicode());
        }
        c => to.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, at: u32) -> ConfigError {
        let mut sources = Sources::default();
        let file = sources.add("a.conf", text).unwrap();
        Fault::new(ErrorKind::Value, Span { file, line: 1, at }, "wrong").expecting("right").locate("a.conf", &sources)
    }

    #[test]
    fn the_caret_stands_under_the_word() {
        assert_eq!(error("  abc def;", 6).to_string(), "a.conf:1:7: wrong\n  abc def;\n      ^\nexpected right");
    }

    #[test]
    fn control_characters_are_shown_as_escapes() {
        let error = error("a\u{1b}[2J\tb", 6).to_string();
        assert_eq!(error, "a.conf:1:7: wrong\na\\u{1b}[2J b\n           ^\nexpected right");
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let text = format!("{}HERE{}", "x".repeat(500), "y".repeat(500));
        let error = error(&text, 500).to_string();
        let mut lines = error.lines().skip(1);
        let (shown, caret) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(shown.len() < 120 && shown.starts_with("...") && shown.ends_with("..."), "{shown}");
        assert_eq!(&shown[caret.len() - 1..caret.len() + 3], "HERE");
    }
}
