//! The buffer for one line.

use std::io;

/// The maximum memory that an empty line keeps, in bytes.
const MAX_SPARE: usize = 4 << 10;

/// A line that is assembled from many short pieces. The buffer is filled with zeros up to its end,
/// so that each piece is copied to its place. `Vec::extend_from_slice` would call `reserve` for
/// each piece.
pub struct Line {
    buffer: Vec<u8>,
    length: usize,
}

impl Line {
    pub const fn new() -> Self {
        Line { buffer: Vec::new(), length: 0 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Empties the line. Its memory is kept unless it is large.
    pub fn clear(&mut self) {
        self.length = 0;
        if self.buffer.len() > MAX_SPARE {
            self.buffer.truncate(MAX_SPARE);
            self.buffer.shrink_to(MAX_SPARE);
        }
    }

    /// Appends text of a known length, without a call to `memcpy`.
    #[inline]
    pub fn put_array<const N: usize>(&mut self, text: &[u8; N]) {
        let place = self.buffer.get_mut(self.length..).and_then(<[u8]>::first_chunk_mut);
        match place {
            Some(place) => *place = *text,
            None => self.put_beyond(text),
        }
        self.length += N;
    }

    /// Appends text.
    #[inline]
    pub fn put(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        match self.buffer.get_mut(self.length..end) {
            Some(place) => place.copy_from_slice(text),
            None => self.put_beyond(text),
        }
        self.length = end;
    }

    /// Appends text for which the buffer is too short.
    #[cold]
    fn put_beyond(&mut self, text: &[u8]) {
        self.buffer.truncate(self.length);
        self.buffer.extend_from_slice(text);
        self.buffer.resize(self.buffer.capacity().max(MAX_SPARE), 0);
    }
}

impl io::Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_holds_its_pieces_and_keeps_little_memory() {
        let mut line = Line::new();
        for length in [0, 1, MAX_SPARE - 1, MAX_SPARE, 5 * MAX_SPARE, 3] {
            line.clear();
            line.put(b"<");
            line.put(&vec![b'x'; length]);
            line.put(b">");
            assert_eq!(line.as_bytes(), ["<", &"x".repeat(length), ">"].concat().as_bytes());
        }
        line.clear();
        assert_eq!((line.as_bytes(), line.buffer.capacity()), (&b""[..], MAX_SPARE));
    }
}
