//! The text that was read, kept so that every later error can show the line it is about.

use std::sync::Arc;

/// Where something stands: which file, which line, which byte.
///
/// The line is counted while reading, because finding it afterwards costs a walk through the file for each question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) file: u16,
    pub(super) line: u32,
    pub(super) at: u32,
}

impl Span {
    /// The same line, `bytes` further right.
    pub(super) fn right(self, bytes: usize) -> Span {
        Span { at: self.at.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX)), ..self }
    }
}

/// One file: its name as the user knows it, and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
}

/// Every file of one configuration, the main file first.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<Source>);

/// A span for people: counted from 1, with the line's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) text: &'a str,
}

impl Sources {
    /// Adds a file and says by which number spans refer to it; `None` when there are too many.
    pub(super) fn add(&mut self, name: &str, text: &str) -> Option<u16> {
        let file = u16::try_from(self.0.len()).ok()?;
        self.0.push(Source { name: name.into(), text: text.into() });
        Some(file)
    }

    pub(super) fn text(&self, file: u16) -> Arc<str> {
        self.0.get(usize::from(file)).map_or_else(|| Arc::from(""), |source| source.text.clone())
    }

    pub(super) fn name(&self, file: u16) -> Arc<str> {
        self.0.get(usize::from(file)).map_or_else(|| Arc::from(""), |source| source.name.clone())
    }

    pub(super) fn place(&self, span: Span) -> Place<'_> {
        let Some(source) = self.0.get(usize::from(span.file)) else {
            return Place { file: "", line: span.line, column: 1, text: "" };
        };
        let text = &*source.text;
        let mut at = (span.at as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let column = u32::try_from(text[start..at].chars().count()).unwrap_or(u32::MAX - 1) + 1;
        Place { file: &source.name, line: span.line, column, text: text[start..end].trim_end_matches('\r') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let mut sources = Sources::default();
        let file = sources.add("a.conf", "first\r\n# é\u{4e2d} x\nlast").unwrap();
        let at = u32::try_from(sources.text(file).find('x').unwrap()).unwrap();
        let place = sources.place(Span { file, line: 2, at });
        assert_eq!(place, Place { file: "a.conf", line: 2, column: 6, text: "# é\u{4e2d} x" });
        // Inside a character, and past the end: still a place.
        assert_eq!(sources.place(Span { file, line: 2, at: at - 2 }).column, 4);
        assert_eq!(sources.place(Span { file, line: 3, at: 9999 }).text, "last");
    }
}
