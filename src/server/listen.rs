use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// On a TCP address. Port 0 lets the kernel choose one.
    Tcp(SocketAddr),
    /// On an IPv6 address whose socket takes IPv4 connections too; their peers appear as mapped addresses.
    DualStack(SocketAddr),
    /// On a unix socket. What is left of an earlier one at the path is replaced.
    Unix(PathBuf),
}

/// A text that is no [`Listen`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address to listen on: expected 1.2.3.4:port, [v6]:port or unix:/path")]
pub struct InvalidListen(String);

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

/// A bound address, with a socket for each accept loop.
pub(super) enum Listener {
    Tcp {
        address: SocketAddr,
        sockets: Vec<std::net::TcpListener>,
    },
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

/// One accept loop's socket, not yet tied to its runtime.
pub(super) enum Shared {
    Tcp(std::net::TcpListener),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

/// One accept loop's socket.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Binds a socket for each of `loops` accept loops, in each of which the kernel lets `backlog` connections wait.
    pub(super) fn bind(listen: &Listen, loops: usize, backlog: u32) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}"));
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        match listen {
            Listen::Tcp(address) | Listen::DualStack(address) => {
                let v6_only = matches!(listen, Listen::Tcp(_));
                // The first socket is bound alone, so that an address that is in use is an error and is not shared. It does
                // not listen: what it had taken until it is closed would be reset.
                let alone = bind_tcp(*address, v6_only, false).map_err(named)?;
                let address = alone.local_addr()?.as_socket().unwrap_or(*address);
                drop(alone);
                let sockets = (0..loops).map(|_| {
                    let socket = bind_tcp(address, v6_only, true)?;
                    socket.listen(backlog)?;
                    Ok(socket.into())
                });
                let sockets = sockets.collect::<io::Result<_>>().map_err(named)?;
                Ok(Listener::Tcp { address, sockets })
            }
            #[cfg(unix)]
            Listen::Unix(path) => {
                // A socket that nobody listens on is what a killed process left behind.
                if std::os::unix::net::UnixStream::connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    std::fs::remove_file(path).map_err(named)?;
                }
                let listener = std::os::unix::net::UnixListener::bind(path).map_err(named)?;
                // The standard library has listened with a backlog of its own; a second call changes it.
                socket2::SockRef::from(&listener).listen(backlog).map_err(named)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener))
            }
            #[cfg(not(unix))]
            Listen::Unix(_) => Err(named(io::ErrorKind::Unsupported.into())),
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp { address, .. } => Some(*address),
            #[cfg(unix)]
            Listener::Unix(_) => None,
        }
    }

    /// The socket for one more loop.
    pub(super) fn share(&mut self) -> io::Result<Shared> {
        match self {
            Listener::Tcp { sockets, .. } => {
                sockets.pop().map(Shared::Tcp).ok_or_else(|| io::Error::other("more loops than sockets"))
            }
            #[cfg(unix)]
            Listener::Unix(listener) => listener.try_clone().map(Shared::Unix),
        }
    }
}

impl Shared {
    /// Ties the socket to the present runtime.
    pub(super) fn register(self) -> io::Result<Acceptor> {
        match self {
            Shared::Tcp(listener) => TcpListener::from_std(listener).map(Acceptor::Tcp),
            #[cfg(unix)]
            Shared::Unix(listener) => UnixListener::from_std(listener).map(Acceptor::Unix),
        }
    }
}

fn bind_tcp(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// On addresses of loopback that nobody else uses: other programs take ports there is no telling when, and who
    /// connects from the address that it connects to may meet itself.
    #[test]
    #[cfg(target_os = "linux")]
    fn who_connects_while_a_server_starts_is_not_cut_off() {
        for _ in 0..100 {
            let address = bind_tcp(([127, 7, 0, 1], 0).into(), true, false).unwrap().local_addr().unwrap();
            let (refused, begun) = mpsc::channel();
            let early = thread::spawn({
                let address = address.clone();
                move || loop {
                    let client = bind_tcp(([127, 7, 0, 2], 0).into(), true, false).unwrap();
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
            let Ok(_listener) = Listener::bind(&listen, 1, 16) else { panic!("{listen} is taken") };
            let mut early = early.join().unwrap();
            early.set_nonblocking(true).unwrap();
            assert_eq!(early.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn an_address_is_not_shared_with_who_has_it() {
        let first = Listener::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into()), 2, 16).unwrap();
        let Err(error) = Listener::bind(&Listen::Tcp(first.address().unwrap()), 2, 16) else { panic!("it is shared") };
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
