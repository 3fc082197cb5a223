//! The format of a [`FileList`](super::FileList).

use std::num::NonZeroU16;

use ahash::AHashMap;

use crate::discovery::DiscoveredNode;
use crate::endpoint::Roles;

const MAX_NODES: usize = 10_000;

/// The error for an invalid line in a list of nodes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (line {line}, column {column})")]
pub struct InvalidLine {
    line: usize,
    column: usize,
    message: String,
}

impl InvalidLine {
    /// Returns the number of the line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the number of the column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }
}

/// Reads the nodes. The source of each is its line number.
pub(super) fn parse(text: &str) -> Result<Vec<DiscoveredNode>, InvalidLine> {
    let mut nodes: Vec<DiscoveredNode> = Vec::new();
    // Ids and addresses share one name space, because an id that equals the address of another node
    // would be misleading.
    let mut lines = AHashMap::<String, usize>::new();
    for (number, text) in (1..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines()) {
        let line = Line { number, text };
        let Some(node) = line.parse()? else { continue };
        let mut names = vec![("address", node.address())];
        if node.id().as_str() != node.address() {
            names.push(("id", node.id().as_str()));
        }
        for (kind, name) in names {
            if let Some(first) = lines.insert(name.to_owned(), number) {
                return Err(line.invalid(text, format!("this {kind} is in line {first} already")));
            }
        }
        if nodes.len() == MAX_NODES {
            return Err(line.invalid(text, format!("more than {MAX_NODES} nodes")));
        }
        nodes.push(node.with_source(number.to_string()));
    }
    Ok(nodes)
}

struct Line<'t> {
    number: usize,
    text: &'t str,
}

impl<'t> Line<'t> {
    /// Reads the node of this line. Returns `None` for an empty line or a comment.
    fn parse(&self) -> Result<Option<DiscoveredNode>, InvalidLine> {
        let mut words = self.text.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next() else { return Ok(None) };
        let mut node = DiscoveredNode::new(address).map_err(|error| self.invalid(address, error.to_string()))?;
        let mut keys = Vec::new();
        for word in words {
            let (key, value) = word.split_once('=').map_or((word, None), |(key, value)| (key, Some(value)));
            if keys.contains(&key) {
                return Err(self.invalid(word, format!("{} is set twice", quoted(key))));
            }
            keys.push(key);
            node = match (key, value) {
                ("role", Some(mode)) => {
                    node.with_roles(Roles::parse(mode).map_err(|error| self.invalid(word, error.to_string()))?)
                }
                ("weight", Some(weight)) => match weight.parse::<NonZeroU16>() {
                    Ok(weight) => node.with_weight(weight.into()),
                    Err(_) => {
                        let message = format!("{} is not a weight: expected 1 to 65535", quoted(weight));
                        return Err(self.invalid(word, message));
                    }
                },
                ("id", Some(id)) => node.with_id(id).map_err(|error| self.invalid(word, error.to_string()))?,
                ("backup", None) => node.with_backup(true),
                ("drain", None) => node.with_drain(true),
                _ => {
                    let expected = "expected role=MODE, weight=NUMBER, id=NAME, backup, drain or a comment";
                    return Err(self.invalid(word, format!("{} is not a setting: {expected}", quoted(word))));
                }
            };
        }
        Ok(Some(node))
    }

    /// Makes an error that points at `word`, which is a part of this line.
    fn invalid(&self, word: &'t str, message: String) -> InvalidLine {
        let at = (word.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize).min(self.text.len());
        let column = self.text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        InvalidLine { line: self.number, column, message }
    }
}

/// Quotes a word of the file, up to 60 characters of it.
fn quoted(word: &str) -> String {
    format!("{:?}", word.chars().take(60).collect::<String>())
}

/// Parses `text` as a list of nodes.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) {
    match parse(text) {
        Ok(nodes) => assert!(nodes.len() <= text.lines().count()),
        Err(error) => assert!(error.line() <= text.lines().count() + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_setting_of_a_line_is_read() {
        let text = "\u{feff}# nodes\n\nKylin-1:7070 role=query weight=3\r\n  10.0.0.2:7070\tid=q2 drain # leaves soon\n[::1]:7070 backup role=job";
        let list = parse(text).unwrap();
        let line = |index: usize| {
            let node: &DiscoveredNode = &list[index];
            let flags = (node.is_backup(), node.is_draining());
            let weight = node.weight().map(NonZeroU32::get);
            (node.id().as_str(), node.address(), node.roles().to_string(), weight, flags, node.source())
        };
        assert_eq!(line(0), ("kylin-1:7070", "kylin-1:7070", "query".into(), Some(3), (false, false), "3"));
        assert_eq!(line(1), ("q2", "10.0.0.2:7070", "all".into(), None, (false, true), "4"));
        assert_eq!(line(2), ("[::1]:7070", "[::1]:7070", "job".into(), None, (true, false), "5"));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn an_error_names_the_place_and_what_was_expected() {
        for (text, place, message) in [
            ("a:1\n b", "2:2", "expected host:port"),
            ("a:1 weight=0", "1:5", "expected 1 to 65535"),
            ("ä:1", "1:1", "expected host:port"),
            ("# ä\na:1 ünknown=1", "2:5", "\"ünknown=1\" is not a setting: expected role=MODE"),
            ("a:1 role=querry", "1:5", "expected all, query or job"),
            ("a:1 drain=yes", "1:5", "is not a setting"),
            ("a:1 id=", "1:5", "expected 1 to 255 visible ASCII characters"),
            ("a:1 drain backup drain", "1:18", "\"drain\" is set twice"),
            ("a:1\nb:1\n\nA:01", "4:1", "this address is in line 1 already"),
            ("a:1 id=x\nb:1 id=x", "2:1", "this id is in line 1 already"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(format!("{}:{}", error.line(), error.column()), place, "{text:?}: {error}");
            assert!(error.to_string().contains(message), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text in "\\PC{0,200}|([a-c.:1-9\\[\\]# \\n\\r\t=]|role|weight|id|drain|backup|query|ß){0,60}") {
            if let Ok(list) = parse(&text) {
                prop_assert!(list.len() <= text.lines().count());
            }
        }

        #[test]
        fn every_written_list_is_read(ports in proptest::collection::btree_set(1_u16.., 0..20), weight in 1_u32..65_536) {
            let text: String = ports.iter().map(|port| format!("host:{port} weight={weight}\n")).collect();
            let list = parse(&text).unwrap();
            prop_assert!(list.iter().all(|node| node.weight() == NonZeroU32::new(weight)));
            prop_assert_eq!(list.len(), ports.len());
        }
    }
}
