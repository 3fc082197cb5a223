//! Writes a message: its encoded head, and its body as it arrives.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::{replace, take};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

#[cfg(feature = "server")]
use crate::body::Spool;
use crate::body::{Body, BodyError};

/// Data up to this length is copied after the encoded bytes, because a plain write and the copy
/// cost the kernel less than a vectored write.
const MAX_COPY: usize = 4096;

thread_local! {
    /// A buffer that no message uses. Thousands of idle connections hold none, and the next message
    /// finds it warm.
    static SPARE_BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How the end of a sent body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFraming {
    /// By its length, of which this many bytes are still to be sent.
    Length(u64),
    Chunked,
    /// By the end of the connection. Only responses end this way.
    UntilClose,
}

/// The reason why a message was not sent.
#[derive(Debug)]
pub(crate) enum WriteError {
    Body(BodyError),
    Io(io::Error),
}

/// Sends messages, one after another.
#[derive(Default)]
pub(crate) struct MessageWriter {
    /// Encoded bytes, written up to `written`.
    encoded: Vec<u8>,
    written: usize,
    /// Follows the encoded bytes.
    data: Bytes,
    body: Option<(Body, BodyFraming)>,
    /// The start of the message in the encoded bytes, while no byte of it was written.
    unwritten_from: Option<usize>,
    /// Whether a chunk was written whose line end is still missing.
    chunk_open: bool,
    /// Counts the writes that the other side accepted.
    writes: usize,
    /// Whether TLS holds back written bytes that the socket has not accepted.
    flush_pending: bool,
    body_pending: bool,
    /// The part of the body that was read while the other side accepted nothing.
    #[cfg(feature = "server")]
    spool: Option<Box<Spool>>,
}

impl MessageWriter {
    /// Starts a message with the bytes that `head` encodes. The previous message is usually written
    /// by then.
    pub(crate) fn start<T>(&mut self, head: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.encoded.capacity() == 0 {
            self.encoded = SPARE_BUFFER.take();
        }
        if !self.has_unwritten() {
            self.encoded.clear();
            self.written = 0;
        }
        self.unwritten_from = Some(self.encoded.len());
        (self.chunk_open, self.body_pending) = (false, false);
        #[cfg(feature = "server")]
        {
            self.spool = None;
        }
        head(&mut self.encoded)
    }

    /// Takes the body that follows the head out of `body`. Takes nothing if `framing` says that it
    /// is empty.
    pub(crate) fn set_body(&mut self, body: &mut Body, framing: BodyFraming) {
        self.body = match framing {
            BodyFraming::Length(0) => None,
            BodyFraming::Length(length) => match body.take_whole() {
                Some(whole) if whole.len() as u64 == length => {
                    self.push(whole);
                    None
                }
                // Polling the body reports the wrong length.
                Some(whole) => Some((whole.into(), framing)),
                None => {
                    body.exactly(length);
                    Some((take(body), framing))
                }
            },
            BodyFraming::Chunked | BodyFraming::UntilClose => Some((take(body), framing)),
        };
    }

    /// Sets a body that the sender keeps. Its length frames it.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only requests are kept"))]
    pub(crate) fn set_whole(&mut self, body: &Bytes) {
        self.body = None;
        if !self.push_copy(body) {
            self.data = body.clone();
        }
    }

    /// Returns true if there are bytes to write now.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written < self.encoded.len() || !self.data.is_empty()
    }

    /// Returns true if the whole message is written.
    pub(crate) fn is_done(&self) -> bool {
        self.body.is_none() && !self.has_unwritten()
    }

    /// Returns true if everything is written that the body has yielded so far.
    pub(crate) fn waits_for_body(&self) -> bool {
        self.body_pending && !self.has_unwritten()
    }

    /// Returns true if the other side has not accepted everything that there was to write.
    #[cfg(feature = "server")]
    pub(crate) fn is_held_up(&self) -> bool {
        self.has_unwritten() || self.flush_pending
    }

    /// Returns how many writes the other side has accepted.
    pub(crate) fn writes(&self) -> usize {
        self.writes
    }

    /// Drops the message if no byte of it was written. Returns whether it was dropped.
    #[cfg(feature = "server")]
    pub(crate) fn discard(&mut self) -> bool {
        let Some(start) = self.unwritten_from else { return false };
        self.encoded.truncate(start);
        (self.data, self.body) = (Bytes::new(), None);
        self.spool = None;
        true
    }

    /// Reads the available part of the body into the spool that `spool` makes. Call it when the
    /// other side accepts nothing, so that the source of the body need not wait for it.
    #[cfg(feature = "server")]
    pub(crate) fn read_ahead(&mut self, spool: impl FnOnce() -> Spool, cx: &mut Context<'_>) {
        if let Some((body, _)) = &mut self.body {
            self.spool.get_or_insert_with(|| Box::new(spool())).fill(body, cx);
        }
    }

    /// Drops the rest of the message.
    pub(crate) fn abort(&mut self) {
        *self = MessageWriter { writes: self.writes, ..MessageWriter::default() };
    }

    /// Writes the available bytes; ready when the whole message is written. If it is polled again
    /// after an error of the body, it writes the bytes that preceded the error, and then ends. The
    /// caller must not make that look like the end of the message.
    pub(crate) fn poll_send<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>>
    where
        S: AsyncWrite + Unpin,
    {
        loop {
            let body = self.poll_body(cx).map_err(|error| {
                self.body = None;
                WriteError::Body(error)
            })?;
            if !self.has_unwritten() {
                // TLS may hold back a record that the socket did not accept.
                let flushed = Pin::new(&mut *stream).poll_flush(cx).map_err(WriteError::Io)?;
                if replace(&mut self.flush_pending, flushed.is_pending()) && flushed.is_ready() {
                    self.writes = self.writes.wrapping_add(1);
                }
                ready!(flushed);
                return body.map(Ok);
            }
            ready!(self.poll_write(stream, cx)).map_err(WriteError::Io)?;
        }
    }

    /// Takes as much of the body as one write holds; ready at its end.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        while let Some((body, framing)) = &mut self.body {
            if !self.data.is_empty() || self.encoded.len() - self.written >= MAX_COPY {
                return Poll::Pending;
            }
            #[cfg(feature = "server")]
            let ahead = self
                .spool
                .as_mut()
                .and_then(|spool| spool.next())
                .map(|next| next.map(|next| next.map(|(data, _)| data)));
            #[cfg(not(feature = "server"))]
            let ahead = None;
            let data = match ahead {
                Some(data) => Poll::Ready(data),
                None => body.poll_next(cx).map_ok(|frame| frame.into_data().unwrap_or_default()),
            };
            self.body_pending = data.is_pending();
            let data = ready!(data).transpose()?;
            if data.as_ref().is_some_and(Bytes::is_empty) {
                continue;
            }
            match (data, framing) {
                (Some(data), BodyFraming::Length(remaining)) => {
                    *remaining =
                        remaining.checked_sub(data.len() as u64).ok_or_else(BodyError::longer_than_declared)?;
                    if *remaining == 0 {
                        self.body = None;
                    }
                    self.push(data);
                }
                (Some(data), BodyFraming::Chunked) => {
                    let end = if replace(&mut self.chunk_open, true) { "\r\n" } else { "" };
                    self.encoded.extend_from_slice(format!("{end}{:x}\r\n", data.len()).as_bytes());
                    self.push(data);
                }
                (Some(data), BodyFraming::UntilClose) => self.push(data),
                (None, BodyFraming::Length(_)) => {
                    return Poll::Ready(Err(BodyError::shorter_than_declared()));
                }
                (None, BodyFraming::Chunked) => {
                    let end: &[u8] = if self.chunk_open { b"\r\n0\r\n\r\n" } else { b"0\r\n\r\n" };
                    self.encoded.extend_from_slice(end);
                    self.body = None;
                }
                (None, BodyFraming::UntilClose) => self.body = None,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) {
        if !self.push_copy(&data) {
            self.data = data;
        }
    }

    /// Copies the data if it is short. Returns whether it did.
    fn push_copy(&mut self, data: &[u8]) -> bool {
        let is_short = self.encoded.len() - self.written + data.len() <= MAX_COPY;
        if is_short {
            self.encoded.extend_from_slice(data);
        }
        is_short
    }

    /// Writes once.
    fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let encoded = &self.encoded[self.written..];
        let length = match (encoded.is_empty(), self.data.is_empty()) {
            (false, true) => ready!(Pin::new(stream).poll_write(cx, encoded))?,
            (true, _) => ready!(Pin::new(stream).poll_write(cx, &self.data))?,
            (false, false) => {
                let both = [IoSlice::new(encoded), IoSlice::new(&self.data)];
                ready!(Pin::new(stream).poll_write_vectored(cx, &both))?
            }
        };
        if length == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.writes = self.writes.wrapping_add(1);
        let of_encoded = length.min(encoded.len());
        self.written += of_encoded;
        self.unwritten_from = self.unwritten_from.filter(|start| *start >= self.written);
        let of_data = length - of_encoded;
        self.data = if of_data < self.data.len() { self.data.slice(of_data..) } else { Bytes::new() };
        if self.written == self.encoded.len() {
            self.encoded.clear();
            self.written = 0;
            if self.is_done() {
                self.recycle_buffer();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn recycle_buffer(&mut self) {
        let encoded = take(&mut self.encoded);
        if encoded.capacity() <= 2 * MAX_COPY {
            SPARE_BUFFER.set(encoded);
        }
    }
}
