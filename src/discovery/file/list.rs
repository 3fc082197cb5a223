//! The text of a list of nodes.

use std::num::NonZeroU16;

use crate::discovery::DiscoveredNode;
use crate::endpoint::Roles;

/// The most nodes that a list may have.
const MOST_NODES: usize = 10_000;

/// A fault in a list of nodes, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (line {line}, column {column})")]
pub struct InvalidLine {
    line: usize,
    column: usize,
    what: String,
}

impl InvalidLine {
    /// The line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }

    /// `line:column`, as compilers write it.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.line, self.column)
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<DiscoveredNode>, InvalidLine> {
    let mut list: Vec<DiscoveredNode> = Vec::new();
    let mut lines_of = ahash::AHashMap::<String, usize>::new();
    for (index, content) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = Line { number: index + 1, text: content };
        let Some(found) = line.parse()? else { continue };
        let first = |key: &str, what: &str, lines_of: &ahash::AHashMap<String, usize>| match lines_of.get(key) {
            Some(first) => Err(line.fault(content, format!("this {what} is in line {first} already"))),
            None => Ok(()),
        };
        // Ids and addresses live in one name space here: an id that reads like another node's address would confuse.
        first(found.address(), "address", &lines_of)?;
        if found.id().as_str() != found.address() {
            first(found.id().as_str(), "id", &lines_of)?;
            lines_of.insert(found.id().as_str().to_owned(), line.number);
        }
        lines_of.insert(found.address().to_owned(), line.number);
        if list.len() == MOST_NODES {
            return Err(line.fault(content, format!("more than {MOST_NODES} nodes")));
        }
        list.push(found.with_source(line.number.to_string()));
    }
    Ok(list)
}

struct Line<'t> {
    number: usize,
    text: &'t str,
}

impl<'t> Line<'t> {
    /// The node of this line, if it has one.
    fn parse(&self) -> Result<Option<DiscoveredNode>, InvalidLine> {
        let code = self.text.find('#').map_or(self.text, |comment| &self.text[..comment]);
        let mut words = code.split_whitespace();
        let Some(address) = words.next() else { return Ok(None) };
        let mut found = DiscoveredNode::new(address).map_err(|error| self.fault(address, error.to_string()))?;
        let mut seen = Vec::new();
        for word in words {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            if seen.contains(&key) {
                return Err(self.fault(word, format!("{} stands twice", shown(key))));
            }
            seen.push(key);
            found = match (key, value) {
                ("role", Some(mode)) => {
                    found.with_roles(Roles::parse(mode).map_err(|error| self.fault(word, error.to_string()))?)
                }
                ("weight", Some(weight)) => match weight.parse::<NonZeroU16>() {
                    Ok(weight) => found.with_weight(weight.into()),
                    Err(_) => {
                        return Err(self.fault(word, format!("{} is no weight: expected 1 to 65535", shown(weight))));
                    }
                },
                ("id", Some(id)) => found.with_id(id).map_err(|error| self.fault(word, error.to_string()))?,
                ("backup", None) => found.with_backup(true),
                ("drain", None) => found.draining(true),
                _ => {
                    let what = "expected role=MODE, weight=NUMBER, id=NAME, backup, drain or a comment";
                    return Err(self.fault(word, format!("{} is not known: {what}", shown(word))));
                }
            };
        }
        Ok(Some(found))
    }

    /// A fault at `word`, which is a part of this line.
    fn fault(&self, word: &'t str, what: String) -> InvalidLine {
        let at = (word.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize).min(self.text.len());
        let column = self.text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        InvalidLine { line: self.number, column, what }
    }
}

/// A word of a file as an error may show it.
fn shown(word: &str) -> String {
    format!("{:?}", word.chars().take(60).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_part_of_a_line_is_read() {
        let text = "\u{feff}# nodes\n\nKylin-1:7070 role=query weight=3\r\n  10.0.0.2:7070\tid=q2 drain # soon gone\n[::1]:7070 backup role=job";
        let list = parse(text).unwrap();
        let line = |index: usize| {
            let found: &DiscoveredNode = &list[index];
            let marks = (found.is_backup(), found.is_draining());
            (
                found.id().as_str(),
                found.address(),
                found.roles().to_string(),
                found.weight().map(NonZeroU32::get),
                marks,
                found.source(),
            )
        };
        assert_eq!(line(0), ("kylin-1:7070", "kylin-1:7070", "query".into(), Some(3), (false, false), "3"));
        assert_eq!(line(1), ("q2", "10.0.0.2:7070", "all".into(), None, (false, true), "4"));
        assert_eq!(line(2), ("[::1]:7070", "[::1]:7070", "job".into(), None, (true, false), "5"));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn a_fault_says_where_and_what_was_expected() {
        for (text, place, what) in [
            ("a:1\n b", "2:2", "expected host:port"),
            ("a:1 weight=0", "1:5", "expected 1 to 65535"),
            ("ä:1", "1:1", "expected host:port"),
            ("# ä\na:1 ünknown=1", "2:5", "\"ünknown=1\" is not known: expected role=MODE"),
            ("a:1 role=querry", "1:5", "expected all, query or job"),
            ("a:1 drain=yes", "1:5", "is not known"),
            ("a:1 id=", "1:5", "expected 1 to 255 visible ASCII characters"),
            ("a:1 drain backup drain", "1:18", "\"drain\" stands twice"),
            ("a:1\nb:1\n\nA:01", "4:1", "this address is in line 1 already"),
            ("a:1 id=x\nb:1 id=x", "2:1", "this id is in line 1 already"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(
                (error.place(), error.to_string().contains(what)),
                (place.to_owned(), true),
                "{text:?}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}|([a-c.:1-9\\[\\]# \\n\\r\t=]|role|weight|id|drain|backup|query|ß){0,60}") {
            if let Ok(list) = parse(&text) {
                prop_assert!(list.len() <= text.lines().count());
            }
        }

        #[test]
        fn what_is_written_is_read(ports in proptest::collection::btree_set(1_u16.., 0..20), weight in 1_u32..65_536) {
            let text: String = ports.iter().map(|port| format!("host:{port} weight={weight}\n")).collect();
            let list = parse(&text).unwrap();
            prop_assert!(list.iter().all(|found| found.weight() == NonZeroU32::new(weight)));
            prop_assert_eq!(list.len(), ports.len());
        }
    }
}
