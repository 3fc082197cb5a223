//! Translates PCRE expressions without UTF mode into those of the crate `regex`.
//!
//! Most of the syntax is the same. Syntax that the crate reads differently is rewritten, or is an
//! error if the crate has no equivalent. Syntax that the crate does not know is left for the crate
//! to refuse.

use std::error::Error;
use std::fmt;

/// A part of a PCRE expression that has no equivalent in the crate `regex`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcreError {
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) instead: &'static str,
}

impl PcreError {
    /// Returns where the part begins, in bytes from the start of the expression.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Returns what to write instead.
    pub fn expected(&self) -> &'static str {
        self.instead
    }
}

impl fmt::Display for PcreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for PcreError {}

/// Translates a PCRE expression without UTF mode into one for the crate `regex` with Unicode off.
///
/// nginx and httpd use PCRE in this mode. Syntax that the crate does not know is left for the crate
/// to refuse.
///
/// # Errors
/// A part has another meaning in the crate, and no equivalent.
pub fn translate_pcre(text: &str) -> Result<String, PcreError> {
    let mut translation = Translation { text, at: 0, out: String::with_capacity(text.len()), before: Before::Other };
    while translation.at < text.len() {
        translation.step()?;
    }
    Ok(translation.out)
}

struct Translation<'t> {
    text: &'t str,
    at: usize,
    out: String,
    before: Before,
}

/// The kind of element before the current position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// A quantifier, which `?` makes lazy and `+` possessive.
    Quantifier,
    /// In a class, a class such as `\w`.
    Class,
    Other,
}

/// The whitespace of `\h`.
const HORIZONTAL: &str = "\\t \\xA0";
const VERTICAL: &str = "\\n\\x0B\\f\\r\\x85";

/// The names of `[:NAME:]`. `lower` and `upper` have another meaning if they are negated and case
/// is ignored.
const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

impl Translation<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Writes `form` in place of the next `length` bytes.
    fn write(&mut self, form: &str, length: usize, before: Before) {
        self.out.push_str(form);
        self.at += length;
        self.before = before;
    }

    /// Copies a character. PCRE reads a character beyond ASCII as several characters of one byte
    /// each.
    fn keep(&mut self) {
        let Some(c) = self.rest().chars().next() else { return };
        let form = match c.is_ascii() {
            true => c.to_string(),
            false => c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\x{byte:02X}")).collect(),
        };
        self.write(&form, c.len_utf8(), Before::Other);
    }

    fn refuse<T>(&self, what: &str, instead: &'static str) -> Result<T, PcreError> {
        let message = format!("{what} is read differently by PCRE and by this crate");
        Err(PcreError { at: self.at, message, instead })
    }

    /// Translates the element at the current position, outside of a class.
    fn step(&mut self) -> Result<(), PcreError> {
        match self.rest().as_bytes() {
            [b'\\', ..] => return self.escape(false),
            [b'[', ..] => return self.class(),
            [b'(', b'?', ..] => {
                self.check_flags()?;
                self.write("(?", 2, Before::Other);
            }
            [b'+', ..] if self.before == Before::Quantifier => {
                let instead = "no \"+\" behind *, +, ? or {N}: the repetition then gives back what the rest needs";
                return Err(PcreError {
                    at: self.at,
                    message: "a possessive repetition is not supported".to_owned(),
                    instead,
                });
            }
            [b'?', ..] if self.before == Before::Quantifier => self.write("?", 1, Before::Other),
            [quantifier @ (b'*' | b'+' | b'?'), ..] => {
                let form = char::from(*quantifier).to_string();
                self.write(&form, 1, Before::Quantifier);
            }
            [b'{', ..] => match length_of_count(self.rest()) {
                Some(length) => {
                    let form = self.rest()[..length].to_owned();
                    self.write(&form, length, Before::Quantifier);
                }
                // The brace is literal.
                None => self.write("\\{", 1, Before::Other),
            },
            _ => self.keep(),
        }
        Ok(())
    }

    /// Refuses flags that have another meaning in the crate, in `(?FLAGS)` and `(?FLAGS:...)`.
    fn check_flags(&self) -> Result<(), PcreError> {
        let flags = &self.rest()[2..];
        let length = flags.find(|c: char| !(c.is_ascii_alphabetic() || c == '-')).unwrap_or(flags.len());
        match flags[..length].contains(['R', 'u', 'x']) && flags[length..].starts_with([':', ')']) {
            true => self.refuse(&format!("(?{})", &flags[..length]), "an expression with no flags but i, m, s and U"),
            false => Ok(()),
        }
    }

    /// Translates a class.
    fn class(&mut self) -> Result<(), PcreError> {
        let start = ["[^]", "[^", "[]", "["].into_iter().find(|start| self.rest().starts_with(start)).unwrap_or("[");
        self.write(start, start.len(), Before::Other);
        loop {
            match self.rest().as_bytes() {
                [] => return Ok(()),
                [b']', ..] => {
                    self.write("]", 1, Before::Other);
                    return Ok(());
                }
                [b'\\', ..] => self.escape(true)?,
                [b'[', b':', ..] => self.posix()?,
                [b'[', ..] => return self.refuse("\"[\" in a character class", ESCAPED),
                [b'&', b'&', ..] => return self.refuse("\"&&\" in a character class", ESCAPED),
                [b'~', b'~', ..] => return self.refuse("\"~~\" in a character class", ESCAPED),
                [b'-', b'-', ..] => return self.refuse("\"--\" in a character class", ESCAPED),
                // PCRE takes it literally, or refuses it since its version 2.
                [b'-', next, ..] if self.before == Before::Class && *next != b']' => {
                    self.write("\\-", 1, Before::Other);
                }
                _ => self.keep(),
            }
        }
    }

    /// Translates `[:NAME:]` in a class.
    fn posix(&mut self) -> Result<(), PcreError> {
        let name = self.rest()[2..].split_once(":]").map(|(name, _)| name.to_owned());
        let is_known = |name: &&String| match name.strip_prefix('^') {
            Some(name) => POSIX.contains(&name) && !matches!(name, "lower" | "upper"),
            None => POSIX.contains(&name.as_str()),
        };
        match name.as_ref().filter(is_known) {
            Some(name) => {
                self.write(&format!("[:{name}:]"), name.len() + 4, Before::Class);
                Ok(())
            }
            None => self.refuse("\"[:\" in a character class", "\"\\[:\" for the characters, or a name like [:alpha:]"),
        }
    }

    /// Translates an escape.
    fn escape(&mut self, in_class: bool) -> Result<(), PcreError> {
        let rest = self.rest();
        let Some(letter) = rest[1..].chars().next() else {
            self.keep();
            return Ok(());
        };
        let set = |set: &str| if in_class { set.to_owned() } else { format!("[{set}]") };
        let kept = || rest[..1 + letter.len_utf8()].to_owned();
        let (form, before) = match letter {
            '<' | '>' => (letter.to_string(), Before::Other),
            'e' => ("\\x1B".to_owned(), Before::Other),
            'b' if in_class => ("\\x08".to_owned(), Before::Other),
            'b' | 'B' if rest[2..].starts_with('{') => {
                return self.refuse("\"{\" behind \\b", "\"\\{\" for the brace");
            }
            'h' => (set(HORIZONTAL), Before::Class),
            'v' => (set(VERTICAL), Before::Class),
            'H' => (format!("[^{HORIZONTAL}]"), Before::Class),
            'V' => (format!("[^{VERTICAL}]"), Before::Class),
            'N' if !in_class && !rest[2..].starts_with('{') => ("[^\\n]".to_owned(), Before::Class),
            'Z' if !in_class => ("(?:\\n?\\z)".to_owned(), Before::Other),
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => (kept(), Before::Class),
            'x' => return self.hexadecimal(),
            'u' | 'U' => return self.refuse("\\u", "the character itself"),
            _ => (kept(), Before::Other),
        };
        let before = if in_class { before } else { Before::Other };
        self.write(&form, 1 + letter.len_utf8(), before);
        Ok(())
    }

    /// Translates `\xNN` and `\x{NN}`, which are a byte.
    fn hexadecimal(&mut self) -> Result<(), PcreError> {
        let digits = &self.rest()[2..];
        let (number, length) = match digits.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((number, _)) => (number, number.len() + 4),
            None => {
                let count = digits.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
                (&digits[..count], count + 2)
            }
        };
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u8::from_str_radix(number, 16).ok().filter(|_| is_number) {
            Some(byte) => {
                self.write(&format!("\\x{byte:02X}"), length, Before::Other);
                Ok(())
            }
            None => self.refuse("\\x", "\\xNN, which is one byte"),
        }
    }
}

const ESCAPED: &str = "a backslash before it";

/// Returns the length of `{N}`, `{N,}` or `{N,M}` at the beginning of `text`.
fn length_of_count(text: &str) -> Option<usize> {
    let text = text.strip_prefix('{')?;
    let (count, rest) = text.split_at(text.find(|c: char| !(c.is_ascii_digit() || c == ','))?);
    let (least, most) = count.split_once(',').unwrap_or((count, ""));
    (rest.starts_with('}') && !least.is_empty() && !most.contains(',')).then_some(count.len() + 2)
}
