//! A node that follows a script of bytes, and records every byte that it receives.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A step of a node's script for a connection. At the end of the script, the node closes the
/// connection.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Reads one whole request.
    Read,
    /// Reads only the head of a request.
    ReadHead,
    /// Sends these bytes.
    Write(Vec<u8>),
    /// Responds to every request with these bytes, until the other side closes.
    Serve(Vec<u8>),
    /// Reads nothing and sends nothing, forever.
    Stall,
    /// Reads and sends nothing, until the other side closes.
    UntilClosed,
    /// Waits for [`RawNode::go`].
    WaitForGo,
    /// Ends the connection with a RST.
    Reset,
}

/// Returns a response of status 200 with this body.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Returns the script of a node that responds to each request with its name.
pub(crate) fn healthy(name: &str) -> Vec<Act> {
    vec![Act::Serve(ok(name))]
}

/// Returns the script of a node that reads one request and sends these bytes.
pub(crate) fn respond(bytes: impl Into<Vec<u8>>) -> Vec<Act> {
    vec![Act::Read, Act::Write(bytes.into())]
}

/// A node. It stops when it is dropped.
pub(crate) struct RawNode {
    address: SocketAddr,
    seen: Arc<watch::Sender<Seen>>,
    go: watch::Sender<u64>,
    task: JoinHandle<()>,
}

/// The requests that a node has received.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The number of accepted connections, including closed ones.
    pub(crate) connections: usize,
    /// The number of connections that the other side has closed, as far as the script reads.
    pub(crate) closed: usize,
    /// The requests that were read, as they were on the wire: whole, or only the head after
    /// [`Act::ReadHead`].
    pub(crate) requests: Vec<Vec<u8>>,
    /// All bytes that each connection received.
    pub(crate) bytes: Vec<Vec<u8>>,
}

impl Seen {
    /// Returns the requests as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.requests.iter().map(|request| String::from_utf8_lossy(request).into_owned()).collect()
    }
}

impl RawNode {
    /// Starts a node whose connections follow `scripts` in order; all further ones follow the last
    /// script.
    pub(crate) async fn start(scripts: impl IntoIterator<Item = Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let go = watch::Sender::new(0);
        let scripts: Vec<_> = scripts.into_iter().collect();
        let task = tokio::spawn(accept(listener, scripts, Arc::clone(&seen), go.clone()));
        RawNode { address, seen, go, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Lets one more [`Act::WaitForGo`] continue.
    pub(crate) fn go(&self) {
        self.go.send_modify(|count| *count += 1);
    }

    /// Waits until `test` returns true for the received data.
    pub(crate) async fn wait_until(&self, test: impl FnMut(&Seen) -> bool) -> Seen {
        let mut changes = self.seen.subscribe();
        match timeout(TIMEOUT, changes.wait_for(test)).await {
            Ok(seen) => seen.unwrap().clone(),
            Err(_) => {
                let seen = self.seen();
                panic!("did not happen: {} connections, {} closed, {:#?}", seen.connections, seen.closed, seen.texts())
            }
        }
    }
}

impl Drop for RawNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, scripts: Vec<Vec<Act>>, seen: Arc<watch::Sender<Seen>>, go: watch::Sender<u64>) {
    // The connections end with this task.
    let mut connections = tokio::task::JoinSet::new();
    let waits = Arc::new(Mutex::new(0));
    for index in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        let script = scripts.get(index).or(scripts.last()).cloned().unwrap_or_default();
        seen.send_modify(|seen| {
            seen.connections += 1;
            seen.bytes.push(Vec::new());
        });
        let wire = Wire { stream, index, read: Vec::new(), seen: Arc::clone(&seen) };
        connections.spawn(wire.play(script, go.subscribe(), Arc::clone(&waits)));
    }
}

struct Wire {
    stream: TcpStream,
    index: usize,
    read: Vec<u8>,
    seen: Arc<watch::Sender<Seen>>,
}

impl Wire {
    async fn play(mut self, script: Vec<Act>, mut go: watch::Receiver<u64>, waits: Arc<Mutex<u64>>) {
        for act in script {
            let continues = match act {
                Act::Read => self.request(false).await,
                Act::ReadHead => self.request(true).await,
                Act::Write(bytes) => self.stream.write_all(&bytes).await.is_ok(),
                Act::Serve(response) => {
                    while self.request(false).await && self.stream.write_all(&response).await.is_ok() {}
                    false
                }
                Act::Stall => std::future::pending().await,
                Act::UntilClosed => {
                    while self.fill().await {}
                    false
                }
                Act::WaitForGo => {
                    let number = {
                        let mut waits = waits.lock().unwrap();
                        *waits += 1;
                        *waits
                    };
                    go.wait_for(|count| *count >= number).await.is_ok()
                }
                Act::Reset => {
                    socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
                    false
                }
            };
            if !continues {
                return;
            }
        }
    }

    /// Reads more; returns false if the other side has closed.
    async fn fill(&mut self) -> bool {
        let before = self.read.len();
        let read = self.stream.read_buf(&mut self.read).await.unwrap_or(0);
        let (index, new) = (self.index, &self.read[before..]);
        self.seen.send_modify(|seen| {
            seen.bytes[index].extend_from_slice(new);
            seen.closed += usize::from(read == 0);
        });
        read > 0
    }

    async fn request(&mut self, head_only: bool) -> bool {
        loop {
            if let Some(length) = request_length(&self.read, head_only) {
                let request = self.read.drain(..length).collect();
                self.seen.send_modify(|seen| seen.requests.push(request));
                return true;
            }
            if !self.fill().await {
                return false;
            }
        }
    }
}

/// Returns the length of the first request in `bytes`, if it is complete.
fn request_length(bytes: &[u8], head_only: bool) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if head_only {
        return Some(head);
    }
    if text.contains("\r\ntransfer-encoding: chunked\r\n") {
        let end = find(&bytes[head..], b"0\r\n\r\n")?;
        // The body ends at the first last-chunk.
        return Some(head + end + 5);
    }
    let length = text.split("\r\ncontent-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let end = head + length.unwrap_or(0);
    (bytes.len() >= end).then_some(end)
}

pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
