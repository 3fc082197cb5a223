//! The nodes that Kylin itself knows, asked of the nodes of the cluster.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use http::StatusCode;
use tokio::time::sleep;

use super::{DiscoveredNode, Discovery, DiscoveryError};
use crate::backend::Backend;
use crate::cluster::Cluster;
use crate::cookie::CookieJar;
use crate::endpoint::{AdminState, Member};
use crate::kylin::properties::ServerAddr;
use crate::kylin::servers::{DISCOVERED, NoServers, SERVERS, of_kylin3, of_kylin5};
use crate::probe::InvalidProbe;
use crate::probe::ask::{Login, get};

/// How long nothing is asked after a login was refused: Kylin 5 locks a user after three wrong passwords.
const LOGIN_PAUSE: Duration = Duration::from_secs(600);

/// The nodes and roles that a node of the cluster lists: `GET /kylin/api/system/servers?ext=true` (Kylin 5), or
/// `GET /kylin/api/service_discovery/state/all` (3 and 4, where nodes discover each other). Both ask for a [`login`](Self::login).
///
/// It begins with the nodes that it is given, and goes on with those that they list. Each time one node is asked, and the next one
/// when it does not tell; nodes that [belong to another cluster](crate::probe::MetastoreCheck) are not asked. A list is believed
/// only as a whole, and only if it names a node that the cluster has, under the same address: write the first nodes as Kylin names them
/// (`kylin.server.host-address`). From a node of another machine no list is believed that names the loopback address,
/// which is where a node is by default. What is not believed, or is empty, changes nothing.
///
/// ```
/// use kylin_lb::discovery::{self, DiscoveredNode, KylinServers};
/// # use kylin_lb::{Cluster, HttpBackend};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster: Cluster<HttpBackend> = Cluster::builder().build()?;
/// let servers = KylinServers::new(&cluster, [DiscoveredNode::new("10.0.0.1:7070")?]).login("ADMIN", "KYLIN")?;
/// # #[cfg(feature = "client")]
/// let follow = discovery::watch(&cluster, servers, DiscoveredNode::http);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct KylinServers<B> {
    cluster: Cluster<B>,
    first: Vec<DiscoveredNode>,
    login: Option<Login>,
    interval: Duration,
    timeout: Duration,
    /// By the endpoint's uid.
    visited: AHashMap<u64, CookieJar>,
    turn: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// The nodes that were given have been told.
    Begun,
    /// The next question is due after the interval.
    Asking,
    Paused,
}

impl<B: Backend> KylinServers<B> {
    /// Begins with these nodes, and asks the nodes of `cluster`, which it is to be followed by.
    pub fn new(cluster: &Cluster<B>, first: impl IntoIterator<Item = DiscoveredNode>) -> Self {
        KylinServers {
            cluster: cluster.clone(),
            first: first.into_iter().collect(),
            login: None,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            visited: AHashMap::new(),
            turn: 0,
            state: State::New,
        }
    }

    /// Logs in with HTTP Basic, as any user. It is never shown. When a node refuses it, nothing is asked for ten minutes.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] when the user's name contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        self.login = Some(Login::new(user, password)?);
        Ok(self)
    }

    /// How often is asked. Default 30 s: how a node fares is seen by its health, and that one is new can wait.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// How long a node may take to answer. Default 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks one node after the other until one tells.
    async fn ask(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let mut members = self.cluster.members();
        members.retain(|(member, _)| {
            member.settings.admin_state != AdminState::Maintenance && !member.live.health.is_outsider()
        });
        // Those that are out of service come last: they may know all the same.
        members.sort_by_key(|(member, _)| member.is_barred(false));
        let fit = members.iter().filter(|(member, _)| !member.is_barred(false)).count();
        if fit > 0 {
            members[..fit].rotate_left(self.turn % fit);
        }
        self.turn = self.turn.wrapping_add(1);
        self.visited.retain(|uid, _| members.iter().any(|(member, _)| member.live.uid == *uid));
        let addresses: Vec<Arc<str>> =
            self.cluster.members().iter().map(|(member, _)| Arc::clone(&member.settings.placement)).collect();
        let mut last = None;
        for (member, backend) in members {
            match self.ask_one(&member, &*backend, &addresses).await {
                Err(DiscoveryError::Refused { place, source }) => {
                    // The next one would most likely refuse, too, and after the third the user may be locked.
                    self.state = State::Paused;
                    return Err(DiscoveryError::Refused { place, source });
                }
                Err(error) => {
                    tracing::debug!(endpoint = %member.settings.id, error = super::chain(&error), "an endpoint lists no nodes");
                    last = Some(error);
                }
                told => return told,
            }
        }
        let nobody =
            || DiscoveryError::Unavailable { place: PLACE.to_owned(), source: "there is no node to ask".into() };
        Err(last.unwrap_or_else(nobody))
    }

    async fn ask_one(
        &mut self,
        member: &Member,
        backend: &B,
        addresses: &[Arc<str>],
    ) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let host = &*member.settings.placement;
        let place = |path: &str| format!("{host}{path}");
        let cookies = self.visited.entry(member.live.uid).or_default();
        let mut why = NoServers::NotUnderstood;
        for (path, read) in [(SERVERS, of_kylin5 as Reader), (DISCOVERED, of_kylin3)] {
            let reply = get(backend, host, path, self.login.as_ref(), cookies, self.timeout).await;
            let reply =
                reply.map_err(|source| DiscoveryError::Unavailable { place: place(path), source: source.into() })?;
            match (reply.status, reply.body) {
                (StatusCode::UNAUTHORIZED, _) => {
                    let source = "it asks for a login, or refuses the one there is".into();
                    return Err(DiscoveryError::Refused { place: place(path), source });
                }
                (StatusCode::OK, Some(body)) => match read(&body) {
                    Ok(servers) => {
                        let found = believed(&servers, host, addresses, path);
                        return found.map_err(|source| DiscoveryError::Invalid { place: place(path), source });
                    }
                    // A Kylin of the other generation may have a page for any path.
                    Err(error) if error != NoServers::NotUnderstood => {
                        return Err(DiscoveryError::Invalid { place: place(path), source: error.into() });
                    }
                    Err(error) => why = error,
                },
                _ => {}
            }
        }
        Err(DiscoveryError::Invalid { place: PLACE.to_owned(), source: why.into() })
    }
}

const PLACE: &str = "the list of nodes that Kylin knows";

type Reader = fn(&[u8]) -> Result<Vec<ServerAddr>, NoServers>;

/// The nodes of a list, if it is fit for those at `addresses`, of which the one at `host` gave it.
fn believed(
    servers: &[ServerAddr],
    host: &str,
    addresses: &[Arc<str>],
    path: &str,
) -> Result<Vec<DiscoveredNode>, crate::body::BoxError> {
    let mut found = Vec::with_capacity(servers.len());
    for server in servers {
        if is_loopback(server.host()) && !is_loopback(host_of(host)) {
            return Err(
                "it names the loopback address, where that node is and nobody else: set kylin.server.host-address"
                    .into(),
            );
        }
        let node = DiscoveredNode::new(&server.to_string())?.with_source(format!("{host}{path}"));
        found.push(match server.roles() {
            Some(roles) => node.with_roles(roles),
            None => node,
        });
    }
    let has = |found: &DiscoveredNode| {
        addresses.iter().any(|address| DiscoveredNode::new(address).is_ok_and(|own| own.address() == found.address()))
    };
    if !found.is_empty() && !found.iter().any(has) {
        return Err("it names no node that the cluster has: write its first nodes as Kylin names them".into());
    }
    Ok(found)
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl<B: Backend> Discovery for KylinServers<B> {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        match self.state {
            State::New => {
                self.state = State::Begun;
                if !self.first.is_empty() {
                    return Ok(self.first.clone());
                }
            }
            State::Begun => {}
            State::Asking => sleep(self.interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await,
            State::Paused => sleep(LOGIN_PAUSE).await,
        }
        self.state = State::Asking;
        self.ask().await
    }
}

impl<B> fmt::Debug for KylinServers<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KylinServers").field("first", &self.first).field("login", &self.login).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(servers: &[&str], host: &str, addresses: &[&str]) -> Result<usize, String> {
        let servers: Vec<ServerAddr> = servers.iter().map(|text| ServerAddr::parse(text).unwrap()).collect();
        let addresses: Vec<Arc<str>> = addresses.iter().map(|&text| text.into()).collect();
        believed(&servers, host, &addresses, "/x").map(|found| found.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_believed_when_it_fits_what_is_known() {
        assert_eq!(read(&["a:7070", "b:7070"], "b:7070", &["B:7070"]), Ok(2));
        assert_eq!(read(&[], "b:7070", &["b:7070"]), Ok(0));
        assert!(read(&["a:7070"], "b:7070", &["b:7070"]).unwrap_err().contains("as Kylin names them"));
        for named in ["localhost:7070", "127.0.0.2:7070", "[::1]:7070", "[::ffff:127.0.0.1]:7070"] {
            let error = read(&["b:7070", named], "b:7070", &["b:7070"]).unwrap_err();
            assert!(error.contains("kylin.server.host-address"), "{error}");
            assert_eq!(read(&[named], "[::1]:7070", &[DiscoveredNode::new(named).unwrap().address()]), Ok(1));
        }
    }
}
