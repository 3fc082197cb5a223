//! A small HTTP/1.1 client for tests that must control every byte and see every byte. The client
//! sends bytes as given, and parses responses only to find their end. A result that a test may
//! expect is an error, not a panic: a truncated response is `UnexpectedEof`, and silence is
//! `TimedOut`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// How long a connection waits for the next byte by default.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum length of a response line, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// How long a stopping server waits for the first request of a client that has connected.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_millis(900);

/// Sends a GET of `path` on its own connection and returns the whole response.
pub(crate) async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> io::Result<RawResponse> {
    let mut connection = Connection::open(address).await?;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n");
    connection.send(head).await?;
    connection.response().await
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// `HTTP/1.1`, as sent.
    pub(crate) version: String,
    pub(crate) status: u16,
    /// The headers in the order of their arrival, with the names as sent.
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    /// Returns the first header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the values of all headers of this name, in the order of their arrival.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Returns how the body is framed (RFC 9112, 6.3).
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

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawResponse {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
    /// The trailers after the last chunk.
    pub(crate) trailers: Vec<(String, String)>,
}

impl RawResponse {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// Returns the first header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

/// A connection to a server. It is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    read: BytesMut,
    received: u64,
    read_timeout: Duration,
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(within(READ_TIMEOUT, TcpStream::connect(address)).await?)
    }

    /// Connects from this address of the machine.
    pub(crate) async fn open_from(local: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((local, 0).into())?;
        Self::over(within(READ_TIMEOUT, socket.connect(address)).await?)
    }

    /// Connects and sends these bytes, both within `limit`, so that no limit of the server on slow
    /// clients is reached. If this process was suspended for longer meanwhile, it tries again.
    pub(crate) async fn open_promptly(
        address: SocketAddr,
        bytes: impl AsRef<[u8]>,
        limit: Duration,
    ) -> io::Result<Self> {
        loop {
            let began = Instant::now();
            let mut connection = Self::open(address).await?;
            let sent = connection.send(&bytes).await;
            if began.elapsed() < limit {
                return sent.map(|()| connection);
            }
        }
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: BytesMut::new(), received: 0, read_timeout: READ_TIMEOUT })
    }

    /// Returns how many bytes have arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Sets how long each read or write waits. Default: 30 s.
    pub(crate) fn read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }

    /// Sends these bytes.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        within(self.read_timeout, self.stream.write_all(bytes.as_ref())).await
    }

    /// Reads the next whole response to any method except HEAD. Drops interim responses (1xx).
    pub(crate) async fn response(&mut self) -> io::Result<RawResponse> {
        let head = self.final_head().await?;
        let mut body = self.body(&head)?;
        let mut whole = BytesMut::new();
        while let Some(part) = body.next().await? {
            whole.extend_from_slice(&part);
        }
        let trailers = std::mem::take(&mut body.trailers);
        Ok(RawResponse { head, body: whole.freeze(), trailers })
    }

    /// Reads the head of the next response that is not interim, which is the whole response to a
    /// HEAD.
    pub(crate) async fn final_head(&mut self) -> io::Result<Head> {
        loop {
            let head = self.head().await?;
            if head.status >= 200 || head.status == 101 {
                return Ok(head);
            }
        }
    }

    /// Reads the next head, which may be an interim one (1xx).
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let line = self.line().await?;
        let mut words = line.splitn(3, ' ');
        let version = words.next().unwrap_or_default().to_owned();
        let status =
            words.next().and_then(|status| status.parse().ok()).ok_or_else(|| invalid("status line", &line))?;
        Ok(Head { version, status, headers: self.headers().await? })
    }

    /// Returns the body that follows `head`, in the pieces in which it arrives.
    pub(crate) fn body(&mut self, head: &Head) -> io::Result<Body<'_>> {
        Ok(Body { framing: head.framing()?, trailers: Vec::new(), connection: self })
    }

    /// Reads all bytes until the other side closes.
    pub(crate) async fn rest(&mut self) -> io::Result<Bytes> {
        while self.fill().await? {}
        Ok(self.read.split().freeze())
    }

    /// Reads headers or trailers up to the empty line.
    async fn headers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(headers);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid("header", &line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
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
            if searched > MAX_LINE {
                return Err(invalid("line", "too long"));
            }
            self.must_fill().await?;
        }
    }

    /// Reads more; returns false if the other side has closed.
    async fn fill(&mut self) -> io::Result<bool> {
        self.read.reserve(MAX_LINE);
        let read = within(self.read_timeout, self.stream.read_buf(&mut self.read)).await?;
        self.received += read as u64;
        Ok(read > 0)
    }

    async fn must_fill(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

/// A body that is being read. A test that does not read it acts as a slow client.
#[derive(Debug)]
pub(crate) struct Body<'c> {
    connection: &'c mut Connection,
    framing: Framing,
    /// The trailers after the last chunk, once the body has ended.
    pub(crate) trailers: Vec<(String, String)>,
}

/// The rest of a body.
#[derive(Debug)]
enum Framing {
    Length(u64),
    /// The rest of the current chunk; 0 between chunks.
    Chunked(u64),
    UntilClose,
}

impl Body<'_> {
    /// Returns the next piece, which is not empty; `None` at the end. A truncated body is
    /// `UnexpectedEof`.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if let Framing::Chunked(left @ 0) = &mut self.framing {
            let line = self.connection.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            *left = u64::from_str_radix(size, 16).map_err(|_| invalid("chunk size", &line))?;
            if *left == 0 {
                self.trailers = self.connection.headers().await?;
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

/// Takes up to `left` bytes out of `read`.
fn take(read: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= length as u64;
    read.split_to(length).freeze()
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

fn invalid(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("{what}: {text:?}"))
}
