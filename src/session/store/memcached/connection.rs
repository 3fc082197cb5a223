//! The part of Memcached's text protocol (`doc/protocol.txt`) that a store needs.
//!
//! Responses are bounded and parsed strictly. After an unexpected response, the start of the next
//! one is unknown, so each failure ends the connection.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::session::store::remote::{Connect, Failure, Login, MAX_VALUE_LEN, Server};

/// The name of the system, for messages.
pub(super) const SYSTEM: &str = "memcached";

/// The maximum length of a response line: a key of 250 bytes, three numbers, and some words.
const MAX_LINE_LEN: u64 = 512;
/// The maximum length of a foreign value that is skipped: the default limit of Memcached.
const MAX_FOREIGN_LEN: u64 = 1 << 20;

/// Connects to a server, and logs in.
pub(super) struct Connector {
    address: String,
    server: Server,
    login: Login,
}

impl Connector {
    pub(super) fn new(server: Server, login: Login) -> Self {
        Connector { address: format!("{}:{}", server.0, server.1), server, login }
    }

    /// Returns `host:port`, which identifies the server.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl Connect for Connector {
    type Connection = Connection;
    const SYSTEM: &'static str = SYSTEM;

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect((&*self.server.0, self.server.1)).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let mut connection = Connection { stream: BufReader::with_capacity(2048, stream) };
        if let (Some(user), Some(password)) = (&self.login.user, &self.login.password) {
            connection.log_in(user, password).await?;
        }
        Ok(connection)
    }
}

/// A connection, for one request at a time.
pub(super) struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

/// A value, and its `cas` number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// `None` if the value is too long to be a record.
    pub(super) bytes: Option<Vec<u8>>,
    pub(super) cas: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) async fn gets(&mut self, key: &str) -> Result<Option<Value>, Failure> {
        self.send(format!("gets {key}\r\n").as_bytes()).await?;
        let line = self.read_line().await?;
        if line == b"END" {
            return Ok(None);
        }
        let (length, cas) = parse_value_line(&line, key).ok_or_else(|| unexpected(&line))?;
        let bytes = if length <= MAX_VALUE_LEN as u64 {
            let mut bytes = vec![0; length as usize];
            self.stream.read_exact(&mut bytes).await.map_err(lost)?;
            Some(bytes)
        } else if length <= MAX_FOREIGN_LEN {
            tokio::io::copy(&mut (&mut self.stream).take(length), &mut tokio::io::sink()).await.map_err(lost)?;
            None
        } else {
            return Err(Failure::refused(SYSTEM, "a value is longer than values can be"));
        };
        for expected in [&b""[..], b"END"] {
            let line = self.read_line().await?;
            if line != expected {
                return Err(unexpected(&line));
            }
        }
        Ok(Some(Value { bytes, cas }))
    }

    /// Stores a value unless there is one. Returns whether it was stored.
    pub(super) async fn add(&mut self, key: &str, value: &[u8], ttl: u64) -> Result<bool, Failure> {
        let line = format!("add {key} 0 {ttl} {}\r\n", value.len());
        self.send(&[line.as_bytes(), value, b"\r\n"].concat()).await?;
        self.expect(b"STORED", &[b"NOT_STORED"]).await
    }

    /// Replaces the value that has this `cas` number. Returns whether it was replaced.
    pub(super) async fn cas(&mut self, key: &str, value: &[u8], ttl: u64, cas: u64) -> Result<bool, Failure> {
        let line = format!("cas {key} 0 {ttl} {} {cas}\r\n", value.len());
        self.send(&[line.as_bytes(), value, b"\r\n"].concat()).await?;
        self.expect(b"STORED", &[b"EXISTS", b"NOT_FOUND"]).await
    }

    pub(super) async fn touch(&mut self, key: &str, ttl: u64) -> Result<(), Failure> {
        self.send(format!("touch {key} {ttl}\r\n").as_bytes()).await?;
        self.expect(b"TOUCHED", &[b"NOT_FOUND"]).await.map(drop)
    }

    pub(super) async fn delete(&mut self, key: &str) -> Result<(), Failure> {
        self.send(format!("delete {key}\r\n").as_bytes()).await?;
        self.expect(b"DELETED", &[b"NOT_FOUND"]).await.map(drop)
    }

    /// Logs in. `protocol.txt`, "Authentication": the first command is a `set` of user and password
    /// under any key.
    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Failure> {
        let length = user.len() + 1 + password.len();
        let command = format!("set login 0 0 {length}\r\n{user} {password}\r\n");
        self.send(command.as_bytes()).await?;
        if self.read_line().await? == b"STORED" {
            Ok(())
        } else {
            Err(Failure::refused(SYSTEM, "user and password were not accepted"))
        }
    }

    async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        if !self.stream.buffer().is_empty() {
            return Err(Failure::refused(SYSTEM, "a response without a request"));
        }
        self.stream.write_all(request).await.map_err(lost)
    }

    async fn expect(&mut self, yes: &[u8], no: &[&[u8]]) -> Result<bool, Failure> {
        let line = self.read_line().await?;
        match &line[..] {
            line if line == yes => Ok(true),
            line if no.contains(&line) => Ok(false),
            line => Err(unexpected(line)),
        }
    }

    /// Reads a line, and returns it without its end.
    async fn read_line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut line = Vec::new();
        (&mut self.stream).take(MAX_LINE_LEN).read_until(b'\n', &mut line).await.map_err(lost)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(line.to_vec()),
            None if line.len() as u64 == MAX_LINE_LEN => Err(Failure::refused(SYSTEM, "the response line is too long")),
            None if line.ends_with(b"\n") => Err(unexpected(&line)),
            None => Err(lost(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Parses `VALUE <key> <flags> <length> <cas>`. Returns the length and the `cas` number.
fn parse_value_line(line: &[u8], key: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix(b"VALUE ")?.strip_prefix(key.as_bytes())?.strip_prefix(b" ")?;
    let mut words = std::str::from_utf8(rest).ok()?.split(' ');
    let _flags: u32 = words.next()?.parse().ok()?;
    let length = words.next()?.parse().ok()?;
    let cas = words.next()?.parse().ok()?;
    words.next().is_none().then_some((length, cas))
}

/// Describes an unexpected line by its first word, if that is one of the protocol.
fn unexpected(line: &[u8]) -> Failure {
    if line.starts_with(b"SERVER_ERROR") {
        Failure::unavailable(SYSTEM, "the server sent SERVER_ERROR")
    } else if line.starts_with(b"CLIENT_ERROR") {
        Failure::refused(SYSTEM, "the server sent CLIENT_ERROR")
    } else if line == b"ERROR" {
        Failure::refused(SYSTEM, "the server sent ERROR")
    } else {
        Failure::refused(SYSTEM, "the response is not of the Memcached protocol")
    }
}

fn lost(error: io::Error) -> Failure {
    Failure::io(SYSTEM, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a connection on which `response` has already arrived.
    fn responding(response: &[u8]) -> Connection<tokio::io::Join<io::Cursor<Vec<u8>>, tokio::io::Sink>> {
        let stream = tokio::io::join(io::Cursor::new(response.to_vec()), tokio::io::sink());
        Connection { stream: BufReader::new(stream) }
    }

    fn failure<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
        result.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_value_is_read_whole() {
        let found = responding(b"VALUE k 0 3 18446744073709551615\r\na\r\n\r\nEND\r\n").gets("k").await;
        assert_eq!(found.unwrap(), Some(Value { bytes: Some(b"a\r\n".to_vec()), cas: u64::MAX }));
        assert!(matches!(responding(b"END\r\n").gets("k").await, Ok(None)));
    }

    #[tokio::test]
    async fn a_value_that_is_too_long_is_skipped() {
        let length = MAX_VALUE_LEN + 1;
        let response = [format!("VALUE k 0 {length} 5\r\n").as_bytes(), &vec![b'x'; length], b"\r\nEND\r\n"].concat();
        let found = responding(&response).gets("k").await.unwrap();
        assert_eq!(found, Some(Value { bytes: None, cas: 5 }));
    }

    #[tokio::test]
    async fn hostile_responses_end_the_connection_and_are_not_quoted() {
        let long = [b'x'; 600];
        let cases: [(&[u8], &str); 12] = [
            (b"", "memcached: unexpected end of file"),
            (b"VALUE k 0 3 1\r\nab", "memcached: unexpected end of file"),
            (b"VALUE k 0 3 1\r\nabcde\r\nEND\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE k 0 3 1\r\nabc\r\nVALUE k 0 1 1\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE other 0 3 1\r\nabc\r\nEND\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE k 0 3\r\nabc\r\nEND\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE k 0 -1 1\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE k 0 99999999999999999999 1\r\n", "memcached: the response is not of the Memcached protocol"),
            (b"VALUE k 0 9999999999 1\r\n", "memcached: a value is longer than values can be"),
            (b"SERVER_ERROR hunter2\r\n", "memcached: the server sent SERVER_ERROR"),
            (b"END\n", "memcached: the response is not of the Memcached protocol"),
            (&long, "memcached: the response line is too long"),
        ];
        for (response, expected) in cases {
            assert_eq!(
                failure(responding(response).gets("k").await),
                expected,
                "{:?}",
                String::from_utf8_lossy(response)
            );
        }
        assert_eq!(
            failure(responding(b"STORED?\r\n").add("k", b"v", 1).await),
            "memcached: the response is not of the Memcached protocol"
        );
    }

    #[tokio::test]
    async fn a_response_without_a_request_ends_the_connection() {
        let mut connection = responding(b"TOUCHED\r\nEND\r\n");
        assert!(connection.touch("k", 1).await.is_ok());
        assert_eq!(failure(connection.gets("k").await), "memcached: a response without a request");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line in "(VALUE k |.{0,5})[0-9 -]{0,30}.{0,5}") {
            let _ = parse_value_line(line.as_bytes(), "k");
        }
    }
}
