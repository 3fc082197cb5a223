mod answers;

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

use self::answers::Answer;
use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::clock::timer_in;
use crate::endpoint::Roles;

/// Nodes that DNS names: A and AAAA records with a port of one's own, or SRV records (RFC 2782). Asked again when the shortest time to
/// live of the answer is over.
///
/// An SRV record's target and port are the address, its weight is the endpoint's (0 counts as 1). Records of the lowest priority
/// number are primaries, all others backups. An answer counts for its first 256 nodes. That a name has no records is told as a
/// membership without nodes, which no cluster takes over.
pub struct Dns {
    question: Question,
    servers: Vec<SocketAddr>,
    roles: Roles,
    least: Duration,
    most: Duration,
    patience: Duration,
    resolver: Option<TokioResolver>,
    /// What was told last.
    told: Vec<DiscoveredNode>,
    /// Nothing was told yet, or an error since.
    untold: bool,
    /// When to ask again; `None` is now.
    due: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Question {
    Addresses(Name, u16),
    Services(Name),
}

/// A text that is not a name DNS can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain name: expected labels of 1 to 63 characters with dots between them")]
pub struct InvalidDns(String);

impl Dns {
    /// The nodes at the A and AAAA records of `name`, with this port. A name that ends in a dot is taken as it is; otherwise the
    /// system's search domains apply.
    ///
    /// # Errors
    /// [`InvalidDns`] when `name` is not a domain name.
    pub fn addresses(name: &str, port: u16) -> Result<Self, InvalidDns> {
        Ok(Dns::new(Question::Addresses(domain(name)?, port)))
    }

    /// The nodes of the SRV records of `name`, such as `_kylin._tcp.example.com.`.
    ///
    /// # Errors
    /// [`InvalidDns`] when `name` is not a domain name.
    pub fn services(name: &str) -> Result<Self, InvalidDns> {
        Ok(Dns::new(Question::Services(domain(name)?)))
    }

    fn new(question: Question) -> Self {
        Dns {
            question,
            servers: Vec::new(),
            roles: Roles::ALL,
            least: Duration::from_secs(5),
            most: Duration::from_secs(300),
            patience: Duration::from_secs(10),
            resolver: None,
            told: Vec::new(),
            untold: true,
            due: None,
        }
    }

    /// Asks these servers, over UDP and if need be TCP. Default: those of the system (`/etc/resolv.conf`).
    #[must_use]
    pub fn servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers = servers.into_iter().collect();
        self
    }

    /// Sets the roles of the nodes, which DNS does not tell. Default: all.
    #[must_use]
    pub fn roles(mut self, roles: impl Into<Roles>) -> Self {
        self.roles = roles.into();
        self
    }

    /// Sets bounds of the time until DNS is asked again, whatever the time to live. Default: 5 s, so that a time to live of 0 is
    /// no storm, to 5 min, so that a mistaken one of days is overcome.
    #[must_use]
    pub fn ttl_between(mut self, least: Duration, most: Duration) -> Self {
        self.least = least.max(Duration::from_millis(10));
        self.most = most.max(self.least);
        self
    }

    /// Sets how long an answer may take, tries at all servers included. Default: 10 s, in which two tries fit.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.max(Duration::from_millis(10));
        self
    }

    async fn ask(&mut self) -> Result<Answer, DiscoveryError> {
        let resolver = match &self.resolver {
            Some(resolver) => resolver,
            None => self
                .resolver
                .insert(resolver(&self.servers, self.patience).map_err(|error| self.question.fault(error))?),
        };
        let (question, told) = (&self.question, &self.told);
        let asked = timeout(self.patience, question.ask(resolver, told)).await;
        asked.map_err(|_| DiscoveryError::Timeout(format!("DNS for {question}")))?
    }
}

impl Discovery for Dns {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
            let answer = match self.ask().await {
                Ok(answer) => answer,
                Err(error) => {
                    // What the system says of its servers may have changed.
                    (self.due, self.untold, self.resolver) = (None, true, None);
                    return Err(error);
                }
            };
            let ttl = answer.ttl.unwrap_or(self.least).clamp(self.least, self.most);
            self.due = Some(timer_in(ttl));
            let source = self.question.to_string();
            let found = answer.found.into_iter().map(|found| found.with_roles(self.roles).with_source(source.as_str()));
            let found: Vec<DiscoveredNode> = found.collect();
            if self.untold || self.told != found {
                self.untold = false;
                self.told.clone_from(&found);
                return Ok(found);
            }
        }
    }
}

impl Question {
    async fn ask(&self, resolver: &TokioResolver, told: &[DiscoveredNode]) -> Result<Answer, DiscoveryError> {
        match self {
            Question::Services(name) => {
                let lookup = self.known(resolver.lookup(name.clone(), RecordType::SRV).await)?;
                Ok(lookup.map_or_else(Answer::default, |lookup| answers::services(lookup.answers())))
            }
            Question::Addresses(name, port) => {
                // One after the other: two questions each few seconds are no load, and one failure is enough.
                let v4 = self.known(resolver.lookup(name.clone(), RecordType::A).await);
                let v6 = self.known(resolver.lookup(name.clone(), RecordType::AAAA).await);
                // A server that cannot answer one of the two is common, and no reason to do without the other, unless nodes would go.
                let had = |v6| told.iter().any(|found| found.address().starts_with('[') == v6);
                let (v4, v6) = match (v4, v6) {
                    (Ok(v4), Ok(v6)) => (v4, v6),
                    (Ok(Some(v4)), Err(_)) if !had(true) => (Some(v4), None),
                    (Err(_), Ok(Some(v6))) if !had(false) => (None, Some(v6)),
                    (Err(error), _) | (_, Err(error)) => return Err(error),
                };
                let records = v4.iter().chain(&v6).flat_map(|lookup| lookup.answers());
                Ok(answers::addresses(records, *port))
            }
        }
    }

    /// The answer, `None` when it is that there are no records.
    fn known(&self, lookup: Result<Lookup, NetError>) -> Result<Option<Lookup>, DiscoveryError> {
        match lookup {
            Ok(lookup) => Ok(Some(lookup)),
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error) => Err(self.fault(error)),
        }
    }

    fn fault(&self, error: NetError) -> DiscoveryError {
        let place = format!("DNS for {self}");
        match error {
            NetError::Timeout => DiscoveryError::Timeout(place),
            error => DiscoveryError::Unavailable { place, source: error.into() },
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Question::Addresses(name, _) => write!(f, "addresses of {name}"),
            Question::Services(name) => write!(f, "services of {name}"),
        }
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Dns");
        debug.field("question", &self.question).field("servers", &self.servers).field("told", &self.told);
        debug.finish_non_exhaustive()
    }
}

fn domain(name: &str) -> Result<Name, InvalidDns> {
    let invalid = || InvalidDns(name.chars().take(255).collect());
    let read = Name::from_str_relaxed(name).map_err(|_| invalid())?;
    if name.is_empty() || read.is_root() { Err(invalid()) } else { Ok(read) }
}

fn resolver(servers: &[SocketAddr], patience: Duration) -> Result<TokioResolver, NetError> {
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
    // How long an answer counts is decided here.
    builder.options_mut().cache_size = 0;
    builder.options_mut().timeout = patience / 3;
    builder.build()
}
