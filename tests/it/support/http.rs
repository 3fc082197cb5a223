//! A small HTTP/1.1 client for tests that must control every byte and see every byte.
//!
//! It sends what it is given and parses what comes back no more than is needed to find where a message ends. What a
//! test may want to prove is an error here, not a panic: an answer cut short is `UnexpectedEof`, silence is `TimedOut`.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a test waits for the next byte, unless it says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that the head of an answer, or a line of a chunked body, may take.
const LINE_LIMIT: usize = 64 * 1024;

/// Asks for `path` on a connection of its own and returns the whole answer.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    let mut connection = Connection::open(address).await?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    connection.send(head).await?;
    connection.answer().await
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// `HTTP/1.1`, as sent.
    pub(crate) version: String,
    pub(crate) status: u16,
    /// In the order they came, names as sent.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name, in whatever case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The values of all headers of this name, in the order they came.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Where the body ends: RFC 9112 section 6.3.
    fn framing(&self) -> io::Result<Framing> {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::Length(0));
        }
        if self.header("transfer-encoding").is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked")) {
            return Ok(Framing::Chunked(0));
        }
        match self.header("content-length") {
            Some(length) => length.parse().map(Framing::Length).map_err(|_| invalid("content-length", length)),
            None => Ok(Framing::UntilClose),
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    /// What followed the last chunk.
    pub(crate) trailers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// The first header of this name, in whatever case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// A connection. Kept alive as long as the test likes; closed when dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    read: BytesMut,
    patience: Duration,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = within(PATIENCE, TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: BytesMut::new(), patience: PATIENCE })
    }

    /// Waits this long for each read or write, instead of 10 s.
    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The socket, for what the test wants to do to it.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends these bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within(self.patience, self.stream.write_all(bytes.as_ref())).await
    }

    /// Says that nothing more will be sent, and still reads.
    pub(crate) async fn finish_sending(&mut self) -> io::Result<()> {
        within(self.patience, self.stream.shutdown()).await
    }

    /// The next whole answer, to anything but HEAD; interim answers (1xx) before it are dropped.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.final_head().await?;
        let mut body = self.body(&head)?;
        let mut whole = BytesMut::new();
        while let Some(part) = body.next().await? {
            whole.extend_from_slice(&part);
        }
        let trailers = std::mem::take(&mut body.trailers);
        Ok(Answer { head, body: whole.freeze(), trailers })
    }

    /// The head of the next answer that is not interim. To HEAD, that is the whole answer.
    pub(crate) async fn final_head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.head().await?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
    }

    /// The next head, an interim one (1xx) too.
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let line = self.line().await?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status =
            words.next().and_then(|status| status.parse().ok()).ok_or_else(|| invalid("status line", &line))?;
        Ok(Head { version, status, headers: self.fields().await? })
    }

    /// The body that follows `head`, in the pieces in which it comes.
    pub(crate) fn body(&mut self, head: &Head) -> io::Result<Body<'_>> {
        Ok(Body { framing: head.framing()?, trailers: Vec::new(), connection: self })
    }

    /// All that comes until the other side closes, as it is on the wire.
    pub(crate) async fn rest(&mut self) -> io::Result<Bytes> {
        while self.fill().await? {}
        Ok(self.read.split().freeze())
    }

    /// Header or trailer fields up to the empty line.
    async fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("field", &line))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.read[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let line = self.read.split_to(searched + at + 2);
                return Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned());
            }
            searched = self.read.len().saturating_sub(1);
            if searched > LINE_LIMIT {
                return Err(invalid("line", "too long"));
            }
            self.must_fill().await?;
        }
    }

    /// Reads more; `false` when the other side has closed.
    async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(LINE_LIMIT);
        Ok(within(self.patience, self.stream.read_buf(&mut self.read)).await? > 0)
    }

    async fn must_fill(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// A body that is being read. Not reading it is how a slow reader is made.
#[derive(Debug)]
pub(crate) struct Body<'c> {
    connection: &'c mut Connection,
    framing: Framing,
    /// What followed the last chunk; known when the body has ended.
    pub(crate) trailers: Vec<(String, String)>,
}

/// What is still to come of a body.
#[derive(Debug)]
enum Framing {
    Length(u64),
    /// The rest of the present chunk; 0 between chunks.
    Chunked(u64),
    UntilClose,
}

impl Body<'_> {
    /// The next piece, never an empty one; `None` at the proper end. A body cut short is `UnexpectedEof`.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Framing::Chunked(left @ 0) = &mut self.framing {
            let line = self.connection.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            *left = u64::from_str_radix(size, 16).map_err(|_| invalid("chunk size", &line))?;
            if *left == 0 {
                self.trailers = self.connection.fields().await?;
                self.framing = Framing::Length(0);
            }
        }
        if matches!(self.framing, Framing::Length(0)) {
            return Ok(None);
        }
        if self.connection.read.is_empty() && !self.connection.fill().await? {
            let proper = matches!(self.framing, Framing::UntilClose);
            return if proper { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
        }
        let read = &mut self.connection.read;
        match &mut self.framing {
            Framing::UntilClose => Ok(Some(read.split().freeze())),
            Framing::Length(left) => Ok(Some(take(read, left))),
            Framing::Chunked(left) => {
                let part = take(read, left);
                if *left == 0 {
                    let end = self.connection.line().await?;
                    if !end.is_empty() {
                        return Err(invalid("end of chunk", &end));
                    }
                }
                Ok(Some(part))
            }
        }
    }
}

/// As much of `read` as belongs to the `left` bytes that are still to come.
fn take(read: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    read.split_to(length).freeze()
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

fn invalid(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what}: {text:?}"))
}
