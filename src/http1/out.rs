//! A message on its way out: its encoded head, and its body as it comes.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::take;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;
use tokio::io::AsyncWrite;

use crate::body::{Body, BodyError};

/// Pieces of a body up to this length are copied behind what is encoded: for the kernel one plain write costs less than a
/// vectored one, by more than the copy.
pub(crate) const COPIED: usize = 4096;

thread_local! {
    /// A buffer that no message is using. Thousands of connections idle without one, and whoever is next finds it warm.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How the end of a body that is sent is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By its length; so many bytes are still to come.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "only answers end so"))]
    UntilClose,
}

/// Why a message could not be sent.
#[derive(Debug)]
pub(crate) enum SendFailure {
    Body(BodyError),
    Socket(io::Error),
}

/// What is being sent.
#[derive(Default)]
pub(crate) struct Out {
    /// Encoded and not yet written from `written` on.
    encoded: Vec<u8>,
    written: usize,
    /// Goes behind what is encoded.
    piece: Bytes,
    body: Option<(Body, Ending)>,
    /// A chunk has been written, whose end goes before the next line.
    chunk_open: bool,
    /// How often the other side took something.
    writes: usize,
    waiting: bool,
}

impl Out {
    /// Begins a message, of which `head` writes what comes before the body. What was before it is written as a rule.
    pub(crate) fn begin<T>(&mut self, head: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.encoded.capacity() == 0 {
            self.encoded = SPARE.take();
        }
        if !self.is_pending() {
            self.encoded.clear();
            self.written = 0;
        }
        (self.chunk_open, self.waiting) = (false, false);
        head(&mut self.encoded)
    }

    /// What follows the head, which is taken out of `body`; nothing where its end is said to be here already.
    pub(crate) fn body(&mut self, body: &mut Body, ending: Ending) {
        self.body = match ending {
            Ending::Length(0) => None,
            Ending::Length(length) => match body.take_whole() {
                Some(whole) if whole.len() as u64 == length => {
                    self.push(whole);
                    None
                }
                // The body says what is wrong.
                Some(whole) => Some((whole.into(), ending)),
                None => Some((take(body), ending)),
            },
            _ => Some((take(body), ending)),
        };
    }

    /// There are bytes to be written.
    pub(crate) fn is_pending(&self) -> bool {
        self.written < self.encoded.len() || !self.piece.is_empty()
    }

    /// The whole message is written.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_none() && !self.is_pending()
    }

    /// The body has no more to give for now.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only requests are timed by it"))]
    pub(crate) fn waits_for_body(&self) -> bool {
        self.waiting && !self.is_pending()
    }

    /// How often the other side has taken something.
    pub(crate) fn writes(&self) -> usize {
        self.writes
    }

    /// Nothing more is sent.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "an answer that cannot be sent ends its connection"))]
    pub(crate) fn give_up(&mut self) {
        *self = Out { writes: self.writes, ..Out::default() };
    }

    /// Sends what there is; ready when the message is whole.
    pub(crate) fn poll_send<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), SendFailure>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            let body = self.poll_body(cx).map_err(SendFailure::Body)?;
            if !self.is_pending() {
                return body.map(Ok);
            }
            ready!(self.poll_write(stream, cx)).map_err(SendFailure::Socket)?;
        }
    }

    /// Takes as much of the body as is here, up to what is written at once; ready at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some((body, ending)) = &mut self.body {
            if !self.piece.is_empty() || self.encoded.len() - self.written >= COPIED {
                return Poll::Pending;
            }
            let frame = Pin::new(&mut *body).poll_frame(cx);
            self.waiting = frame.is_pending();
            let data = match ready!(frame).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Some(data),
                    _ => continue,
                },
                None => None,
            };
            match (data, ending) {
                (Some(data), Ending::Length(rest)) => {
                    *rest = rest.checked_sub(data.len() as u64).ok_or(BodyError::TooLarge)?;
                    if *rest == 0 {
                        self.body = None;
                    }
                    self.push(data);
                }
                (Some(data), Ending::Chunked) => {
                    let end = if std::mem::replace(&mut self.chunk_open, true) { "\r\n" } else { "" };
                    self.encoded.extend_from_slice(format!("{end}{:x}\r\n", data.len()).as_bytes());
                    self.push(data);
                }
                (Some(data), Ending::UntilClose) => self.push(data),
                (None, Ending::Length(_)) => {
                    return Poll::Ready(Err(BodyError::Source("shorter than it was declared".into())));
                }
                (None, Ending::Chunked) => {
                    let end: &[u8] = if self.chunk_open { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                    self.encoded.extend_from_slice(end);
                    self.body = None;
                }
                (None, Ending::UntilClose) => self.body = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) {
        if self.encoded.len() - self.written + data.len() <= COPIED {
            self.encoded.extend_from_slice(&data);
        } else {
            self.piece = data;
        }
    }

    /// Writes once.
    fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let encoded = &self.encoded[self.written..];
        let length = match (encoded.is_empty(), self.piece.is_empty()) {
            (false, true) => ready!(Pin::new(stream).poll_write(cx, encoded))?,
            (true, _) => ready!(Pin::new(stream).poll_write(cx, &self.piece))?,
            (false, false) => {
                let both = [IoSlice::new(encoded), IoSlice::new(&self.piece)];
                ready!(Pin::new(stream).poll_write_vectored(cx, &both))?
            }
        };
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.writes = self.writes.wrapping_add(1);
        let of_encoded = length.min(encoded.len());
        self.written += of_encoded;
        let of_piece = length - of_encoded;
        self.piece = if of_piece < self.piece.len() { self.piece.slice(of_piece..) } else { Bytes::new() };
        if self.written == self.encoded.len() {
            self.encoded.clear();
            self.written = 0;
            if self.is_done() {
                self.give_back();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn give_back(&mut self) {
        let encoded = take(&mut self.encoded);
        if encoded.capacity() <= 2 * COPIED {
            SPARE.set(encoded);
        }
    }
}

/// Appends `number`; several times as fast as formatting it.
pub(crate) fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[first..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 1799, u64::MAX] {
            let mut out = Vec::new();
            decimal(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
