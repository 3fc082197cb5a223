//! The text of every file that was read, kept so that a later error can show its line.

use std::sync::Arc;

/// The position where a word begins: file, line and byte.
///
/// The lexer counts lines while it reads, so that a note about a line needs no search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) file: u16,
    pub(crate) line: u32,
    pub(crate) at: u32,
}

impl Span {
    /// Returns a place in the same line, `bytes` further right.
    pub(crate) fn right(self, bytes: usize) -> Span {
        Span { at: self.at.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)), ..self }
    }
}

/// The files of a configuration, each with its name and text, the main file first.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<(Arc<str>, Arc<str>)>);

/// A position for messages: counted from 1, with the text of the line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Position<'a> {
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) text: &'a str,
}

impl Sources {
    /// Adds a file and returns its number for spans; `None` if there are too many files.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> Option<u16> {
        let file = u16::try_from(self.0.len()).ok()?;
        self.0.push((name.into(), text.into()));
        Some(file)
    }

    pub(crate) fn text(&self, file: u16) -> Arc<str> {
        self.0.get(usize::from(file)).map_or_else(|| Arc::from(""), |(_, text)| text.clone())
    }

    pub(crate) fn name(&self, file: u16) -> Arc<str> {
        self.0.get(usize::from(file)).map_or_else(|| Arc::from(""), |(name, _)| name.clone())
    }

    pub(crate) fn position(&self, span: Span) -> Position<'_> {
        let (file, text) = self.0.get(usize::from(span.file)).map_or(("", ""), |(name, text)| (&**name, &**text));
        let mut at = (span.at as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let column = u32::try_from(text[start..at].chars().count()).unwrap_or(u32::MAX - 1) + 1;
        Position { file, line: span.line, column, text: text[start..end].trim_end_matches('\r') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_characters_not_bytes() {
        let mut sources = Sources::default();
        let file = sources.add("a.conf", "first\r\n# é\u{4e2d} x\nlast").unwrap();
        let at = u32::try_from(sources.text(file).find('x').unwrap()).unwrap();
        let position = sources.position(Span { file, line: 2, at });
        assert_eq!(position, Position { file: "a.conf", line: 2, column: 6, text: "# é\u{4e2d} x" });
        // A span inside a character or past the end still has a position.
        assert_eq!(sources.position(Span { file, line: 2, at: at - 2 }).column, 4);
        assert_eq!(sources.position(Span { file, line: 3, at: 9999 }).text, "last");
    }
}
