//! Files, logical lines and words.

use std::collections::HashMap;
use std::time::Duration;

use super::Directive;
use super::error::Fault;

/// The maximum number of bytes of all files together, and of the text that macros and variables
/// add.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// The maximum length of a logical line, with its variables filled in.
const MAX_LINE_BYTES: usize = 64 << 10;

/// The position of a byte in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    file: u32,
    pub(super) at: u32,
}

impl Place {
    /// Returns the place `bytes` further right.
    pub fn right(self, bytes: usize) -> Self {
        Place { at: self.at.saturating_add(u32::try_from(bytes).unwrap_or(0)), ..self }
    }
}

/// The files that were read, with their names.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<(String, String)>,
    bytes: usize,
}

impl Sources {
    /// Adds a file. Bytes that are not UTF-8, as in comments of other encodings, become U+FFFD.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<u32, String> {
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            return Err(format!("{name}: the files have more than {} MiB together", MAX_BYTES >> 20));
        }
        let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned();
        self.files.push((name.to_owned(), text));
        Ok(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    pub(super) fn text(&self, file: u32) -> &str {
        &self.files[file as usize].1
    }

    pub(super) fn main(&self) -> &str {
        self.files.first().map_or("", |(name, _)| name)
    }

    pub fn name(&self, place: Place) -> &str {
        &self.files[place.file as usize].0
    }

    /// Returns the number of the line, the column in characters, both from 1, and the line.
    pub fn position(&self, place: Place) -> (usize, usize, &str) {
        let (start, line) = self.line(place);
        let before = &self.text(place.file)[..start as usize];
        let at = place.at.saturating_sub(start) as usize;
        let column = line.char_indices().take_while(|(index, _)| *index < at).count();
        (before.matches('\n').count() + 1, column + 1, line)
    }

    /// Returns the position at which the line of a place begins, and the line.
    pub(super) fn line(&self, place: Place) -> (u32, &str) {
        let text = self.text(place.file);
        let before = &text.as_bytes()[..(place.at as usize).min(text.len())];
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let line = text[start..].split('\n').next().unwrap_or_default();
        (u32::try_from(start).unwrap_or(u32::MAX), line.trim_end_matches('\r'))
    }
}

/// A word of a directive, without its quotes and with variables filled in.
#[derive(Debug, Clone)]
pub struct Word {
    pub text: String,
    pub place: Place,
    /// The first `${NAME}` in it that has no value. httpd leaves it unchanged.
    pub undefined: Option<String>,
}

impl Word {
    pub fn fault(&self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        match &self.undefined {
            Some(name) => Fault::new(
                self.place,
                format!("the variable ${{{name}}} has no value"),
                format!("a line before it: Define {name} VALUE, or {name} in the environment"),
            ),
            None => Fault::new(self.place, message, expected),
        }
    }

    /// Returns an error at a byte of the word. The column is wrong if the word has variables or
    /// escapes.
    pub fn fault_at(&self, byte: usize, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        Word { place: self.place.right(byte), ..self.clone() }.fault(message, expected)
    }

    /// Returns an error about a superfluous word.
    pub fn unexpected(&self, directive: &Directive, expected: &str) -> Fault {
        let message = match self.text.starts_with('#') {
            true => "a comment behind a directive, which httpd reads as a value".to_owned(),
            false => format!("{} has too many values: \"{}\"", directive.name.text, self.text),
        };
        let expected = if self.text.starts_with('#') { "the comment in a line of its own" } else { expected };
        self.fault(message, expected)
    }

    /// Returns the word if each of its variables has a value.
    pub fn defined(&self) -> Result<&Word, Fault> {
        if self.undefined.is_some() { Err(self.fault("", "")) } else { Ok(self) }
    }

    pub fn flag(&self) -> Option<bool> {
        match &self.text {
            text if text.eq_ignore_ascii_case("on") => Some(true),
            text if text.eq_ignore_ascii_case("off") => Some(false),
            _ => None,
        }
    }

    pub fn number(&self, range: std::ops::RangeInclusive<u32>) -> Result<u32, Fault> {
        number_of(&self.text).filter(|number| range.contains(number)).ok_or_else(|| {
            self.fault(
                format!("invalid number \"{}\"", self.text),
                format!("a number from {} to {}", range.start(), range.end()),
            )
        })
    }

    /// Reads a time: seconds, or a number followed by `ms`, `s`, `mi`, `min` or `h`.
    pub fn time(&self) -> Result<Duration, Fault> {
        time_of(&self.text).ok_or_else(|| {
            self.fault(format!("invalid time \"{}\"", self.text), "a time such as 60, 500ms, 30s, 5min or 1h")
        })
    }
}

/// Parses digits only: `str::parse` would accept a sign.
pub fn number_of(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Parses a time as httpd's `ap_timeout_parameter_parse` does. A time without a unit is in seconds.
pub fn time_of(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = number_of(&text[..digits])?;
    let unit = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "s" => Duration::from_secs(1),
        "ms" => Duration::from_millis(1),
        "mi" | "min" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return None,
    };
    unit.checked_mul(number)
}

/// A logical line: physical lines joined at their backslashes, with variables filled in, and with
/// the position of each byte.
#[derive(Debug)]
pub(super) struct Line {
    file: u32,
    text: String,
    places: Vec<u32>,
    undefined: Vec<(usize, String)>,
}

impl Line {
    /// Returns the next line of a text from byte `at`, without variables, and moves `at` to its
    /// end; `None` at the end of the text.
    pub(super) fn next(file: u32, text: &str, at: &mut usize) -> Option<Line> {
        if *at >= text.len() {
            return None;
        }
        let mut line = Line { file, text: String::new(), places: Vec::new(), undefined: Vec::new() };
        loop {
            let end = text[*at..].find('\n').map_or(text.len(), |end| *at + end);
            let physical = &text[*at..end];
            let physical = physical.strip_suffix('\r').unwrap_or(physical);
            let continued = physical.strip_suffix('\\');
            line.push(continued.unwrap_or(physical), |index| *at + index);
            *at = end + 1;
            if continued.is_none() || *at >= text.len() {
                break;
            }
        }
        Some(line)
    }

    fn push(&mut self, text: &str, place: impl Fn(usize) -> usize) {
        self.text.push_str(text);
        self.places.extend((0..text.len()).map(|index| u32::try_from(place(index)).unwrap_or(u32::MAX)));
    }

    /// Returns the text without surrounding space, if it is a directive.
    pub(super) fn directive(&self) -> Option<&str> {
        let text = self.text.trim();
        (!text.is_empty() && !text.starts_with('#')).then_some(text)
    }

    pub(super) fn place(&self, index: usize) -> Place {
        let at = self.places.get(index).or(self.places.last()).copied().unwrap_or(0);
        Place { file: self.file, at }
    }

    /// Returns the line of a macro with the values of its parameters. The first parameter that fits
    /// counts.
    pub(super) fn with_values(&self, values: &[(&str, &str)]) -> Result<Line, Fault> {
        let mut line = Line { file: self.file, text: String::new(), places: Vec::new(), undefined: Vec::new() };
        let mut at = 0;
        while let Some(c) = self.text[at..].chars().next() {
            let rest = &self.text[at..];
            let place = |index: usize| self.places[at + index] as usize;
            let length = match values.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    line.push(value, |_| place(0));
                    name.len()
                }
                None => {
                    line.push(&rest[..c.len_utf8()], place);
                    c.len_utf8()
                }
            };
            at += length;
            line.check_length(self.place(at - length))?;
        }
        Ok(line)
    }

    /// Fills in `${NAME}`.
    pub(super) fn fill(self, defines: &HashMap<String, String>) -> Result<Line, Fault> {
        let mut filled = Line { file: self.file, text: String::new(), places: Vec::new(), undefined: Vec::new() };
        let mut at = 0;
        while let Some(start) = self.text[at..].find("${").map(|start| at + start) {
            filled.push(&self.text[at..start], |index| self.places[at + index] as usize);
            let name = self.text[start + 2..].split('}').next().unwrap_or_default();
            let end = start + 2 + name.len() + 1;
            let value = defines.get(name).cloned().or_else(|| std::env::var(name).ok());
            // `${MAP:KEY}` is not a variable. It belongs to mod_rewrite.
            match value.filter(|_| end <= self.text.len()) {
                Some(value) => filled.push(&value, |_| self.places[start] as usize),
                None => {
                    let end = end.min(self.text.len());
                    if end > start + 3 && !name.contains(':') {
                        filled.undefined.push((filled.text.len(), name.to_owned()));
                    }
                    filled.push(&self.text[start..end], |index| self.places[start + index] as usize);
                }
            }
            at = end.min(self.text.len());
            filled.check_length(self.place(start))?;
        }
        filled.push(&self.text[at..], |index| self.places[at + index] as usize);
        filled.check_length(self.place(at))?;
        Ok(filled)
    }

    fn check_length(&self, place: Place) -> Result<(), Fault> {
        if self.text.len() <= MAX_LINE_BYTES {
            return Ok(());
        }
        let message = format!("the line has more than {} KiB with its variables", MAX_LINE_BYTES >> 10);
        Err(Fault::new(place, message, "shorter values"))
    }

    /// Returns the length of the line in bytes, including its end.
    pub(super) fn length(&self) -> usize {
        self.text.len() + 1
    }

    /// Splits the line into words.
    pub(super) fn words(&self) -> Result<Vec<Word>, Fault> {
        let bytes = self.text.as_bytes();
        let mut words = Vec::new();
        let mut at = 0;
        // A section ends with the last `>` of the line.
        let start = bytes.len() - self.text.trim_start().len();
        let is_section = bytes.get(start) == Some(&b'<');
        let end = self.text.trim_end().len();
        let end = match (is_section, bytes[..end].last()) {
            (true, Some(b'>')) => end - 1,
            (true, _) => {
                return Err(Fault::new(
                    self.place(end.saturating_sub(1)),
                    "the section is not closed",
                    "\">\" at its end",
                ));
            }
            (false, _) => end,
        };
        loop {
            while at < end && bytes[at].is_ascii_whitespace() {
                at += 1;
            }
            if at >= end {
                return Ok(words);
            }
            let quote = Some(bytes[at]).filter(|byte| matches!(byte, b'"' | b'\'') && !words.is_empty());
            let from = at + usize::from(quote.is_some());
            let (text, after) = unescape(&self.text[from..end], quote);
            let Some(after) = after else {
                return Err(Fault::new(self.place(at), "a quote that does not end", "the same quote at its end"));
            };
            let undefined = self.undefined.iter().find(|(index, _)| (from..from + after).contains(index));
            words.push(Word { text, place: self.place(at), undefined: undefined.map(|(_, name)| name.clone()) });
            at = from + after + usize::from(quote.is_some());
        }
    }
}

/// Returns the word at the start of a text, as httpd's `ap_getword_conf` reads it, and its length.
/// There is no length if the quote does not end.
fn unescape(text: &str, quote: Option<u8>) -> (String, Option<usize>) {
    let mut word = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((index, c)) = chars.next() {
        match (c, quote) {
            ('\\', _) => {
                let escaped = |next: char| next == '\\' || quote.is_some_and(|quote| next == char::from(quote));
                match chars.next_if(|(_, next)| escaped(*next)) {
                    Some((_, next)) => word.push(next),
                    None => word.push('\\'),
                }
            }
            (c, Some(quote)) if c == char::from(quote) => return (word, Some(index)),
            (c, None) if c.is_ascii_whitespace() => return (word, Some(index)),
            (c, _) => word.push(c),
        }
    }
    let after = if quote.is_some() { None } else { Some(text.len()) };
    (word, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let line = Line::next(0, text, &mut 0).unwrap().fill(&HashMap::new()).unwrap();
        line.words().unwrap().into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_are_httpds() {
        assert_eq!(
            words(r#"Header add X "a \"b\" c" 'd e' f\\g h\i"#),
            ["Header", "add", "X", r#"a "b" c"#, "d e", r"f\g", r"h\i"]
        );
        assert_eq!(words("ProxyPass \\\n  / \\\r\n\tbalancer://k/ \n# no"), ["ProxyPass", "/", "balancer://k/"]);
        assert_eq!(words("<Proxy \"balancer://k\">"), ["<Proxy", "balancer://k"]);
        assert_eq!(words("<Location ~ \"^/a>b\">"), ["<Location", "~", "^/a>b"]);
    }

    #[test]
    fn a_place_within_a_letter_is_behind_it() {
        let mut sources = Sources::default();
        let file = sources.add("a.conf", "a\n\u{540d}b\n".as_bytes()).unwrap();
        let position = |at| sources.position(Place { file, at });
        assert_eq!(position(2), (2, 1, "\u{540d}b"));
        assert_eq!(position(3), (2, 2, "\u{540d}b"));
        assert_eq!(position(5), (2, 2, "\u{540d}b"));
        assert_eq!(position(99), (3, 1, ""));
    }

    #[test]
    fn times_are_httpds() {
        let ms = |text| time_of(text).map(|time| time.as_millis());
        assert_eq!(
            (ms("60"), ms("500ms"), ms("2min"), ms("1h"), ms("0")),
            (Some(60_000), Some(500), Some(120_000), Some(3_600_000), Some(0))
        );
        assert_eq!((ms(""), ms("-1"), ms("5x"), ms("1.5")), (None, None, None, None));
    }
}
