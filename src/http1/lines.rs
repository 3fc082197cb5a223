//! The lines of a head, whatever the pieces that they come in.

use std::cell::Cell;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter};

thread_local! {
    /// Room for one head's lines, kept from head to head.
    static SPARE: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

/// How far a head was looked through for its end.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Up to here there is none, and no line that has not ended but the last.
    seen: usize,
}

/// The most that a head may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    pub(crate) bytes: usize,
    pub(crate) fields: usize,
}

/// Why what comes is no head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoHead {
    #[error("the head is too long")]
    TooLong,
    #[error("the head has too many fields")]
    TooManyFields,
    /// Some take it for the end of a line, and some do not.
    #[error("a line of the head ends with a line feed alone")]
    LineFeed,
    #[error("the head has no line")]
    Empty,
}

/// Where the lines of a head end: each at its line feed.
#[derive(Debug)]
pub(crate) struct Lines<'e> {
    ends: &'e [usize],
}

impl Scan {
    /// Takes a head out of `read`, of which the beginning is what it was before, for `parse`; none while it is not complete.
    pub(crate) fn take<T>(
        &mut self,
        read: &mut BytesMut,
        most: Most,
        parse: impl FnOnce(Bytes, Lines<'_>) -> T,
    ) -> Result<Option<T>, NoHead> {
        if self.seen > 0 && read.get(self.seen..).is_some_and(|new| memchr(b'\n', new).is_none()) {
            return self.wait(read, most);
        }
        let mut ends = SPARE.take();
        ends.clear();
        let taken = match end(read, most.fields, &mut ends) {
            Err(why) => Err(why),
            Ok(None) => self.wait(read, most),
            Ok(Some(at)) if at > most.bytes => Err(NoHead::TooLong),
            Ok(Some(_)) if ends.is_empty() => Err(NoHead::Empty),
            Ok(Some(at)) => {
                self.seen = 0;
                Ok(Some(parse(read.split_to(at).freeze(), Lines { ends: &ends })))
            }
        };
        SPARE.set(ends);
        taken
    }

    fn wait<T>(&mut self, read: &[u8], most: Most) -> Result<Option<T>, NoHead> {
        self.seen = read.len();
        if self.seen > most.bytes { Err(NoHead::TooLong) } else { Ok(None) }
    }
}

/// Behind the first empty line, where the head ends that `read` begins with. The lines before it end at `ends`.
fn end(read: &[u8], most_fields: usize, ends: &mut Vec<usize>) -> Result<Option<usize>, NoHead> {
    let mut start = 0;
    for at in memchr_iter(b'\n', read) {
        match &read[start..at] {
            [b'\r'] => return Ok(Some(at + 1)),
            [.., b'\r'] if ends.len() <= most_fields => ends.push(at),
            [.., b'\r'] => return Err(NoHead::TooManyFields),
            _ => return Err(NoHead::LineFeed),
        }
        start = at + 1;
    }
    Ok(None)
}

impl Lines<'_> {
    /// Where the first line is.
    pub(crate) fn first(&self) -> Range<usize> {
        0..self.ends[0] - 1
    }

    /// Where the others are.
    pub(crate) fn fields(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.ends.windows(2).map(|ends| ends[0] + 1..ends[1] - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Most = Most { bytes: 64, fields: 2 };

    fn take(scan: &mut Scan, read: &mut BytesMut) -> Result<Option<Vec<String>>, NoHead> {
        scan.take(read, MOST, |head, lines| {
            let text = |range: Range<usize>| String::from_utf8(head[range].to_vec()).unwrap();
            [lines.first()].into_iter().chain(lines.fields()).map(text).collect()
        })
    }

    fn lines(text: &str) -> Result<Option<Vec<String>>, NoHead> {
        take(&mut Scan::default(), &mut BytesMut::from(text))
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(lines("a\r\nb: c\r\n\r\nrest\r\n\r\n"), Ok(Some(vec!["a".into(), "b: c".into()])));
        assert_eq!(lines("a\r\n\r\n"), Ok(Some(vec!["a".into()])));
        for text in ["a: b\r\n\r", "a\r\n", "a", ""] {
            assert_eq!(lines(text), Ok(None), "{text:?}");
        }
        assert_eq!(lines("\r\na\r\n\r\n"), Err(NoHead::Empty));
    }

    #[test]
    fn a_line_feed_alone_is_no_end_of_a_line() {
        for text in ["a\n", "a\r\n\n", "a\nb\r\n\r\n", "\na\r\n\r\n", "\n\n", "a\r\nb\n\r\n"] {
            assert_eq!(lines(text), Err(NoHead::LineFeed), "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded() {
        assert!(lines(&format!("{}\r\n\r\n", "a".repeat(60))).is_ok());
        assert_eq!(lines(&format!("{}\r\n\r\n", "a".repeat(61))), Err(NoHead::TooLong));
        assert_eq!(lines(&"a".repeat(64)), Ok(None));
        assert_eq!(lines(&"a".repeat(65)), Err(NoHead::TooLong));
        assert!(lines("a\r\nb\r\nc\r\n\r\n").is_ok());
        assert_eq!(lines("a\r\nb\r\nc\r\nd\r\n"), Err(NoHead::TooManyFields));
    }

    proptest::proptest! {
        #[test]
        fn the_lines_are_the_same_whatever_the_pieces(text in "([a\r\n]|\r\n){0,12}(\r\n\r\n)?", cuts in proptest::array::uniform3(0_usize..16)) {
            let whole = lines(&text);
            let (mut scan, mut read) = (Scan::default(), BytesMut::new());
            let mut cuts = cuts.map(|cut| cut.min(text.len()));
            cuts.sort_unstable();
            let mut from = 0;
            let mut last = Ok(None);
            for to in cuts.into_iter().chain([text.len()]) {
                read.extend_from_slice(&text.as_bytes()[from..to]);
                from = to;
                last = take(&mut scan, &mut read);
                if last != Ok(None) {
                    break;
                }
            }
            proptest::prop_assert_eq!(last, whole);
        }
    }
}
