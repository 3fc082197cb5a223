use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::net::UnixListener;

/// The address that a server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// A TCP address. With port 0, the kernel chooses a port.
    Tcp(SocketAddr),
    /// An IPv6 address whose socket also accepts IPv4 connections. Their peers have mapped
    /// addresses.
    DualStack(SocketAddr),
    /// The path of a unix socket. A socket that an earlier process left there is replaced.
    Unix(PathBuf),
}

/// The error for a text that is not a [`Listen`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address to listen on: expected 1.2.3.4:port, [v6]:port or unix:/path")]
pub struct InvalidListen(String);

impl InvalidListen {
    /// Returns the rejected text, or its first 255 characters.
    pub fn value(&self) -> &str {
        &self.0
    }
}

impl FromStr for Listen {
    type Err = InvalidListen;

    fn from_str(text: &str) -> Result<Self, InvalidListen> {
        let invalid = || InvalidListen(text.chars().take(255).collect());
        match text.strip_prefix("unix:") {
            Some("") => Err(invalid()),
            Some(path) => Ok(Listen::Unix(path.into())),
            None => text.parse().map(Listen::Tcp).map_err(|_| invalid()),
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Listen::Tcp(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) | Listen::DualStack(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Returns the address of a listening socket, for example of one that systemd passed.
    ///
    /// # Errors
    /// An error if `socket` does not listen, or is neither a TCP socket nor a unix socket with a
    /// path.
    pub fn of_socket(socket: &impl std::os::fd::AsFd) -> io::Result<Self> {
        let socket = socket2::SockRef::from(socket);
        let address = socket.local_addr()?;
        if !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the socket {address:?} does not listen")));
        }
        match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) if address.is_ipv6() && !socket.only_v6()? => Ok(Listen::DualStack(address)),
            (Some(address), _) => Ok(Listen::Tcp(address)),
            (None, Some(path)) => Ok(Listen::Unix(path.to_owned())),
            (None, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The sockets that were passed to this process, with their addresses.
pub(super) struct Inherited(Vec<(Listen, Socket)>);

impl Inherited {
    pub(super) fn new(sockets: Vec<Socket>) -> io::Result<Self> {
        let sockets = sockets.into_iter().map(|socket| Ok((Listen::of_socket(&socket)?, socket)));
        sockets.collect::<io::Result<_>>().map(Inherited)
    }

    /// Takes the sockets that have the address of `listen`, at least one for each of `loops` accept
    /// loops. Returns `None` if there are none.
    pub(super) fn adopt(&mut self, listen: &Listen, loops: usize) -> io::Result<Option<Listener>> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(of, _)| has_address(of, listen));
        self.0 = left;
        let mut sockets: Vec<Socket> = Vec::from_iter::<Vec<_>>(taken).into_iter().map(|(_, socket)| socket).collect();
        if sockets.is_empty() {
            return Ok(None);
        }
        for index in sockets.len()..loops {
            let shared = sockets[index % sockets.len()].try_clone()?;
            sockets.push(shared);
        }
        sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
        let address = sockets[0].local_addr()?.as_socket();
        Ok(Some(Listener { address, sockets }))
    }

    /// Refuses sockets that no listener has adopted, because no connection to them would be
    /// accepted.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.0.first() {
            None => Ok(()),
            Some((listen, _)) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the inherited socket {listen} has the address of no listener"),
            )),
        }
    }
}

fn has_address(socket: &Listen, listen: &Listen) -> bool {
    match (socket, listen) {
        (Listen::Tcp(one) | Listen::DualStack(one), Listen::Tcp(other) | Listen::DualStack(other)) => one == other,
        (Listen::Unix(one), Listen::Unix(other)) => one == other,
        (Listen::Tcp(_) | Listen::DualStack(_), Listen::Unix(_)) | (Listen::Unix(_), _) => false,
    }
}

/// A bound address.
pub(super) struct Listener {
    /// `None` for a unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The listening sockets, at least one for each accept loop.
    pub(super) sockets: Vec<Socket>,
}

impl Listener {
    /// Binds a socket for each of `loops` accept loops. The kernel lets `backlog` connections wait
    /// at each one.
    pub(super) fn bind(listen: &Listen, loops: usize, backlog: NonZeroU32) -> io::Result<Self> {
        let backlog = i32::try_from(backlog.get()).unwrap_or(i32::MAX);
        let bound = match listen {
            Listen::Tcp(address) => bind_tcp(*address, true, loops, backlog),
            Listen::DualStack(address) => bind_tcp(*address, false, loops, backlog),
            Listen::Unix(path) => bind_unix(path, loops, backlog),
        };
        bound.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}")))
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool, loops: usize, backlog: i32) -> io::Result<Listener> {
    // The first socket is bound without SO_REUSEPORT, so that an address in use is an error and is
    // not shared. It never listens, because closing it would reset the connections that it had
    // accepted.
    let exclusive = tcp_socket(address, v6_only, false)?;
    let address = exclusive.local_addr()?.as_socket().unwrap_or(address);
    drop(exclusive);
    let sockets = (0..loops).map(|_| {
        let socket = tcp_socket(address, v6_only, true)?;
        socket.listen(backlog)?;
        Ok(socket)
    });
    Ok(Listener { address: Some(address), sockets: sockets.collect::<io::Result<_>>()? })
}

fn tcp_socket(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &std::path::Path, loops: usize, backlog: i32) -> io::Result<Listener> {
    use std::os::unix::net::{UnixListener, UnixStream};

    // A killed process leaves a socket that does not accept connections.
    if UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let socket = Socket::from(UnixListener::bind(path)?);
    // The standard library listens with its own backlog; a second call changes it.
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    let sockets = (0..loops).map(|_| socket.try_clone());
    Ok(Listener { address: None, sockets: sockets.collect::<io::Result<_>>()? })
}

/// The socket of one accept loop, registered with the loop's runtime.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    pub(super) fn register(socket: Socket) -> io::Result<Self> {
        if socket.local_addr()?.domain() == Domain::UNIX {
            return UnixListener::from_std(socket.into()).map(Acceptor::Unix);
        }
        TcpListener::from_std(socket.into()).map(Acceptor::Tcp)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const BACKLOG: NonZeroU32 = NonZeroU32::new(16).unwrap();

    /// Uses its own loopback addresses, because other programs take ports at any time, and a client
    /// with the server's address may connect to itself.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_client_that_connects_while_the_server_starts_is_not_reset() {
        for _ in 0..100 {
            let address = tcp_socket(([127, 7, 0, 1], 0).into(), true, false).unwrap().local_addr().unwrap();
            let (refused, begun) = mpsc::channel();
            let early = thread::spawn({
                let address = address.clone();
                move || loop {
                    let client = tcp_socket(([127, 7, 0, 2], 0).into(), true, false).unwrap();
                    client.set_nonblocking(false).unwrap();
                    match client.connect(&address) {
                        Ok(()) => return client,
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
                    }
                    _ = refused.send(());
                }
            });
            begun.recv().unwrap();
            let listen = Listen::Tcp(address.as_socket().unwrap());
            let Ok(_listener) = Listener::bind(&listen, 1, BACKLOG) else { panic!("{listen} is taken") };
            let mut early = early.join().unwrap();
            early.set_nonblocking(true).unwrap();
            assert_eq!(early.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn an_address_in_use_is_not_shared() {
        let first = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), 2, BACKLOG).unwrap();
        let Err(error) = Listener::bind(&Listen::Tcp(first.address.unwrap()), 2, BACKLOG) else {
            panic!("it is shared")
        };
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
