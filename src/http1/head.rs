//! Finds the end of a head and its lines, regardless of how many reads deliver it.

use std::cell::Cell;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter};

thread_local! {
    /// A buffer for the line ends of one head, reused for the next.
    static SPARE_LINE_ENDS: Cell<Vec<usize>> = const { Cell::new(Vec::new()) };
}

/// The limits on a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) headers: usize,
}

/// The default of [`HeadLimits::bytes`].
pub(crate) const DEFAULT_MAX_HEAD_BYTES: usize = 64 * 1024;

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { bytes: DEFAULT_MAX_HEAD_BYTES, headers: 100 }
    }
}

/// The reason why the bytes are not a valid head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("the head is too long")]
    TooLong,
    #[error("the first line of the head is too long")]
    StartLineTooLong,
    #[error("the head has too many headers")]
    TooManyHeaders,
    /// Some parsers end a line there, others do not.
    #[error("a line of the head ends with a bare line feed")]
    BareLineFeed,
    #[error("the head is empty")]
    Empty,
}

/// Searches for the end of a head.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    /// The bytes before this position were searched. They contain no end of a head, and only their
    /// last line is incomplete.
    searched: usize,
}

impl HeadScanner {
    /// Takes a head out of `read` and parses it; `None` while it is incomplete. Between calls,
    /// `read` may only grow.
    pub(crate) fn take<T>(
        &mut self,
        read: &mut BytesMut,
        limits: HeadLimits,
        parse: impl FnOnce(Bytes, HeadLines<'_>) -> T,
    ) -> Result<Option<T>, HeadError> {
        if self.searched > 0 && read.get(self.searched..).is_some_and(|new| memchr(b'\n', new).is_none()) {
            return self.incomplete(read, limits);
        }
        let mut line_ends = SPARE_LINE_ENDS.take();
        line_ends.clear();
        let taken = match find_end(read, limits.headers, &mut line_ends) {
            Err(error) => Err(error),
            Ok(None) => self.incomplete(read, limits),
            Ok(Some(end)) if end > limits.bytes => Err(too_long(read, limits)),
            Ok(Some(_)) if line_ends.is_empty() => Err(HeadError::Empty),
            Ok(Some(end)) => {
                self.searched = 0;
                Ok(Some(parse(read.split_to(end).freeze(), HeadLines { ends: &line_ends })))
            }
        };
        SPARE_LINE_ENDS.set(line_ends);
        taken
    }

    fn incomplete<T>(&mut self, read: &[u8], limits: HeadLimits) -> Result<Option<T>, HeadError> {
        self.searched = read.len();
        if self.searched > limits.bytes { Err(too_long(read, limits)) } else { Ok(None) }
    }
}

/// Returns which part of a head is too long.
fn too_long(read: &[u8], limits: HeadLimits) -> HeadError {
    let has_line = read.iter().take(limits.bytes).any(|byte| *byte == b'\n');
    if has_line { HeadError::TooLong } else { HeadError::StartLineTooLong }
}

/// Returns the end of the first empty line, and in `line_ends` the line feed of each line before
/// it.
fn find_end(read: &[u8], max_headers: usize, line_ends: &mut Vec<usize>) -> Result<Option<usize>, HeadError> {
    let mut start = 0;
    for at in memchr_iter(b'\n', read) {
        match &read[start..at] {
            [b'\r'] => return Ok(Some(at + 1)),
            [.., b'\r'] if line_ends.len() <= max_headers => line_ends.push(at),
            [.., b'\r'] => return Err(HeadError::TooManyHeaders),
            _ => return Err(HeadError::BareLineFeed),
        }
        start = at + 1;
    }
    Ok(None)
}

/// The lines of a head, as ranges without CR LF.
#[derive(Debug)]
pub(crate) struct HeadLines<'e> {
    /// The line feed of each line.
    ends: &'e [usize],
}

impl HeadLines<'_> {
    pub(crate) fn start_line(&self) -> Range<usize> {
        0..self.ends[0] - 1
    }

    pub(crate) fn headers(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.ends.windows(2).map(|ends| ends[0] + 1..ends[1] - 1)
    }

    /// Returns the lengths of all lines with their ends, including the empty line at the end of the
    /// head. `end` is the length of the head.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only a server has buffers for lines"))]
    pub(crate) fn lengths(&self, end: usize) -> impl Iterator<Item = usize> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|feed| feed + 1));
        starts.zip(self.ends.iter().map(|feed| feed + 1).chain([end])).map(|(start, end)| end - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 64, headers: 2 };

    fn take(scanner: &mut HeadScanner, read: &mut BytesMut) -> Result<Option<Vec<String>>, HeadError> {
        scanner.take(read, LIMITS, |head, lines| {
            let text = |range: Range<usize>| String::from_utf8(head[range].to_vec()).unwrap();
            [lines.start_line()].into_iter().chain(lines.headers()).map(text).collect()
        })
    }

    fn lines(text: &str) -> Result<Option<Vec<String>>, HeadError> {
        take(&mut HeadScanner::default(), &mut BytesMut::from(text))
    }

    #[test]
    fn a_head_ends_with_its_first_empty_line() {
        assert_eq!(lines("a\r\nb: c\r\n\r\nrest\r\n\r\n"), Ok(Some(vec!["a".into(), "b: c".into()])));
        assert_eq!(lines("a\r\n\r\n"), Ok(Some(vec!["a".into()])));
        for text in ["a: b\r\n\r", "a\r\n", "a", ""] {
            assert_eq!(lines(text), Ok(None), "{text:?}");
        }
        assert_eq!(lines("\r\na\r\n\r\n"), Err(HeadError::Empty));
    }

    #[test]
    fn a_bare_line_feed_does_not_end_a_line() {
        for text in ["a\n", "a\r\n\n", "a\nb\r\n\r\n", "\na\r\n\r\n", "\n\n", "a\r\nb\n\r\n"] {
            assert_eq!(lines(text), Err(HeadError::BareLineFeed), "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded() {
        assert!(lines(&format!("{}\r\n\r\n", "a".repeat(60))).is_ok());
        assert_eq!(lines(&format!("{}\r\n\r\n", "a".repeat(61))), Err(HeadError::TooLong));
        assert_eq!(lines(&"a".repeat(64)), Ok(None));
        assert_eq!(lines(&"a".repeat(65)), Err(HeadError::StartLineTooLong));
        assert_eq!(lines(&format!("a\r\n{}", "a".repeat(65))), Err(HeadError::TooLong));
        assert!(lines("a\r\nb\r\nc\r\n\r\n").is_ok());
        assert_eq!(lines("a\r\nb\r\nc\r\nd\r\n"), Err(HeadError::TooManyHeaders));
    }

    proptest::proptest! {
        #[test]
        fn the_lines_do_not_depend_on_the_reads_they_arrive_in(text in "([a\r\n]|\r\n){0,12}(\r\n\r\n)?", cuts in proptest::array::uniform3(0_usize..16)) {
            let whole = lines(&text);
            let (mut scanner, mut read) = (HeadScanner::default(), BytesMut::new());
            let mut cuts = cuts.map(|cut| cut.min(text.len()));
            cuts.sort_unstable();
            let mut from = 0;
            let mut last = Ok(None);
            for to in cuts.into_iter().chain([text.len()]) {
                read.extend_from_slice(&text.as_bytes()[from..to]);
                from = to;
                last = take(&mut scanner, &mut read);
                if last != Ok(None) {
                    break;
                }
            }
            proptest::prop_assert_eq!(last, whole);
        }
    }
}
