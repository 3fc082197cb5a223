//! The classic text protocol (memcached's `doc/protocol.txt`), as much of it as a store needs.
//!
//! Whatever a server says is bounded and parsed strictly. After an answer that is not as expected nobody knows where the
//! next one begins, so the connection is given up.

use std::io;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::session::store::remote::{Dial, Failed, Fault, LONGEST};

/// The server's kind, for messages.
pub(super) const SYSTEM: &str = "memcached";

/// The longest line of an answer: a key of 250 bytes, three numbers, some words.
const LINE: u64 = 512;
/// The longest foreign value that is read past, in bytes: Memcached's own bound, unless it was raised.
const FOREIGN: u64 = 1 << 20;

/// One of the servers.
pub(super) struct Server {
    address: String,
    target: (String, u16),
    login: Option<(String, String)>,
}

impl Server {
    pub(super) fn new(target: (String, u16), login: Option<(String, String)>) -> Self {
        Server { address: format!("{}:{}", target.0, target.1), target, login }
    }

    /// Host and port, which is what the server is known by.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

impl Dial for Server {
    type Connection = Connection;
    const SYSTEM: &'static str = SYSTEM;

    async fn dial(&self) -> Result<Connection, Fault> {
        let stream = TcpStream::connect((&*self.target.0, self.target.1)).await.map_err(|error| broken(&error))?;
        stream.set_nodelay(true).map_err(|error| broken(&error))?;
        let mut connection = Connection { stream: BufReader::with_capacity(2048, stream) };
        if let Some((user, password)) = &self.login {
            connection.log_in(user, password).await?;
        }
        Ok(connection)
    }
}

/// A connection that one request at a time may use.
pub(super) struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

/// A value, and what `cas` calls it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Absent when it is longer than any record.
    pub(super) value: Option<Vec<u8>>,
    pub(super) cas: u64,
}

impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Connection<S> {
    pub(super) async fn gets(&mut self, key: &[u8]) -> Result<Option<Found>, Failed> {
        self.send(&[b"gets ", key, b"\r\n"]).await?;
        let line = self.line().await?;
        if line == b"END" {
            return Ok(None);
        }
        let found = value_line(&line, key).ok_or_else(|| unexpected(&line));
        let (length, cas) = found.map_err(Failed::Lost)?;
        let value = if length <= LONGEST as u64 {
            let mut value = vec![0; length as usize];
            self.stream.read_exact(&mut value).await.map_err(lost)?;
            Some(value)
        } else if length <= FOREIGN {
            tokio::io::copy(&mut (&mut self.stream).take(length), &mut tokio::io::sink()).await.map_err(lost)?;
            None
        } else {
            return Err(Failed::Lost(Fault::refused(SYSTEM, "a value is longer than values can be")));
        };
        for expected in [&b""[..], b"END"] {
            let line = self.line().await?;
            if line != expected {
                return Err(Failed::Lost(unexpected(&line)));
            }
        }
        Ok(Some(Found { value, cas }))
    }

    /// Stores a value where there is none; whether it did.
    pub(super) async fn add(&mut self, key: &[u8], value: &[u8], ttl: u64) -> Result<bool, Failed> {
        let rest = format!(" 0 {ttl} {}\r\n", value.len());
        self.send(&[b"add ", key, rest.as_bytes(), value, b"\r\n"]).await?;
        self.expect(b"STORED", &[b"NOT_STORED"]).await
    }

    /// Stores a value in place of the one that `cas` names; whether it did.
    pub(super) async fn cas(&mut self, key: &[u8], value: &[u8], ttl: u64, cas: u64) -> Result<bool, Failed> {
        let rest = format!(" 0 {ttl} {} {cas}\r\n", value.len());
        self.send(&[b"cas ", key, rest.as_bytes(), value, b"\r\n"]).await?;
        self.expect(b"STORED", &[b"EXISTS", b"NOT_FOUND"]).await
    }

    pub(super) async fn touch(&mut self, key: &[u8], ttl: u64) -> Result<(), Failed> {
        self.send(&[b"touch ", key, format!(" {ttl}\r\n").as_bytes()]).await?;
        self.expect(b"TOUCHED", &[b"NOT_FOUND"]).await.map(drop)
    }

    pub(super) async fn delete(&mut self, key: &[u8]) -> Result<(), Failed> {
        self.send(&[b"delete ", key, b"\r\n"]).await?;
        self.expect(b"DELETED", &[b"NOT_FOUND"]).await.map(drop)
    }

    /// `protocol.txt`, "Authentication": the first command is a `set`, whatever its key, of user and password.
    async fn log_in(&mut self, user: &str, password: &str) -> Result<(), Fault> {
        let login = format!("{user} {password}");
        let command = format!("set login 0 0 {}\r\n{login}\r\n", login.len());
        self.stream.write_all(command.as_bytes()).await.map_err(|error| broken(&error))?;
        match self.line().await {
            Ok(line) if line == b"STORED" => Ok(()),
            Ok(_) => Err(Fault::refused(SYSTEM, "user and password were not accepted")),
            Err(Failed::Lost(fault)) => Err(fault),
            Err(Failed::Answered(_)) => Err(Fault::unavailable(SYSTEM, "the login failed")),
        }
    }

    async fn send(&mut self, parts: &[&[u8]]) -> Result<(), Failed> {
        // An answer before the question belongs to another one.
        if !self.stream.buffer().is_empty() {
            return Err(Failed::Lost(Fault::refused(SYSTEM, "an answer to nothing")));
        }
        self.stream.write_all(&parts.concat()).await.map_err(lost)
    }

    async fn expect(&mut self, yes: &[u8], no: &[&[u8]]) -> Result<bool, Failed> {
        let line = self.line().await?;
        match &line[..] {
            line if line == yes => Ok(true),
            line if no.contains(&line) => Ok(false),
            line => Err(Failed::Lost(unexpected(line))),
        }
    }

    /// A line without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Failed> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE).read_until(b'\n', &mut line).await.map_err(lost)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(line.to_vec()),
            None if line.len() as u64 == LINE => Err(Failed::Lost(Fault::refused(SYSTEM, "the answer has no end"))),
            None if line.ends_with(b"\n") => Err(Failed::Lost(unexpected(&line))),
            None => Err(Failed::Lost(broken(&io::ErrorKind::UnexpectedEof.into()))),
        }
    }
}

/// Length and `cas` of `VALUE <key> <flags> <length> <cas>`.
fn value_line(line: &[u8], key: &[u8]) -> Option<(u64, u64)> {
    let rest = line.strip_prefix(b"VALUE ")?.strip_prefix(key)?.strip_prefix(b" ")?;
    let mut words = std::str::from_utf8(rest).ok()?.split(' ');
    let _flags: u32 = words.next()?.parse().ok()?;
    let length = words.next()?.parse().ok()?;
    let cas = words.next()?.parse().ok()?;
    words.next().is_none().then_some((length, cas))
}

/// What may be said of a line that was not expected: its first word, if it is one of the protocol's.
fn unexpected(line: &[u8]) -> Fault {
    if line.starts_with(b"SERVER_ERROR") {
        Fault::unavailable(SYSTEM, "the server answered SERVER_ERROR")
    } else if line.starts_with(b"CLIENT_ERROR") {
        Fault::refused(SYSTEM, "the server answered CLIENT_ERROR")
    } else if line == b"ERROR" {
        Fault::refused(SYSTEM, "the server answered ERROR")
    } else {
        Fault::refused(SYSTEM, "the answer is not of the Memcached protocol")
    }
}

fn lost(error: io::Error) -> Failed {
    Failed::Lost(broken(&error))
}

fn broken(error: &io::Error) -> Fault {
    Fault::io(SYSTEM, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection on which `answer` has arrived for whatever is asked.
    fn answering(answer: &[u8]) -> Connection<tokio::io::Join<io::Cursor<Vec<u8>>, tokio::io::Sink>> {
        let stream = tokio::io::join(io::Cursor::new(answer.to_vec()), tokio::io::sink());
        Connection { stream: BufReader::new(stream) }
    }

    fn why<T: std::fmt::Debug>(result: Result<T, Failed>) -> String {
        match result {
            Err(Failed::Lost(fault)) => fault.to_string(),
            Err(Failed::Answered(error)) => panic!("the connection would be used again after {error}"),
            Ok(value) => panic!("accepted: {value:?}"),
        }
    }

    #[tokio::test]
    async fn a_value_is_read_whole() {
        let found = answering(b"VALUE k 0 3 18446744073709551615\r\na\r\n\r\nEND\r\n").gets(b"k").await;
        let found = found.unwrap_or_else(|_| panic!("a good answer"));
        assert_eq!(found, Some(Found { value: Some(b"a\r\n".to_vec()), cas: u64::MAX }));
        assert!(matches!(answering(b"END\r\n").gets(b"k").await, Ok(None)));
    }

    #[tokio::test]
    async fn a_value_that_is_too_long_is_read_past() {
        let length = LONGEST + 1;
        let answer = [format!("VALUE k 0 {length} 5\r\n").as_bytes(), &vec![b'x'; length], b"\r\nEND\r\n"].concat();
        let found = answering(&answer).gets(b"k").await.unwrap_or_else(|_| panic!("a good answer"));
        assert_eq!(found, Some(Found { value: None, cas: 5 }));
    }

    #[tokio::test]
    async fn hostile_answers_end_the_connection_and_are_not_quoted() {
        let long = [b'x'; 600];
        let cases: [(&[u8], &str); 12] = [
            (b"", "memcached: unexpected end of file"),
            (b"VALUE k 0 3 1\r\nab", "memcached: unexpected end of file"),
            (b"VALUE k 0 3 1\r\nabcde\r\nEND\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE k 0 3 1\r\nabc\r\nVALUE k 0 1 1\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE other 0 3 1\r\nabc\r\nEND\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE k 0 3\r\nabc\r\nEND\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE k 0 -1 1\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE k 0 99999999999999999999 1\r\n", "memcached: the answer is not of the Memcached protocol"),
            (b"VALUE k 0 9999999999 1\r\n", "memcached: a value is longer than values can be"),
            (b"SERVER_ERROR hunter2\r\n", "memcached: the server answered SERVER_ERROR"),
            (b"END\n", "memcached: the answer is not of the Memcached protocol"),
            (&long, "memcached: the answer has no end"),
        ];
        for (answer, expected) in cases {
            assert_eq!(why(answering(answer).gets(b"k").await), expected, "{:?}", String::from_utf8_lossy(answer));
        }
        assert_eq!(
            why(answering(b"STORED?\r\n").add(b"k", b"v", 1).await),
            "memcached: the answer is not of the Memcached protocol"
        );
    }

    #[tokio::test]
    async fn an_answer_to_nothing_is_nobodys() {
        let mut connection = answering(b"TOUCHED\r\nEND\r\n");
        assert!(connection.touch(b"k", 1).await.is_ok());
        assert_eq!(why(connection.gets(b"k").await), "memcached: an answer to nothing");
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_too_strange(line in "(VALUE k |.{0,5})[0-9 -]{0,30}.{0,5}") {
            let _ = value_line(line.as_bytes(), b"k");
        }
    }
}
