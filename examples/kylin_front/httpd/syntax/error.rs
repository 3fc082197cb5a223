//! Errors of a configuration: where the mistake is, what is wrong, and what to write instead.

use std::fmt;

use super::excerpt::{excerpt, printable};
use super::lines::{Place, Sources};
use super::suggest::find_full_width;

/// A mistake in a configuration: its file, line and column, and what to write instead.
#[derive(Debug)]
pub struct ConfigError {
    file: String,
    /// The line, from 1; 0 if the error is about the whole file.
    line: usize,
    column: usize,
    text: String,
    message: String,
    expected: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConfigError { file, line, column, text, message, expected } = self;
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

/// A mistake before its place is translated into file, line and column.
#[derive(Debug)]
pub struct Fault {
    /// The place; `None` for the main file as a whole.
    place: Option<Place>,
    message: String,
    expected: String,
}

impl Fault {
    pub fn new(place: impl Into<Option<Place>>, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Fault { place: place.into(), message: message.into(), expected: expected.into() }
    }

    pub fn locate(self, sources: &Sources) -> ConfigError {
        let Fault { place, mut message, mut expected } = self;
        let Some(mut place) = place else {
            let (file, line, column, text) = (sources.main().to_owned(), 0, 0, String::new());
            return ConfigError { file, line, column, text, message, expected };
        };
        if let Some((at, wide, ascii)) = full_width(sources, place) {
            place.at = at;
            message = format!("full-width \"{wide}\", which httpd reads as a letter");
            expected = format!("\"{ascii}\"");
        }
        let (line, column, text) = sources.position(place);
        let text = without_userinfo(text);
        ConfigError { file: sources.name(place).to_owned(), line, column, text, message, expected }
    }
}

/// Full-width punctuation that occurs only in httpd's files, and the character that httpd expects.
const FULL_WIDTH: [(char, &str); 2] = [('\u{ff1c}', "<"), ('\u{ff1e}', ">")];

/// Returns the first full-width character in the line of a place, and the intended character.
fn full_width(sources: &Sources, place: Place) -> Option<(u32, char, &'static str)> {
    let (start, line) = sources.line(place);
    let (index, wide, ascii) = find_full_width(line, &FULL_WIDTH)?;
    Some((start + u32::try_from(index).ok()?, wide, ascii))
}

/// Returns the line with the user and password of each address hidden; every character stays at its
/// column.
fn without_userinfo(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find([' ', '\t', '>', '"', '\'']).unwrap_or(after.len());
        let secret = after[..end].rfind('@').unwrap_or(0);
        shown.extend([before, "://"]);
        shown.extend(after[..secret].chars().map(|_| '*'));
        rest = &after[secret..];
    }
    shown + rest
}
