//! Decodes a chunked body (RFC 9112, 7.1). If two parsers could see different chunks, the decoder
//! fails.

use std::mem::take;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderName;

/// The maximum length of a body or chunk. Larger numbers are negative in a signed 64-bit integer.
pub(crate) const MAX_LENGTH: u64 = i64::MAX as u64;

/// The maximum length of the line with a chunk's size, in bytes.
const MAX_SIZE_LINE: usize = 4096;
/// The maximum size of all trailers together, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;

/// A size line may have this many bytes plus the length of its chunk. The excess of all size lines
/// of a body is at most `MAX_OVERHEAD`, because bytes that carry no data are wasted work
/// (CVE-2023-39326).
const FREE_SIZE_LINE: u64 = 16;
const MAX_OVERHEAD: u32 = 16 * 1024;

/// Shorter chunks are joined as far as they were read, because otherwise each byte would have the
/// cost of a piece.
const SMALL_CHUNK: usize = 512;
/// Decoding a piece of this many chunks takes long, so other tasks run before the next one.
const MANY_CHUNKS: usize = 64;

/// Decodes chunks. Skips chunk extensions and trailers.
#[derive(Debug, Default)]
pub(crate) struct ChunkedDecoder {
    position: Position,
    overhead: u32,
    /// Whether the last piece was joined from many chunks.
    has_joined_many: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the line with a chunk's size.
    #[default]
    Size,
    /// Within a chunk, of which this many bytes are still to come.
    Data(u64),
    /// Before the line end that follows a chunk's data.
    DataEnd,
    /// After the last chunk and this many bytes of trailers.
    Trailers(usize),
    End,
}

/// The result of one decoding step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    /// The connection must be read before there is more data.
    NeedMore,
    End,
}

/// The body is not a valid sequence of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk of the body is not valid")]
pub(crate) struct InvalidChunk;

impl ChunkedDecoder {
    pub(crate) fn is_end(&self) -> bool {
        self.position == Position::End
    }

    /// Returns once whether the last piece was joined from many chunks.
    pub(crate) fn take_has_joined_many(&mut self) -> bool {
        take(&mut self.has_joined_many)
    }

    /// Takes the next data out of `read`.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Decoded, InvalidChunk> {
        self.has_joined_many = false;
        self.skip_to_data(read)?;
        let data = match self.next_part(read) {
            Some(data) => data,
            None if self.position == Position::End => return Ok(Decoded::End),
            None => return Ok(Decoded::NeedMore),
        };
        // The end usually arrives with the last data, so the last piece is known to be the last.
        self.skip_to_data(read)?;
        if data.len() >= SMALL_CHUNK || !self.is_at_small_chunk(read) {
            return Ok(Decoded::Data(data.freeze()));
        }
        // The buffer grows by doubling, so that a few bytes hold no large buffer.
        let (mut pieces, mut joined) = (BytesMut::with_capacity(2 * SMALL_CHUNK), 0);
        pieces.extend_from_slice(&data);
        while self.is_at_small_chunk(read)
            && let Some(data) = self.next_part(read)
        {
            pieces.extend_from_slice(&data);
            joined += 1;
            // Data before an error is passed on; the next call finds the error again.
            if self.skip_to_data(read).is_err() {
                break;
            }
        }
        self.has_joined_many = joined >= MANY_CHUNKS;
        Ok(Decoded::Data(pieces.freeze()))
    }

    fn is_at_small_chunk(&self, read: &BytesMut) -> bool {
        matches!(self.position, Position::Data(remaining) if remaining < SMALL_CHUNK as u64) && !read.is_empty()
    }

    /// Takes the data of the current chunk, as far as it has arrived.
    fn next_part(&mut self, read: &mut BytesMut) -> Option<BytesMut> {
        let Position::Data(remaining) = self.position else { return None };
        let length = usize::try_from(remaining).unwrap_or(usize::MAX).min(read.len());
        self.position = match remaining - length as u64 {
            0 => Position::DataEnd,
            remaining => Position::Data(remaining),
        };
        (length > 0).then(|| read.split_to(length))
    }

    /// Reads the bytes between the data, as far as they have arrived.
    fn skip_to_data(&mut self, read: &mut BytesMut) -> Result<(), InvalidChunk> {
        loop {
            self.position = match self.position {
                Position::Size => match line_length(read, MAX_SIZE_LINE)? {
                    Some(length) => {
                        let size = parse_size(&read[..length])?;
                        // A line has at most MAX_SIZE_LINE bytes.
                        let free = u32::try_from(FREE_SIZE_LINE.saturating_add(size)).unwrap_or(u32::MAX);
                        self.overhead = (self.overhead + length as u32).saturating_sub(free);
                        if self.overhead > MAX_OVERHEAD {
                            return Err(InvalidChunk);
                        }
                        read.advance(length + 2);
                        match size {
                            0 => Position::Trailers(0),
                            size => Position::Data(size),
                        }
                    }
                    None => return Ok(()),
                },
                Position::DataEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        Position::Size
                    }
                    [] | [b'\r'] => return Ok(()),
                    _ => return Err(InvalidChunk),
                },
                Position::Trailers(before) => match line_length(read, MAX_TRAILERS - before)? {
                    Some(length) if length > 0 && !is_trailer(&read[..length]) => return Err(InvalidChunk),
                    Some(length) => {
                        read.advance(length + 2);
                        match length {
                            0 => Position::End,
                            _ => Position::Trailers((before + length + 2).min(MAX_TRAILERS)),
                        }
                    }
                    None => return Ok(()),
                },
                Position::Data(_) | Position::End => return Ok(()),
            };
        }
    }
}

/// Returns the length of the line at the start of `read`, without its CR LF; `None` while it is
/// incomplete. A CR or LF inside a line is an error.
fn line_length(read: &[u8], max_length: usize) -> Result<Option<usize>, InvalidChunk> {
    let within = &read[..read.len().min(max_length)];
    match within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(end) if within[end] == b'\n' => Err(InvalidChunk),
        Some(end) => match read.get(end + 1) {
            Some(b'\n') => Ok(Some(end)),
            Some(_) => Err(InvalidChunk),
            None => Ok(None),
        },
        None if read.len() >= max_length => Err(InvalidChunk),
        None => Ok(None),
    }
}

/// Returns whether a line has the form of a header, as a trailer does. Any other line could be the
/// head of another response.
fn is_trailer(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
    HeaderName::from_bytes(&line[..colon]).is_ok() && line[colon + 1..].iter().all(is_text)
}

fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || !byte.is_ascii_control()
}

/// Parses 1 to 16 hexadecimal digits, after which blanks and an extension of printable characters
/// may follow.
fn parse_size(line: &[u8]) -> Result<u64, InvalidChunk> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut rest = line[digits..].iter().skip_while(|byte| matches!(byte, b' ' | b'\t'));
    let extension = rest.next().is_none_or(|byte| *byte == b';') && rest.all(is_text);
    if !(1..=16).contains(&digits) || !extension {
        return Err(InvalidChunk);
    }
    let digits = std::str::from_utf8(&line[..digits]).map_err(|_| InvalidChunk)?;
    u64::from_str_radix(digits, 16).ok().filter(|size| *size <= MAX_LENGTH).ok_or(InvalidChunk)
}

/// Decodes `data` as chunks, at once and in two parts. Both must give the same data.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let decode = |parts: [&[u8]; 2]| {
        let (mut decoder, mut read, mut out) = (ChunkedDecoder::default(), BytesMut::new(), Vec::new());
        for part in parts {
            read.extend_from_slice(part);
            loop {
                match decoder.next(&mut read) {
                    Ok(Decoded::Data(data)) => out.extend_from_slice(&data),
                    Ok(Decoded::NeedMore) => break,
                    Ok(Decoded::End) => return (out, Ok(true)),
                    Err(error) => return (out, Err(error)),
                }
            }
        }
        (out, Ok(false))
    };
    let (at_once, result) = decode([data, b""]);
    let (in_two, of_two) = decode(super::in_two(data));
    assert_eq!(result, of_two);
    assert!(result.is_err() || at_once == in_two);
    assert!(at_once.len() <= data.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `text` in pieces of `step` bytes. Returns the data, whether the end was found, and
    /// the bytes after it.
    fn read_all(text: &[u8], step: usize) -> Result<(Vec<u8>, bool, Vec<u8>), InvalidChunk> {
        let (mut decoder, mut read, mut data) = (ChunkedDecoder::default(), BytesMut::new(), Vec::new());
        let mut pieces = text.chunks(step);
        loop {
            match decoder.next(&mut read)? {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::End => {
                    read.extend(pieces.flatten());
                    return Ok((data, decoder.is_end(), read.to_vec()));
                }
                Decoded::NeedMore => match pieces.next() {
                    Some(piece) => read.extend_from_slice(piece),
                    None => return Ok((data, decoder.is_end(), read.to_vec())),
                },
            }
        }
    }

    #[test]
    fn chunks_are_joined_whatever_the_reads_they_arrive_in() {
        let text = b"5\r\nhello\r\n00A;name=\"v\"\r\n0123456789\r\n1 \t\r\n!\r\n0\r\nx-trailer: y\r\nz: \r\n\r\nnext";
        for step in 1..=text.len() {
            let (data, ended, left) = read_all(text, step).unwrap();
            assert_eq!((&data[..], ended, &left[..]), (&b"hello0123456789!"[..], true, &b"next"[..]), "{step}");
        }
        assert_eq!(read_all(b"0\r\n\r\n", 64).unwrap(), (Vec::new(), true, Vec::new()));
    }

    #[test]
    fn the_last_data_is_known_to_be_the_last_if_the_end_has_arrived() {
        let mut read = BytesMut::from(&b"2\r\nhi\r\n0\r\n\r\n"[..]);
        let mut decoder = ChunkedDecoder::default();
        assert_eq!(decoder.next(&mut read).unwrap(), Decoded::Data(Bytes::from_static(b"hi")));
        assert!(decoder.is_end());
        // The next size only begins like the end's.
        let mut read = BytesMut::from(&b"2\r\nhi\r\n01\r\n"[..]);
        let mut decoder = ChunkedDecoder::default();
        assert_eq!(decoder.next(&mut read).unwrap(), Decoded::Data(Bytes::from_static(b"hi")));
        assert!(!decoder.is_end());
        read.extend_from_slice(b"x\r\n0\r\n\r\n");
        assert_eq!(decoder.next(&mut read).unwrap(), Decoded::Data(Bytes::from_static(b"x")));
        assert!(decoder.is_end());
    }

    #[test]
    fn small_chunks_become_one_piece_and_large_ones_are_not_copied() {
        let large = "x".repeat(SMALL_CHUNK);
        let text = format!("{}200\r\n{large}\r\n200\r\n{large}\r\n1\r\ny\r\n0\r\n\r\n", "1\r\na\r\n".repeat(2000));
        let (mut decoder, mut read) = (ChunkedDecoder::default(), BytesMut::from(text.as_bytes()));
        let mut pieces = Vec::new();
        while let Decoded::Data(data) = decoder.next(&mut read).unwrap() {
            pieces.push((data.len(), decoder.take_has_joined_many()));
        }
        assert_eq!(pieces, [(2000, true), (SMALL_CHUNK, false), (SMALL_CHUNK, false), (1, false)]);
        assert!(decoder.is_end() && read.is_empty());
        // Pieces of two bytes between large chunks.
        let text = format!("1\r\na\r\n1\r\nb\r\n200\r\n{large}\r\n").repeat(20);
        let (mut decoder, mut read) = (ChunkedDecoder::default(), BytesMut::from(text.as_bytes()));
        while let Decoded::Data(data) = decoder.next(&mut read).unwrap() {
            let length = data.len();
            let held = data.try_into_mut().map_or(length, |data| data.capacity());
            assert!(length == SMALL_CHUNK || held <= 2 * SMALL_CHUNK, "{held} bytes hold {length}");
        }
    }

    #[test]
    fn a_truncated_body_has_no_end() {
        for text in
            ["", "5", "5\r", "5\r\n", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n", "0\r\nx"]
        {
            assert!(!read_all(text.as_bytes(), 64).unwrap().1, "{text:?}");
        }
    }

    #[test]
    fn bytes_that_parsers_read_differently_are_an_error() {
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
    fn size_lines_and_trailers_are_bounded() {
        let extension = format!("5;{}\r\nhello\r\n", "x".repeat(MAX_SIZE_LINE));
        assert_eq!(read_all(extension.as_bytes(), 64), Err(InvalidChunk));
        let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_TRAILERS / 6 + 1));
        assert_eq!(read_all(trailers.as_bytes(), 64), Err(InvalidChunk));
    }
}
