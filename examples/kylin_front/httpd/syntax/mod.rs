//! The syntax of httpd's configuration files: lines, words, sections, variables, included files.

mod condition;
mod error;
// Both readers show errors in the same way. The files are compiled here again, because they are
// private in the library.
#[path = "../../../../src/nginx/syntax/excerpt.rs"]
mod excerpt;
mod include;
mod lines;
mod parser;
#[path = "../../../../src/nginx/syntax/suggest.rs"]
mod suggest;

pub use self::error::{ConfigError, Fault};
pub(crate) use self::excerpt::printable;
pub use self::include::matches;
pub use self::lines::{Place, Sources, Word};
pub use self::parser::{Notice, Parsed, parse};
pub(crate) use self::suggest::did_you_mean;

/// A directive with its words. A section also has the directives inside.
#[derive(Debug, Clone)]
pub struct Directive {
    /// The name as written. The name of a section begins with `<`.
    pub name: Word,
    pub args: Vec<Word>,
    pub section: Option<Vec<Directive>>,
}

impl Directive {
    /// Returns whether the directive has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.text.eq_ignore_ascii_case(name)
    }

    /// Returns an error at the name.
    pub fn fault(&self, message: impl Into<String>, expected: impl Into<String>) -> Fault {
        self.name.fault(message, expected)
    }

    /// Returns the only word after the name.
    pub fn one(&self, expected: &str) -> Result<&Word, Fault> {
        match &self.args[..] {
            [word] => Ok(word),
            [] => Err(self.fault(format!("{} needs a value", self.name.text), expected)),
            [_, more, ..] => Err(more.unexpected(self, expected)),
        }
    }

    /// Returns whether the value is On; it must be On or Off.
    pub fn flag(&self) -> Result<bool, Fault> {
        let word = self.one("On or Off")?;
        word.flag().ok_or_else(|| word.fault(format!("invalid value \"{}\"", word.text), "On or Off"))
    }

    /// Returns the directive in one line, for remarks.
    pub fn line(&self) -> String {
        let words = self.args.iter().map(|word| word.text.as_str());
        let line = std::iter::once(self.name.text.as_str()).chain(words).collect::<Vec<_>>().join(" ");
        if self.section.is_some() { line + ">" } else { line }
    }
}
