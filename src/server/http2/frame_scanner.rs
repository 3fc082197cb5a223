//! Follows the frames that a client sends, to know which of them have arrived completely.

/// The maximum payload of a frame that the server accepts, which is the default of RFC 9113, 6.5.2.
pub(super) const MAX_FRAME: u32 = 16 * 1024;

/// The length of the client's connection preface (RFC 9113, 3.4), before its first frame.
const PREFACE: usize = 24;

/// The length of the header of a frame (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Finds the ends of frames and header blocks in the bytes of a client.
///
/// A header block consists of a HEADERS frame and any number of CONTINUATION frames. The last frame
/// has the flag END_HEADERS.
pub(super) struct FrameScanner {
    /// The header of the next frame, as far as it has arrived.
    header: [u8; FRAME_HEADER],
    header_length: usize,
    /// The bytes of the current payload that have not arrived.
    missing: usize,
    /// Whether the codec may get the current payload in parts.
    is_streamed: bool,
    /// Whether the current frame, or the last one, leaves its header block open.
    is_block_open: bool,
    /// The frames CONTINUATION of the open block. None of them ends it.
    continuations: usize,
    max_continuations: usize,
}

impl FrameScanner {
    /// `max_continuations`: the most frames CONTINUATION of a block, beside the one that ends it.
    pub(super) fn new(max_continuations: usize) -> Self {
        FrameScanner {
            header: [0; FRAME_HEADER],
            header_length: 0,
            missing: PREFACE,
            is_streamed: true,
            is_block_open: false,
            continuations: 0,
            max_continuations,
        }
    }

    /// Takes the next bytes. Returns how many of them precede an incomplete frame or header block.
    /// A DATA frame need not be complete, because the window of its stream limits it.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> usize {
        let (mut position, mut whole) = (0, 0);
        while position < bytes.len() {
            let rest = &bytes[position..];
            let part = &rest[..rest.len().min(self.needed())];
            if self.missing > 0 {
                self.missing -= part.len();
            } else {
                let end = self.header_length + part.len();
                self.header[self.header_length..end].copy_from_slice(part);
                self.header_length = end;
                if end == FRAME_HEADER {
                    self.begin_frame();
                }
            }
            position += part.len();
            if self.is_whole() {
                whole = position;
            }
        }
        whole
    }

    /// Returns whether no frame and no header block is incomplete, other than a frame DATA. A block
    /// of too many frames stays incomplete.
    pub(super) fn is_whole(&self) -> bool {
        let has_payload = self.missing == 0 || self.is_streamed;
        self.header_length == 0 && has_payload && !self.is_block_open && !self.has_too_many_frames()
    }

    /// Returns how many frames CONTINUATION a header block may have, beside the one that ends it.
    pub(super) fn max_continuations(&self) -> usize {
        self.max_continuations
    }

    /// Returns whether a header block has more frames than it may have.
    pub(super) fn has_too_many_frames(&self) -> bool {
        self.continuations > self.max_continuations
    }

    /// Returns the number of bytes that are missing until the next payload begins or ends.
    pub(super) fn needed(&self) -> usize {
        if self.missing > 0 { self.missing } else { FRAME_HEADER - self.header_length }
    }

    fn begin_frame(&mut self) {
        let [long, middle, short, kind, flags, ..] = self.header;
        let length = u32::from_be_bytes([0, long, middle, short]);
        self.header_length = 0;
        if length > MAX_FRAME {
            // The codec ends the connection at this header.
            (self.missing, self.is_streamed, self.is_block_open) = (usize::MAX, true, false);
            return;
        }
        self.missing = length as usize;
        self.is_streamed = kind == DATA && !self.is_block_open;
        // The codec ends the connection at a frame that interrupts a header block or continues
        // none.
        let is_of_block = match kind {
            HEADERS | PUSH_PROMISE => !self.is_block_open,
            CONTINUATION => self.is_block_open,
            _ => false,
        };
        self.is_block_open = is_of_block && flags & END_HEADERS == 0;
        if self.has_too_many_frames() {
            return;
        }
        self.continuations = match kind {
            CONTINUATION if self.is_block_open => self.continuations + 1,
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: u8 = 0xfa;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(FRAME_HEADER + length, b'x');
        bytes
    }

    fn begun() -> FrameScanner {
        let mut scanner = FrameScanner::new(2);
        assert_eq!(scanner.scan(&[b'p'; PREFACE]), PREFACE);
        scanner
    }

    #[test]
    fn only_whole_frames_and_header_blocks_pass_but_for_data() {
        let block = || [frame(HEADERS, 0, 5), frame(CONTINUATION, 0, 0), frame(CONTINUATION, END_HEADERS, 7)].concat();
        for (name, unit) in [
            ("a block in one frame", frame(HEADERS, END_HEADERS, 3)),
            ("a block in three frames", block()),
            ("an empty block", frame(HEADERS, END_HEADERS, 0)),
            ("a promise", [frame(PUSH_PROMISE, 0, 9), frame(CONTINUATION, END_HEADERS, 1)].concat()),
            ("a frame of another kind", frame(OTHER, 0, 300)),
            ("a block that another frame interrupts", [frame(HEADERS, 0, 5), frame(DATA, 0, 5)].concat()),
            ("a block that another block interrupts", [frame(HEADERS, 0, 5), frame(HEADERS, 0, 5)].concat()),
            ("a frame that continues no block", frame(CONTINUATION, 0, 5)),
            ("the largest frame", frame(HEADERS, END_HEADERS, MAX_FRAME as usize)),
        ] {
            let bytes = [frame(OTHER, 0, 2), unit.clone(), frame(DATA, 0, 4)].concat();
            let (start, end) = (FRAME_HEADER + 2, FRAME_HEADER + 2 + unit.len());
            for cut in 0..=bytes.len() {
                let mut scanner = begun();
                let whole = match cut {
                    _ if cut < start => 0,
                    _ if cut < end => start,
                    _ if cut < end + FRAME_HEADER => end,
                    _ => cut,
                };
                assert_eq!(scanner.scan(&bytes[..cut]), whole, "{name}, cut at {cut} of {}", bytes.len());
                assert_eq!(scanner.is_whole(), whole == cut, "{name}, cut at {cut}");
                let rest = scanner.scan(&bytes[cut..]);
                assert_eq!(rest, bytes.len() - cut, "{name}, the rest after {cut}");
            }
        }
    }

    #[test]
    fn no_frame_begins_within_the_bytes_that_are_needed() {
        let bytes = [frame(HEADERS, 0, 5), frame(CONTINUATION, END_HEADERS, 0), frame(DATA, 0, 4)].concat();
        let (mut scanner, mut position, mut ends) = (begun(), 0, Vec::new());
        while position < bytes.len() {
            let next = position + scanner.needed();
            scanner.scan(&bytes[position..next]);
            position = next;
            ends.push((position, scanner.is_whole()));
        }
        assert_eq!(ends, [(9, false), (14, false), (23, true), (32, true), (36, true)]);
    }

    #[test]
    fn a_block_of_too_many_frames_is_never_whole() {
        let more = frame(CONTINUATION, 0, 0);
        let end = [frame(CONTINUATION, END_HEADERS, 0), frame(DATA, 0, 0)].concat();
        for (continuations, too_many) in [(0, false), (1, false), (2, false), (3, true), (4, true)] {
            let bytes = [frame(OTHER, 0, 2), frame(HEADERS, 0, 5), more.repeat(continuations), end.clone()].concat();
            let mut scanner = begun();
            let whole = scanner.scan(&bytes);
            assert_eq!(scanner.has_too_many_frames(), too_many, "{continuations}");
            assert_eq!(whole, if too_many { FRAME_HEADER + 2 } else { bytes.len() }, "{continuations}");
            // The next block has a count of its own.
            let next = [frame(HEADERS, 0, 5), more.repeat(2), end.clone()].concat();
            assert_eq!(scanner.scan(&next), if too_many { 0 } else { next.len() }, "{continuations}");
        }
    }

    #[test]
    fn the_codec_gets_a_frame_that_is_too_long_at_once() {
        let mut scanner = begun();
        let bytes = frame(HEADERS, 0, MAX_FRAME as usize + 1);
        assert_eq!(scanner.scan(&bytes[..FRAME_HEADER - 1]), 0);
        assert_eq!(scanner.scan(&bytes[FRAME_HEADER - 1..]), bytes.len() - FRAME_HEADER + 1);
    }
}
