//! Errors of a configuration: where the mistake is, what is wrong, and what to write instead.

use std::fmt::{self, Write as _};

use super::lines::{Place, Sources};

/// A mistake in a configuration: its file, line and column, and what to write instead.
#[derive(Debug)]
pub struct ConfigError {
    file: String,
    /// From 1; 0 if the error is about the whole file.
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
    /// `None` for the main file as a whole.
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

/// Punctuation of Chinese keyboards, and what is wanted in its place.
const FULL_WIDTH: [(char, &str); 12] = [
    ('\u{ff1c}', "<"),
    ('\u{ff1e}', ">"),
    ('\u{ff1a}', ":"),
    ('\u{ff0c}', ","),
    ('\u{201c}', "\""),
    ('\u{201d}', "\""),
    ('\u{2018}', "'"),
    ('\u{2019}', "'"),
    ('\u{ff08}', "("),
    ('\u{ff09}', ")"),
    ('\u{3000}', " "),
    ('\u{ff1d}', "="),
];

/// Returns the first full-width character in the line of a place, and the character that is meant.
fn full_width(sources: &Sources, place: Place) -> Option<(u32, char, &'static str)> {
    let (start, line) = sources.line(place);
    line.char_indices().find_map(|(index, c)| {
        let (_, ascii) = FULL_WIDTH.iter().find(|(wide, _)| *wide == c)?;
        Some((start + u32::try_from(index).ok()?, c, *ascii))
    })
}

/// Returns the line with the user and password of each address hidden; every character stays at its column.
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

/// The most characters of a line that an error shows.
const MAX_SHOWN_CHARS: usize = 100;

/// Returns the part of a line around a column, safe to print, and the position of the column in it.
fn excerpt(text: &str, column: usize) -> (String, usize) {
    let column = column.saturating_sub(1);
    let from = if text.chars().count() > MAX_SHOWN_CHARS { column.saturating_sub(MAX_SHOWN_CHARS * 2 / 3) } else { 0 };
    let mut shown = String::from(if from > 0 { "..." } else { "" });
    let mut caret = None;
    let mut rest = text.chars().skip(from);
    for (index, c) in rest.by_ref().take(MAX_SHOWN_CHARS).enumerate() {
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

/// Returns text that cannot move the terminal's cursor or change the reading direction.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| print(c, &mut shown));
    shown
}

fn print(c: char, to: &mut String) {
    match c {
        '\t' => to.push(' '),
        c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
            // Writing to a String cannot fail.
            _ = write!(to, "{}", c.escape_unicode());
        }
        c => to.push(c),
    }
}

/// The longest word that a suggestion is looked for: the distance costs the square of its length.
const MAX_WORD_BYTES: usize = 64;

/// Returns `, did you mean "…"?` for the candidate nearest to `word`, or nothing.
pub fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    if word.len() > MAX_WORD_BYTES {
        return String::new();
    }
    let lower = word.to_ascii_lowercase();
    let edits = |candidate: &str| distance(lower.as_bytes(), candidate.to_ascii_lowercase().as_bytes());
    let near = candidates.into_iter().map(|candidate| (edits(candidate), candidate));
    let near = near.filter(|(edits, _)| *edits <= 1 + word.len() / 5).min_by_key(|(edits, _)| *edits);
    near.map(|(_, candidate)| format!(", did you mean \"{candidate}\"?")).unwrap_or_default()
}

/// Damerau's distance with adjacent transpositions.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j + 1] + 1).min(row[j] + 1).min(above[j] + usize::from(x != y));
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}
