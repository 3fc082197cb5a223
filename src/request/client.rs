use std::net::{IpAddr, SocketAddr};

use crate::client_key::ClientKey;

/// The sender of a request: the peer of the connection, or the client that a trusted proxy in front
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAddr {
    /// An IP address, with port 0 where only the address is known.
    Inet(SocketAddr),
    /// The peer of a unix socket, which has no address.
    Unix,
}

/// The address of this machine that the client of a request connected to, as an extension of the
/// request.
///
/// If a server listens at all addresses, an nginx configuration with `$server_addr` reads it. The
/// crate's server adds it if `ListenOptions::local_addr` says so. An application with another
/// server may add it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalAddr(pub SocketAddr);

impl ClientAddr {
    /// Returns the IP address; `None` on a unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            ClientAddr::Inet(addr) => Some(addr.ip()),
            ClientAddr::Unix => None,
        }
    }

    /// Returns the address with its port; `None` on a unix socket.
    #[cfg(feature = "server")]
    pub(crate) fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            ClientAddr::Inet(addr) => Some(*addr),
            ClientAddr::Unix => None,
        }
    }

    /// Returns the key for the shares of one client; `None` for a unix socket, whose peers cannot
    /// be told apart.
    ///
    /// The address is that of the client behind trusted proxies. Otherwise all clients of a proxy
    /// would share the part of one client.
    pub(crate) fn key(&self) -> Option<ClientKey> {
        self.ip().map(ClientKey::of)
    }

    /// Returns a number that most likely differs between connections. One application may send all
    /// queries, and many users may share an address, so the address alone does not identify a
    /// client. A trusted proxy names only addresses, so its clients that share an address count as
    /// one.
    pub(crate) fn connection_hash(&self) -> u32 {
        let port = match self {
            ClientAddr::Inet(addr) => addr.port(),
            ClientAddr::Unix => 0,
        };
        let client = self.ip().map_or(0, |ip| match ip {
            IpAddr::V4(ip) => u64::from(u32::from(ip)),
            // The lower half of the address identifies the client, the upper half the network.
            IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64 ^ u128::from(ip) as u64,
        });
        (crate::hash::mix(client, port.into()) >> 32) as u32
    }
}

impl From<SocketAddr> for ClientAddr {
    fn from(addr: SocketAddr) -> Self {
        ClientAddr::Inet(addr)
    }
}

impl From<IpAddr> for ClientAddr {
    fn from(ip: IpAddr) -> Self {
        ClientAddr::Inet(SocketAddr::new(ip, 0))
    }
}
