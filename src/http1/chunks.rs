//! A body in chunks (RFC 9112, 7.1), read strictly: where two parsers might see two chunks, there is an error.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderName;

use super::fields::MOST;

/// The most bytes that a chunk's line, and all trailers together, may have.
const LINE: usize = 4096;
const TRAILERS: usize = 16 * 1024;

/// A chunk's line may be so long, and as long as its data besides. What the lines of a body have beyond that adds up to
/// `EXCESS` at most: bytes that are read and are no data are work for nothing (CVE-2023-39326).
const FREE: u64 = 16;
const EXCESS: u64 = 16 * 1024;

/// How far a chunked body was read. Extensions and trailers are passed over.
#[derive(Debug)]
pub(crate) struct Chunks {
    state: State,
    excess: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the line that tells a chunk's size.
    Size,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// Before the line's end that ends a chunk.
    DataEnd,
    /// Behind the last chunk, with so many bytes of trailers so far.
    Trailers(usize),
    End,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// More has to be read first.
    Wanting,
    End,
}

/// What is no chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the body is not valid")]
pub(crate) struct InvalidChunk;

impl Chunks {
    pub(crate) fn new() -> Self {
        Chunks { state: State::Size, excess: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::End
    }

    /// Takes the next piece out of `read`.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Piece, InvalidChunk> {
        self.settle(read)?;
        match self.state {
            State::Data(rest) if !read.is_empty() => {
                let length = usize::try_from(rest).unwrap_or(usize::MAX).min(read.len());
                let data = read.split_to(length).freeze();
                self.state = match rest - length as u64 {
                    0 => State::DataEnd,
                    rest => State::Data(rest),
                };
                // The end comes together with the last bytes as a rule; then the last piece is known to be the last.
                self.settle(read)?;
                Ok(Piece::Data(data))
            }
            State::End => Ok(Piece::End),
            _ => Ok(Piece::Wanting),
        }
    }

    /// Reads what is no data, as far as it is here.
    fn settle(&mut self, read: &mut BytesMut) -> Result<(), InvalidChunk> {
        loop {
            self.state = match self.state {
                State::Size => match line(read, LINE)? {
                    Some(line) => {
                        let size = size(&line)?;
                        self.excess = (self.excess + line.len() as u64).saturating_sub(FREE.saturating_add(size));
                        match size {
                            _ if self.excess > EXCESS => return Err(InvalidChunk),
                            0 => State::Trailers(0),
                            size => State::Data(size),
                        }
                    }
                    None => return Ok(()),
                },
                State::DataEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        State::Size
                    }
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(InvalidChunk),
                },
                State::Trailers(before) => match line(read, TRAILERS - before)? {
                    Some(line) if line.is_empty() => State::End,
                    Some(line) if !is_field(&line) => return Err(InvalidChunk),
                    Some(line) => State::Trailers((before + line.len() + 2).min(TRAILERS)),
                    None => return Ok(()),
                },
                State::Data(_) | State::End => return Ok(()),
            };
        }
    }
}

/// Takes a line out of `read`, without its end; none while it is not complete. A line ends with both bytes, and holds neither.
fn line(read: &mut BytesMut, most: usize) -> Result<Option<Bytes>, InvalidChunk> {
    let within = &read[..read.len().min(most)];
    match within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end) if within[end] == b'\n' => Err(InvalidChunk),
        Some(end) => match read.get(end + 1) {
            Some(b'\n') => {
                let line = read.split_to(end).freeze();
                read.advance(2);
                Ok(Some(line))
            }
            Some(_) => Err(InvalidChunk),
            None => Ok(None),
        },
        None if read.len() >= most => Err(InvalidChunk),
        None => Ok(None),
    }
}

/// A trailer is a field like those of a head. What is none may be the head of another answer.
fn is_field(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    HeaderName::from_bytes(&line[..colon]).is_ok() && line[colon + 1..].iter().all(is_text)
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || !byte.is_ascii_control()
}

/// At most 16 hexadecimal digits, behind which there may be blanks and an extension, of what a header field's value may have.
fn size(line: &[u8]) -> Result<u64, InvalidChunk> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut behind = line[digits..].iter().skip_while(|byte| matches!(byte, b' ' | b'\t'));
    let extension = behind.next().is_none_or(|byte| *byte == b';') && behind.all(is_text);
    if !(1..=16).contains(&digits) || !extension {
        return Err(InvalidChunk);
    }
    let digits = std::str::from_utf8(&line[..digits]).map_err(|_| InvalidChunk)?;
    u64::from_str_radix(digits, 16).ok().filter(|size| *size <= MOST).ok_or(InvalidChunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All data of `text` that comes in pieces of `step` bytes; whether the end was found; what is left.
    fn read_all(text: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), InvalidChunk> {
        let (mut chunks, mut read, mut data) = (Chunks::new(), BytesMut::new(), Vec::new());
        let mut pieces = text.chunks(step);
        loop {
            match chunks.next(&mut read)? {
                Piece::Data(piece) => data.extend_from_slice(&piece),
                Piece::End => {
                    read.extend(pieces.flatten());
                    return Ok((data, chunks.is_over(), read.to_vec()));
                }
                Piece::Wanting => match pieces.next() {
                    Some(piece) => read.extend_from_slice(piece),
                    None => return Ok((data, chunks.is_over(), read.to_vec())),
                },
            }
        }
    }

    #[test]
    fn chunks_are_joined_whatever_the_pieces_they_come_in() {
        let text = b"5\r\nhello\r\n00A;name=\"v\"\r\n0123456789\r\n1 \t\r\n!\r\n0\r\nx-trailer: y\r\nz: \r\n\r\nnext";
        for step in 1..=text.len() {
            let (data, over, left) = read_all(text, step).unwrap();
            assert_eq!((&data[..], over, &left[..]), (&b"hello0123456789!"[..], true, &b"next"[..]), "{step}");
        }
        assert_eq!(read_all(b"0\r\n\r\n", 64).unwrap(), (Vec::new(), true, Vec::new()));
    }

    #[test]
    fn the_last_piece_is_known_to_be_the_last_when_the_end_is_here() {
        let mut read = BytesMut::from(&b"2\r\nhi\r\n0\r\n\r\n"[..]);
        let mut chunks = Chunks::new();
        assert_eq!(chunks.next(&mut read).unwrap(), Piece::Data(Bytes::from_static(b"hi")));
        assert!(chunks.is_over());
        // A size that only begins like the end's.
        let mut read = BytesMut::from(&b"2\r\nhi\r\n01\r\nx\r\n0\r\n\r\n"[..]);
        let mut chunks = Chunks::new();
        assert_eq!(chunks.next(&mut read).unwrap(), Piece::Data(Bytes::from_static(b"hi")));
        assert!(!chunks.is_over());
        assert_eq!(chunks.next(&mut read).unwrap(), Piece::Data(Bytes::from_static(b"x")));
    }

    #[test]
    fn what_is_cut_short_has_no_end() {
        for text in
            ["", "5", "5\r", "5\r\n", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\nx"]
        {
            assert!(!read_all(text.as_bytes(), 64).unwrap().1, "{text:?}");
        }
    }

    #[test]
    fn what_parsers_might_read_otherwise_is_an_error() {
        for text in [
            "xyz\r\nhello\r\n",
            "5g\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "+5\r\nhello\r\n",
            " 5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhelloXX",
            "5\r\nhello\n5",
            "5;a\nb\r\nhello\r\n",
            "5\rx\r\nhello\r\n",
            "\r\nhello\r\n",
            "10000000000000005\r\nhello\r\n",
            "5 5\r\nhello\r\n",
            "0\r\na\nb\r\n\r\n",
            "0\r\nHTTP/1.1 200 OK\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nx: y\r\n folded: z\r\n\r\n",
            "0\r\nx: \0\r\n\r\n",
            "5\x0c\r\nhello\r\n",
            "5;a\x0bb\r\nhello\r\n",
        ] {
            assert_eq!(read_all(text.as_bytes(), 64), Err(InvalidChunk), "{text:?}");
        }
    }

    #[test]
    fn lines_and_trailers_have_bounds() {
        let extension = format!("5;{}\r\nhello\r\n", "x".repeat(LINE));
        assert_eq!(read_all(extension.as_bytes(), 64), Err(InvalidChunk));
        let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(TRAILERS / 6 + 1));
        assert_eq!(read_all(trailers.as_bytes(), 64), Err(InvalidChunk));
    }
}
