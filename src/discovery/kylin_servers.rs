//! The nodes that Kylin itself lists, obtained with requests to the nodes of the cluster.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use http::{HeaderValue, StatusCode};
use tokio::time::sleep;

use super::{DiscoveredNode, Discovery, DiscoveryError, MIN_INTERVAL};
use crate::backend::Backend;
use crate::backend::node_client::NodeClient;
use crate::basic_auth;
use crate::body::BoxError;
use crate::clock::{InvalidDuration, at_least, scaled};
use crate::cluster::Cluster;
use crate::cookie::CookieJar;
use crate::endpoint::{AdminState, Member, Roles};
use crate::error_chain::error_chain;
use crate::kylin::node::servers::{DISCOVERED, InvalidServerList, SERVERS, of_kylin3, of_kylin5};
use crate::kylin::properties::ServerAddr;
use crate::probe::InvalidProbe;

/// The time without requests after a refused login, because Kylin 5 locks a user after three wrong
/// passwords.
const REFUSED_LOGIN_DELAY: Duration = Duration::from_secs(600);

/// The nodes and roles that a node of the cluster lists.
///
/// The source sends `GET /kylin/api/system/servers?ext=true` (Kylin 5), or
/// `GET /kylin/api/service_discovery/state/all` (3 and 4, where nodes discover each other). Both
/// require a [`login`](Self::login).
///
/// The source starts with the given nodes and continues with the nodes that they list. At each
/// interval it asks one node, and the next one if that one lists none. It does not ask nodes of
/// [another cluster](crate::probe::MetastoreCheck).
///
/// A list is used as a whole or not at all. It must name a node that the cluster has, under the
/// same address. So write the first nodes as Kylin names them (`kylin.server.host-address`). A list
/// with the loopback address, which is Kylin's default, is used only if it comes from a node on the
/// loopback address.
///
/// ```
/// use kylin_lb::discovery::{self, DiscoveredNode, KylinServers};
/// # use kylin_lb::{Cluster, HttpBackend};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster: Cluster<HttpBackend> = Cluster::builder().build()?;
/// let servers = KylinServers::new(&cluster, [DiscoveredNode::new("10.0.0.1:7070")?]).login("ADMIN", "KYLIN")?;
/// # #[cfg(feature = "client")]
/// let handle = discovery::watch(&cluster, servers, DiscoveredNode::http);
/// # Ok(())
/// # }
/// ```
#[must_use]
pub struct KylinServers<B> {
    cluster: Cluster<B>,
    /// `None` once they have been yielded.
    first: Option<Vec<DiscoveredNode>>,
    /// Marked as sensitive, so that no `Debug` shows it.
    authorization: Option<HeaderValue>,
    interval: Duration,
    timeout: Duration,
    /// The session cookies of the source's own requests, by the uid of the endpoint.
    cookies: AHashMap<u64, CookieJar>,
    /// Rotates which node is asked first.
    rotation: usize,
    /// The time until the next request.
    delay: Option<Duration>,
}

impl<B: Backend> KylinServers<B> {
    /// Creates a source that starts with the nodes `first` and asks the nodes of `cluster`. The
    /// same cluster must be the one that [watches](super::watch) the source.
    pub fn new(cluster: &Cluster<B>, first: impl IntoIterator<Item = DiscoveredNode>) -> Self {
        KylinServers {
            cluster: cluster.clone(),
            first: Some(first.into_iter().collect()),
            authorization: None,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(3),
            cookies: AHashMap::new(),
            rotation: 0,
            delay: None,
        }
    }

    /// Sets the user for HTTP Basic; any user of Kylin is sufficient. `Debug` hides the password.
    /// If a node refuses the login, the source sends no request for ten minutes.
    ///
    /// # Errors
    /// [`InvalidProbe::User`] if the name of the user contains a colon (RFC 7617).
    pub fn login(mut self, user: &str, password: &str) -> Result<Self, InvalidProbe> {
        self.authorization = Some(basic_auth::authorization(user, password).ok_or(InvalidProbe::User)?);
        Ok(self)
    }

    /// Sets the interval of requests. Default: 30 s.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `interval` is below 10 ms.
    pub fn interval(mut self, interval: Duration) -> Result<Self, InvalidDuration> {
        self.interval = at_least(MIN_INTERVAL, interval, "interval")?;
        Ok(self)
    }

    /// Sets the timeout of a response. Default: 3 s.
    ///
    /// # Errors
    /// [`InvalidDuration`] if `timeout` is below 10 ms.
    pub fn timeout(mut self, timeout: Duration) -> Result<Self, InvalidDuration> {
        self.timeout = at_least(MIN_INTERVAL, timeout, "timeout")?;
        Ok(self)
    }

    /// Asks one node after another until one lists its nodes.
    async fn list(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let mut members = self.cluster.members();
        let address = |(member, _): &(Arc<Member>, Arc<B>)| Arc::clone(&member.settings.placement);
        let addresses: Vec<Arc<str>> = members.iter().map(address).collect();
        members.retain(|(member, _)| {
            member.settings.admin_state != AdminState::Maintenance && !member.live.health.is_quarantined()
        });
        // Unhealthy nodes come last, because they may still respond.
        members.sort_by_key(|(member, _)| member.is_withheld(false, true));
        let healthy = members.partition_point(|(member, _)| !member.is_withheld(false, true));
        if healthy > 0 {
            members[..healthy].rotate_left(self.rotation % healthy);
        }
        self.rotation = self.rotation.wrapping_add(1);
        self.cookies.retain(|uid, _| members.iter().any(|(member, _)| member.live.uid == *uid));
        let mut last_error = unavailable(WHAT.to_owned(), "the cluster has no node to ask".into());
        for (member, backend) in members {
            match self.list_from(&member, backend, &addresses).await {
                // Another node would probably refuse as well, and Kylin locks the user at the third
                // attempt.
                Err(error @ DiscoveryError::Denied { .. }) => {
                    self.delay = Some(REFUSED_LOGIN_DELAY);
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(endpoint = %member.settings.id, error = error_chain(&error), "node lists no nodes");
                    last_error = error;
                }
                nodes => return nodes,
            }
        }
        Err(last_error)
    }

    async fn list_from(
        &mut self,
        member: &Member,
        backend: Arc<B>,
        addresses: &[Arc<str>],
    ) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        let asked = &*member.settings.placement;
        let client = NodeClient::new(backend, asked, self.timeout);
        let cookies = self.cookies.entry(member.live.uid).or_default();
        let mut not_understood = InvalidServerList::NotUnderstood;
        for (path, read) in [(SERVERS, of_kylin5 as Reader), (DISCOVERED, of_kylin3)] {
            let location = format!("{asked}{path}");
            let response = client.get(path, self.authorization.as_ref(), cookies).await;
            let response = response.map_err(|error| unavailable(location.clone(), error.into()))?;
            match (response.status, response.body) {
                (StatusCode::UNAUTHORIZED, _) => {
                    let source = "the node requires a login, or refuses the configured one".into();
                    return Err(DiscoveryError::Denied { location, source });
                }
                (StatusCode::OK, Ok(body)) => match read(&body) {
                    Ok(servers) => {
                        let nodes = validate(&servers, asked, addresses, &location);
                        return nodes.map_err(|source| DiscoveryError::Invalid { location, source });
                    }
                    // A Kylin of the other generation may respond to any path with a page.
                    Err(error @ InvalidServerList::NotUnderstood) => not_understood = error,
                    Err(error) => return Err(DiscoveryError::Invalid { location, source: error.into() }),
                },
                (StatusCode::OK, Err(error)) => return Err(unavailable(location, error.into())),
                _ => {}
            }
        }
        Err(DiscoveryError::Invalid { location: WHAT.to_owned(), source: not_understood.into() })
    }
}

impl<B: Backend> Discovery for KylinServers<B> {
    async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Ok(first);
        }
        if let Some(delay) = self.delay {
            sleep(delay).await;
        }
        self.delay = Some(scaled(self.interval, 0.9 + 0.2 * fastrand::f64()));
        self.list().await
    }
}

impl<B> fmt::Debug for KylinServers<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KylinServers")
            .field("first", &self.first)
            .field("authorization", &self.authorization)
            .finish_non_exhaustive()
    }
}

const WHAT: &str = "Kylin's list of nodes";

type Reader = fn(&[u8]) -> Result<Vec<ServerAddr>, InvalidServerList>;

/// Returns the nodes of a list that the node at `asked` sent, if the list fits the cluster. The
/// cluster has nodes at `addresses`.
fn validate(
    servers: &[ServerAddr],
    asked: &str,
    addresses: &[Arc<str>],
    location: &str,
) -> Result<Vec<DiscoveredNode>, BoxError> {
    let mut nodes = Vec::with_capacity(servers.len());
    for server in servers {
        if is_loopback(server.host()) && !is_loopback(host_of(asked)) {
            let why = "it names the loopback address, which means that node alone: set kylin.server.host-address";
            return Err(why.into());
        }
        let node = DiscoveredNode::new(&server.to_string())?.with_source(location);
        nodes.push(node.with_roles(server.roles().unwrap_or(Roles::ALL)));
    }
    let is_member = |node: &DiscoveredNode| {
        addresses.iter().any(|own| DiscoveredNode::new(own).is_ok_and(|own| own.address() == node.address()))
    };
    if !nodes.is_empty() && !nodes.iter().any(is_member) {
        return Err("it names no node of the cluster: write the first nodes as Kylin names them".into());
    }
    Ok(nodes)
}

fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn unavailable(location: String, source: BoxError) -> DiscoveryError {
    DiscoveryError::Unavailable { location, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validated(servers: &[&str], host: &str, addresses: &[&str]) -> Result<usize, String> {
        let servers: Vec<ServerAddr> = servers.iter().map(|text| ServerAddr::parse(text).unwrap()).collect();
        let addresses: Vec<Arc<str>> = addresses.iter().map(|&text| text.into()).collect();
        validate(&servers, host, &addresses, "/x").map(|nodes| nodes.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_is_valid_if_it_fits_the_cluster() {
        assert_eq!(validated(&["a:7070", "b:7070"], "b:7070", &["B:7070"]), Ok(2));
        assert_eq!(validated(&[], "b:7070", &["b:7070"]), Ok(0));
        assert!(validated(&["a:7070"], "b:7070", &["b:7070"]).unwrap_err().contains("as Kylin names them"));
        for named in ["localhost:7070", "127.0.0.2:7070", "[::1]:7070", "[::ffff:127.0.0.1]:7070"] {
            let error = validated(&["b:7070", named], "b:7070", &["b:7070"]).unwrap_err();
            assert!(error.contains("kylin.server.host-address"), "{error}");
            assert_eq!(validated(&[named], "[::1]:7070", &[DiscoveredNode::new(named).unwrap().address()]), Ok(1));
        }
    }
}
