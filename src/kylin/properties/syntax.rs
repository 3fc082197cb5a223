//! The syntax of Java's `Properties.load`: logical lines, escapes, separators.

/// `\u` without four hexadecimal digits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadEscape;

/// A logical line: a line with its continuations. It is neither a comment nor blank.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u32,
    text: String,
}

/// Returns the logical lines of a text. A line that ends in an odd number of backslashes continues
/// in the next line, whose leading blanks are dropped.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line> {
    let mut natural = (1..).zip(natural_lines(text));
    std::iter::from_fn(move || {
        loop {
            let (number, line) = natural.next()?;
            let line = line.trim_start_matches(is_blank);
            // Only a whole line can be a comment; a continuation cannot.
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let mut text = line.to_owned();
            while continues(&text) {
                text.pop();
                match natural.next() {
                    Some((_, next)) => text.push_str(next.trim_start_matches(is_blank)),
                    None => break,
                }
            }
            return Some(Line { number, text });
        }
    })
}

/// Splits a text into lines, which end with `\n`, `\r` or `\r\n`.
fn natural_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let after = &text[end..];
        rest = Some(after.strip_prefix("\r\n").unwrap_or(&after[1..]));
        Some(&text[..end])
    })
}

fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

impl Line {
    /// Returns the key and the value, or `None` if both are empty. The key ends at the first `=`,
    /// `:` or blank that is not escaped.
    pub(super) fn pair(&self) -> Result<Option<(String, String)>, BadEscape> {
        let (mut end, mut escaped) = (self.text.len(), false);
        for (at, c) in self.text.char_indices() {
            if !escaped && (is_blank(c) || c == '=' || c == ':') {
                end = at;
                break;
            }
            escaped = !escaped && c == '\\';
        }
        let (key, rest) = self.text.split_at(end);
        let rest = rest.trim_start_matches(is_blank);
        let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(is_blank);
        let (key, value) = (unescape(key)?, unescape(value)?);
        Ok((!(key.is_empty() && value.is_empty())).then_some((key, value)))
    }
}

/// Decodes escapes. From an unknown escape, only the backslash is dropped.
fn unescape(text: &str) -> Result<String, BadEscape> {
    let mut units: Vec<u16> = Vec::new();
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    // Escapes are UTF-16, so a character may take two.
    let flush = |units: &mut Vec<u16>, out: &mut String| {
        out.extend(char::decode_utf16(units.drain(..)).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    };
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digit = |unit: u16, c: char| c.to_digit(16).map(|digit| unit << 4 | digit as u16);
                    let unit = (0..4).try_fold(0, |unit, _| digit(unit, chars.next()?));
                    units.push(unit.ok_or(BadEscape)?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(c) => c,
                None => break,
            },
            c => c,
        };
        flush(&mut units, &mut out);
        out.push(plain);
    }
    flush(&mut units, &mut out);
    Ok(out)
}
