//! Errors of a configuration: where the mistake is, what is wrong, and what to write instead.

use std::fmt;
use std::io;

use super::excerpt::{excerpt, printable};
use super::source::{Sources, Span};
use crate::observe::is_secret_name;

/// The kind of mistake that a [`ConfigError`] reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file cannot be read, or is not UTF-8.
    Io,
    /// The text breaks nginx's syntax.
    Syntax,
    /// No directive, parameter or variable has this name.
    Unknown,
    /// The directive exists, but not in this block.
    Misplaced,
    /// A directive, parameter or name occurs twice where it may occur once.
    Duplicate,
    /// The directive does not take this value.
    Value,
    /// A required directive or parameter is missing.
    Missing,
    /// nginx supports the directive or value, but this crate does not.
    Unsupported,
    /// The configuration is larger or more deeply nested than this crate reads.
    Limit,
}

/// A mistake in a configuration: its file, line and column, and what to write instead.
///
/// ```
/// use kylin_lb::nginx::Config;
///
/// let text = "upstream kylin {\n    server 1.1.1.1:7070 wieght=2;\n}\n";
/// let error = Config::parse("kylin.conf", text).unwrap_err();
/// assert_eq!((error.line(), error.column()), (2, 25));
/// assert!(error.to_string().starts_with("kylin.conf:2:25: unknown parameter \"wieght=2\" of server"));
/// ```
#[derive(Debug)]
pub struct ConfigError(Box<Located>);

#[derive(Debug)]
struct Located {
    fault: Fault,
    file: String,
    line: u32,
    column: u32,
    text: String,
}

impl ConfigError {
    /// Returns the kind of mistake.
    pub fn kind(&self) -> ErrorKind {
        self.0.fault.kind
    }

    /// Returns the file, as it was named when it was read.
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// Returns the line, from 1; 0 if the error is about the whole file.
    pub fn line(&self) -> u32 {
        self.0.line
    }

    /// Returns the column, from 1 and in characters; 0 if the error is about the whole file.
    pub fn column(&self) -> u32 {
        self.0.column
    }

    /// Returns the text of the line.
    pub fn line_text(&self) -> &str {
        &self.0.text
    }

    /// Returns what is wrong.
    pub fn message(&self) -> &str {
        &self.0.fault.message
    }

    /// Returns the text that would be accepted in this place; empty for a file that cannot be read.
    pub fn expected(&self) -> &str {
        &self.0.fault.expected
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Located { fault: Fault { message, expected, .. }, file, line, column, text } = &*self.0;
        let (file, message, expected) = (printable(file), printable(message), printable(expected));
        if *line == 0 {
            write!(f, "{file}: {message}")?;
        } else {
            let (shown, caret) = excerpt(text, *column as usize);
            write!(f, "{file}:{line}:{column}: {message}\n{shown}\n{:caret$}^", "")?;
        }
        if expected.is_empty() { Ok(()) } else { write!(f, "\nexpected {expected}") }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.fault.source.as_ref().map(|source| source as _)
    }
}

/// A mistake at a span, before the span is translated into file, line and column.
#[derive(Debug)]
pub(crate) struct Fault {
    kind: ErrorKind,
    /// The place; `None` for the main file as a whole.
    span: Option<Span>,
    message: String,
    expected: String,
    source: Option<io::Error>,
    /// Whether the mistake is a name that resembles a known one.
    is_misspelt: bool,
}

/// One function for each kind: the message, and what is expected instead.
impl Span {
    pub(crate) fn syntax(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Syntax, Some(self), message, expected)
    }

    pub(crate) fn unknown(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Unknown, Some(self), message, expected)
    }

    pub(crate) fn misplaced(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Misplaced, Some(self), message, expected)
    }

    pub(crate) fn duplicate(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Duplicate, Some(self), message, expected)
    }

    pub(crate) fn value(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Value, Some(self), message, expected)
    }

    pub(crate) fn missing(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Missing, Some(self), message, expected)
    }

    pub(crate) fn unsupported(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Unsupported, Some(self), message, expected)
    }

    pub(crate) fn limit(self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Fault::new(ErrorKind::Limit, Some(self), message, expected)
    }
}

impl Fault {
    /// Returns an error at `span`; without one, an error of the main file as a whole.
    pub(crate) fn new(
        kind: ErrorKind,
        span: Option<Span>,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> Fault {
        Fault { kind, span, message: message.into(), expected: expected.into(), source: None, is_misspelt: false }
    }

    pub(crate) fn caused_by(self, source: io::Error) -> Fault {
        Fault { source: Some(source), ..self }
    }

    /// Marks the name as a misspelt one, and so as no directive of another module.
    pub(crate) fn misspelt(self) -> Fault {
        Fault { is_misspelt: true, ..self }
    }

    pub(crate) fn is_misspelt(&self) -> bool {
        self.is_misspelt
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(super) fn span(&self) -> Option<Span> {
        self.span
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn locate(self, main: &str, sources: &Sources) -> ConfigError {
        let (file, line, column, text) = match self.span.map(|span| sources.position(span)) {
            Some(position) => (position.file, position.line, position.column, position.text),
            None => (main, 0, 0, ""),
        };
        let (file, text) = (file.to_owned(), without_credentials(&without_userinfo(text)));
        ConfigError(Box::new(Located { fault: self, file, line, column, text }))
    }
}

/// Returns the line with the user and password of each address hidden; every character stays at its
/// column.
fn without_userinfo(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find([' ', '\t', ';', '"', '\'']).unwrap_or(after.len());
        let secret = after[..end].rfind('@').unwrap_or(0);
        shown.extend([before, "://"]);
        shown.extend(after[..secret].chars().map(|_| '*'));
        rest = &after[secret..];
    }
    shown + rest
}

/// Names that look like those of secrets, but have values that are not secret. `VARIABLES` has the
/// prefixes of such variables.
const NOT_SECRET: [&str; 3] = ["server_tokens", "ssl_password_file", "proxy_ssl_password_file"];
const VARIABLES: [&str; 5] = ["$http_", "$cookie_", "$arg_", "$sent_", "$upstream_"];

/// Returns the line with the text after the first name of a secret hidden; every character stays at
/// its column.
///
/// An example is the value of `proxy_set_header Authorization`.
fn without_credentials(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-$".contains(c);
    let mut names =
        lower.split(|c| !is_of_name(c)).map(|name| (name.as_ptr() as usize - lower.as_ptr() as usize, name));
    let ends = names.find(|(at, name)| is_secret(&lower[..*at], name)).map(|(at, name)| at + name.len());
    let Some((shown, rest)) = ends.map(|end| line.split_at(end)) else { return line.to_owned() };
    let hide = |c: char| if c.is_whitespace() || "\"';{}".contains(c) { c } else { '*' };
    shown.chars().chain(rest.chars().map(hide)).collect()
}

/// Returns whether a credential may follow a name in lower case. Many directives deal with sessions
/// and cookies, but only headers contain the ids themselves.
fn is_secret(before: &str, name: &str) -> bool {
    if NOT_SECRET.contains(&name) || VARIABLES.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    let is_header = before.trim_end().ends_with("_header");
    let without_ids = |name: &str| name.replace("session", "").replace("cookie", "");
    matches!(name, "basic" | "bearer") || is_secret_name(name) && (is_header || is_secret_name(&without_ids(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str, at: u32) -> ConfigError {
        let mut sources = Sources::default();
        let file = sources.add("a.conf", text).unwrap();
        Span { file, line: 1, at }.value("wrong", "right").locate("a.conf", &sources)
    }

    #[test]
    fn the_caret_stands_under_the_word() {
        assert_eq!(error("  abc def;", 6).to_string(), "a.conf:1:7: wrong\n  abc def;\n      ^\nexpected right");
    }

    #[test]
    fn credentials_are_hidden() {
        for (line, shown) in [
            (
                "proxy_set_header Authorization \"Basic QURNSU4=\"; wrong x;",
                "proxy_set_header Authorization \"***** ********\"; ***** *;",
            ),
            ("  \"Bearer abc\" x;", "  \"Bearer ***\" *;"),
            ("proxy_set_header X-Api-Token ABC;", "proxy_set_header X-Api-Token ***;"),
            ("proxy_set_header X-Api-Key ABC;", "proxy_set_header X-Api-Key ***;"),
            ("proxy_set_header Cookie JSESSIONID=1;", "proxy_set_header Cookie ************;"),
            ("set $api_token \"s3cr3t\";", "set $api_token \"******\";"),
            ("proxy_pass http://h/?access_token=AB;", "proxy_pass http://h/?access_token***;"),
            ("return 302 /?apikey=AB&pwd=CD;", "return 302 /?apikey**********;"),
            ("secure_link_secret AB;", "secure_link_secret **;"),
            ("server_tokens off; auth_basic x;", "server_tokens off; auth_basic x;"),
            (
                "auth_basic_user_file a; proxy_ssl_password_file b;",
                "auth_basic_user_file a; proxy_ssl_password_file b;",
            ),
            ("map $http_authorization $a { \"\" 0; }", "map $http_authorization $a { \"\" 0; }"),
            ("ssl_session_cache shared:a:1m; sticky cookie srv;", "ssl_session_cache shared:a:1m; sticky cookie srv;"),
        ] {
            let error = error(line, 2);
            assert_eq!(error.line_text(), shown);
            assert!(error.to_string().contains(shown), "{error}");
        }
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
