mod records;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::{Instant, sleep_until, timeout};

use self::records::ResolvedNodes;
use super::{DiscoveredNode, Discovery, DiscoveryError, MIN_INTERVAL};
use crate::clock::{InvalidDuration, at_least, timer_in};
use crate::endpoint::Roles;

/// Nodes from DNS: A and AAAA records with a fixed port, or SRV records (RFC 2782).
///
/// The name is resolved again when the shortest time to live of the records has elapsed.
///
/// The target and port of an SRV record are the address. Its weight is that of the endpoint; 0
/// counts as 1. Records with the lowest priority number are primaries, all others backups. At most
/// 256 nodes of a response are used. A name without records yields a membership without nodes,
/// which no cluster applies.
#[derive(Debug)]
pub struct Dns {
    query: DnsQuery,
    servers: Vec<SocketAddr>,
    roles: Roles,
    min_ttl: Duration,
    max_ttl: Duration,
    timeout: Duration,
    resolver: Option<TokioResolver>,
    /// The nodes of the last update.
    last: Vec<DiscoveredNode>,
    /// Whether the next result is an update even if the nodes are unchanged: at first, and after an
    /// error.
    is_update_due: bool,
    /// The time of the next lookup; `None` means at once.
    due: Option<Instant>,
}

#[derive(Debug, Clone)]
enum DnsQuery {
    Addresses(Name, u16),
    Services(Name),
}

/// The error for a text that is not a domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain name: expected labels of 1 to 63 characters with dots between them")]
pub struct InvalidDns(String);

impl InvalidDns {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}

impl Dns {
    /// Creates a source of the A and AAAA records of `name`, with this port. The system's search
    /// domains apply unless the name ends in a dot.
    ///
    /// # Errors
    /// [`InvalidDns`] if `name` is not a domain name.
    pub fn addresses(name: &str, port: u16) -> Result<Self, InvalidDns> {
        Ok(Dns::new(DnsQuery::Addresses(domain_name(name)?, port)))
    }

    /// Creates a source of the SRV records of `name`, such as `_kylin._tcp.example.com.`.
    ///
    /// # Errors
    /// [`InvalidDns`] if `name` is not a domain name.
    pub fn services(name: &str) -> Result<Self, InvalidDns> {
        Ok(Dns::new(DnsQuery::Services(domain_name(name)?)))
    }

    fn new(query: DnsQuery) -> Self {
        Dns {
            query,
            servers: Vec::new(),
            roles: Roles::ALL,
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(300),
            timeout: Duration::from_secs(10),
            resolver: None,
            last: Vec::new(),
            is_update_due: true,
            due: None,
        }
    }

    /// Sets the DNS servers, which are queried over UDP and, if needed, TCP. Default: the system's
    /// servers (`/etc/resolv.conf`).
    #[must_use]
    pub fn servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Sets the roles of all nodes. Default: every role.
    #[must_use]
    pub fn roles(mut self, roles: impl Into<Roles>) -> Self {
        self.roles = roles.into();
        self
    }

    /// Sets the bounds of the time to live. Default: 5 s to 5 min. The minimum limits the load of a
    /// time to live of 0, the maximum the effect of one that is too long by mistake.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `min` is below 10 ms, or `max` is below `min`.
    pub fn ttl_between(mut self, min: Duration, max: Duration) -> Result<Self, InvalidDuration> {
        self.min_ttl = at_least(MIN_INTERVAL, min, "minimum time to live")?;
        self.max_ttl = at_least(min, max, "maximum time to live")?;
        Ok(self)
    }

    /// Sets the timeout of a lookup, including all its attempts at all servers. Default: 10 s,
    /// which allows three attempts.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `timeout` is below 10 ms.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, InvalidDuration> {
        self.timeout = at_least(MIN_INTERVAL, timeout, "timeout")?;
        Ok(self)
    }

    async fn resolve(&mut self) -> Result<ResolvedNodes, DiscoveryError> {
        let resolver = match &mut self.resolver {
            Some(resolver) => resolver,
            empty => empty.insert(resolver(&self.servers, self.timeout).map_err(|error| self.query.error(error))?),
        };
        let lookup = timeout(self.timeout, self.query.resolve(resolver, &self.last)).await;
        lookup.unwrap_or_else(|_| Err(DiscoveryError::Timeout(self.query.location())))
    }
}

impl Discovery for Dns {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
            let resolved = match self.resolve().await {
                Ok(resolved) => resolved,
                Err(error) => {
                    // The system's list of servers may have changed, so a new resolver is made.
                    (self.due, self.is_update_due, self.resolver) = (None, true, None);
                    return Err(error);
                }
            };
            self.due = Some(timer_in(resolved.ttl.unwrap_or(self.min_ttl).clamp(self.min_ttl, self.max_ttl)));
            let source = self.query.to_string();
            let with_settings = |node: DiscoveredNode| node.with_roles(self.roles).with_source(source.as_str());
            let nodes: Vec<DiscoveredNode> = resolved.nodes.into_iter().map(with_settings).collect();
            if std::mem::take(&mut self.is_update_due) || self.last != nodes {
                self.last.clone_from(&nodes);
                return Ok(nodes);
            }
        }
    }
}

impl DnsQuery {
    async fn resolve(
        &self,
        resolver: &TokioResolver,
        last: &[DiscoveredNode],
    ) -> Result<ResolvedNodes, DiscoveryError> {
        match self {
            DnsQuery::Services(name) => {
                let lookup = self.lookup(resolver, name, RecordType::SRV).await?;
                Ok(lookup.map_or_else(ResolvedNodes::default, |lookup| records::services(lookup.answers())))
            }
            DnsQuery::Addresses(name, port) => {
                let v4 = self.lookup(resolver, name, RecordType::A).await;
                let v6 = self.lookup(resolver, name, RecordType::AAAA).await;
                // Servers that fail for one address family are common. The other family is enough
                // unless the failure would remove nodes.
                let had = |is_v6| last.iter().any(|node| node.address().starts_with('[') == is_v6);
                let (v4, v6) = match (v4, v6) {
                    (Ok(v4), Ok(v6)) => (v4, v6),
                    (Ok(Some(v4)), Err(_)) if !had(true) => (Some(v4), None),
                    (Err(_), Ok(Some(v6))) if !had(false) => (None, Some(v6)),
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                };
                let records = v4.iter().chain(&v6).flat_map(|lookup| lookup.answers());
                Ok(records::addresses(records, *port))
            }
        }
    }

    /// Looks up records. Returns `None` if the name has none.
    async fn lookup(
        &self,
        resolver: &TokioResolver,
        name: &Name,
        kind: RecordType,
    ) -> Result<Option<Lookup>, DiscoveryError> {
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => Ok(Some(lookup)),
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    fn location(&self) -> String {
        format!("DNS for {self}")
    }

    fn error(&self, error: NetError) -> DiscoveryError {
        match error {
            NetError::Timeout => DiscoveryError::Timeout(self.location()),
            error => DiscoveryError::Unavailable { location: self.location(), source: error.into() },
        }
    }
}

impl fmt::Display for DnsQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DnsQuery::Addresses(name, _) => write!(f, "addresses of {name}"),
            DnsQuery::Services(name) => write!(f, "services of {name}"),
        }
    }
}

fn domain_name(name: &str) -> Result<Name, InvalidDns> {
    let invalid = || InvalidDns(name.chars().take(255).collect());
    let parsed = Name::from_str_relaxed(name).map_err(|_| invalid())?;
    if name.is_empty() || parsed.is_root() { Err(invalid()) } else { Ok(parsed) }
}

fn resolver(servers: &[SocketAddr], timeout: Duration) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        Resolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp].map(|protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        Resolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    // `Dns` applies the time to live itself.
    builder.options_mut().cache_size = 0;
    builder.options_mut().timeout = timeout / 3;
    builder.build()
}
