//! Lists of nodes: `kylin.server.cluster-servers` and its variants.

use std::collections::HashSet;
use std::fmt;

use super::{Entry, Properties, PropertyError};
use crate::kylin::node::role::{Role, Roles};

/// The default port of a node (apache/kylin 3.1.3 RestClient.java:70).
const DEFAULT_PORT: u16 = 7070;

/// The address of a node in a list. Credentials before the host are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddr {
    host: String,
    port: u16,
    roles: Option<Roles>,
}

impl ServerAddr {
    /// Parses `host`, `host:port` or `user:password@host:port`. An IPv6 address needs brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let address = text.rsplit_once('@').map_or(text, |(_, address)| address);
        let (host, port) = match address.strip_prefix('[') {
            Some(inside) => {
                let (host, after) = inside.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
            }
            None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
        };
        let is_valid = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let port = port.map_or(Some(DEFAULT_PORT), digits).filter(|&port| port != 0)?;
        (!host.is_empty() && host.chars().all(is_valid)).then(|| ServerAddr {
            host: host.to_owned(),
            port,
            roles: None,
        })
    }

    /// Parses `host:port:mode`, as in `kylin.server.cluster-servers-with-mode`.
    pub fn parse_with_mode(text: &str) -> Option<Self> {
        let (address, mode) = text.trim().rsplit_once(':')?;
        Some(ServerAddr::parse(address)?.serving(Roles::parse(mode).ok()?))
    }

    /// Sets the roles of the node.
    pub(crate) fn serving(mut self, roles: Roles) -> Self {
        self.roles = Some(roles);
        self
    }

    /// Returns whether both have the same address. Names are compared without case.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// Returns the host name or address; an IPv6 address has no brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port. Default: 7070.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the roles of the node, if the list has them.
    pub fn roles(&self) -> Option<Roles> {
        self.roles
    }
}

impl fmt::Display for ServerAddr {
    /// Writes `host:port`, the form that `HttpBackend` accepts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Properties {
    /// Returns the nodes that this node knows. They are in the first of these properties that is
    /// set:
    ///
    /// - `kylin.server.cluster-servers-with-mode`;
    /// - the lists `kylin.server.cluster-mode-all`, `-query` and `-job` of Kylin 5;
    /// - `kylin.server.cluster-servers`, which was `kylin.rest.servers` before 2.0.
    ///
    /// The result is empty if none is set; Kylin is then the only node.
    ///
    /// In 3.1 and later, discovery may know more nodes than the file:
    /// [`self_discovery`](Properties::self_discovery).
    ///
    /// # Errors
    /// [`PropertyError::Value`] if an entry is not an address.
    pub fn cluster_servers(&self) -> Result<Vec<ServerAddr>, PropertyError> {
        if let Some(entry) = self.first(&["kylin.server.cluster-servers-with-mode"]) {
            return list(entry, ServerAddr::parse_with_mode, "host:port:mode, …");
        }
        let mut by_mode = Vec::new();
        for (key, roles) in [
            ("kylin.server.cluster-mode-all", Roles::ALL),
            ("kylin.server.cluster-mode-query", Role::Query.into()),
            ("kylin.server.cluster-mode-job", Role::Job.into()),
        ] {
            let Some(entry) = self.first(&[key]) else { continue };
            by_mode.extend(list(entry, |text| Some(ServerAddr::parse(text)?.serving(roles)), ADDRESSES)?);
        }
        match self.first(&["kylin.server.cluster-servers", "kylin.rest.servers"]) {
            Some(entry) if by_mode.is_empty() => list(entry, ServerAddr::parse, ADDRESSES),
            _ => Ok(by_mode),
        }
    }
}

const ADDRESSES: &str = "host:port or user:password@host:port, …";

/// Reads the entries of a list, each once.
fn list(
    entry: &Entry,
    read: impl Fn(&str) -> Option<ServerAddr>,
    expected: &'static str,
) -> Result<Vec<ServerAddr>, PropertyError> {
    let (mut servers, mut seen) = (Vec::new(), HashSet::new());
    for (at, text) in entry.value().split(',').enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let server = read(text).ok_or_else(|| entry.invalid(format!("{expected} (entry {} is not)", at + 1)))?;
        if seen.insert(server.clone()) {
            servers.push(server);
        }
    }
    Ok(servers)
}
