//! The endpoints of an upstream, one for each address of each server. The names of servers are
//! looked up again while the site runs.

mod lookup;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;

pub(super) use self::lookup::LookedUp;
use self::lookup::{LOOKUP_TIMEOUT, ask_dns, asks_dns, some};
use super::{Site, SiteError, clusters};
use crate::backend::HttpBackend;
use crate::backend::http1::Address;
use crate::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::nginx::applied::Applied;
use crate::nginx::directives::upstream::{Upstream, UpstreamServer};

/// A good interval for [`Site::start_name_lookups`]: the usual DNS time to live of services that
/// move.
pub const NAME_LOOKUP_INTERVAL: Duration = Duration::from_secs(30);

/// The endpoints of an upstream, by server.
#[derive(Clone)]
pub(super) struct UpstreamEndpoints {
    upstream: Upstream,
    /// The settings that apply. They help to decide whether an endpoint of an earlier site may stay
    /// as it is.
    applied: Applied,
    /// The endpoints, parallel to the servers of the upstream.
    servers: Vec<Vec<ServerEndpoint>>,
}

#[derive(Clone)]
struct ServerEndpoint {
    address: Address,
    endpoint: Endpoint<HttpBackend>,
}

impl UpstreamEndpoints {
    /// Finds the addresses of the servers with `look_up`. Endpoints of the same server in `before`
    /// keep their ids, and their connections if the settings are the same. A name that cannot be
    /// looked up keeps its addresses of `before`.
    pub(super) fn look_up(
        upstream: &Upstream,
        applied: &Applied,
        before: Option<&Self>,
        look_up: impl Fn(&Address) -> io::Result<Vec<Address>>,
    ) -> Result<Self, SiteError> {
        let mut endpoints =
            UpstreamEndpoints { upstream: upstream.clone(), applied: applied.clone(), servers: Vec::new() };
        let mut times: HashMap<&str, usize> = HashMap::new();
        for server in &upstream.servers {
            // nginx accepts the same server line twice.
            let time = times.entry(&server.written).and_modify(|time| *time += 1).or_insert(1);
            let before = before.and_then(|before| before.of_server(&server.written, *time));
            let addresses = match (&server.address, look_up(&server.address), before) {
                (_, Ok(addresses), _) => addresses,
                (Address::Name(..), Err(error), Some((_, had))) => {
                    tracing::warn!(upstream = upstream.name, server = server.written, %error, "the name of a server cannot be looked up; its last addresses stay");
                    had.iter().map(|one| one.address.clone()).collect()
                }
                (Address::Name(..), Err(error), None) if server.resolve || server.is_of_variable => {
                    tracing::warn!(upstream = upstream.name, server = server.written, %error, "the name of a server cannot be looked up; its requests are 503 until it can");
                    Vec::new()
                }
                (_, Err(source), _) => {
                    let server = server.written.clone();
                    let upstream = match &upstream.place {
                        Some(place) => format!("{} of the proxy_pass at {place}", upstream.name),
                        None => upstream.name.clone(),
                    };
                    return Err(SiteError::HostNotFound { upstream, server, source });
                }
            };
            let had = before.map(|(_, had)| had).unwrap_or_default();
            let stays = before.is_some_and(|(before, _)| before.has_settings_of(server, &endpoints));
            let made = endpoints.of_addresses(server, addresses, had, stays)?;
            endpoints.servers.push(made);
        }
        Ok(endpoints)
    }

    /// Returns whether the cluster drains stopping nodes.
    pub(super) fn drains(&self) -> bool {
        self.applied.drain.value
    }

    /// Returns whether some server has an address that differs from its text in the file.
    pub(super) fn differ_from_text(&self) -> bool {
        self.upstream.servers.iter().any(|server| server.address.to_string() != server.written)
    }

    /// Returns the address of the endpoint with this id.
    pub(super) fn address(&self, id: &str) -> Option<&Address> {
        self.servers.iter().flatten().find(|one| one.endpoint.id().as_str() == id).map(|one| &one.address)
    }

    /// Returns the endpoints in the order of the file.
    pub(super) fn endpoints(&self) -> Vec<Endpoint<HttpBackend>> {
        self.servers.iter().flatten().map(|one| one.endpoint.clone()).collect()
    }

    /// Returns the endpoints of the `time`th server with the text `written`, with their upstream.
    fn of_server(&self, written: &str, time: usize) -> Option<(&Self, &[ServerEndpoint])> {
        let mut named = self.upstream.servers.iter().zip(&self.servers).filter(|(server, _)| server.written == written);
        named.nth(time - 1).map(|(_, endpoints)| (self, &endpoints[..]))
    }

    /// Returns the servers whose names are still unknown, with the upstream.
    fn without_address(&self) -> Vec<(String, String)> {
        let servers = self.upstream.servers.iter().zip(&self.servers).filter(|(_, endpoints)| endpoints.is_empty());
        servers.map(|(server, _)| (self.upstream.name.clone(), server.written.clone())).collect()
    }

    /// Returns whether the endpoints of `server` have the same settings in `new` as here.
    /// Certificates are read again.
    fn has_settings_of(&self, server: &UpstreamServer, new: &Self) -> bool {
        let settings = |of: &Self| {
            let Upstream { keepalive, keepalive_requests, keepalive_time, keepalive_timeout, head_bytes, .. } =
                of.upstream;
            (keepalive, keepalive_requests, keepalive_time, keepalive_timeout, head_bytes, of.applied.outlier.value)
        };
        let is_plain = |of: &Self| !matches!(of.upstream.passed, Some(Some(_)));
        let has = self.upstream.servers.iter().any(|own| own == server);
        has && is_plain(self) && is_plain(new) && settings(self) == settings(new)
    }

    /// Makes the endpoints of a server. Addresses in `had` keep their order and their ids, to which
    /// live state and sessions belong. New addresses follow.
    fn of_addresses(
        &self,
        server: &UpstreamServer,
        mut addresses: Vec<Address>,
        had: &[ServerEndpoint],
        stays: bool,
    ) -> Result<Vec<ServerEndpoint>, SiteError> {
        let place = |address: &Address| had.iter().position(|one| one.address == *address).unwrap_or(had.len());
        addresses.sort_by_key(place);
        let is_alone = addresses.len() == 1;
        let mut made: Vec<ServerEndpoint> = Vec::new();
        for address in addresses {
            let own = had.iter().find(|one| one.address == address);
            if let Some(own) = own.filter(|_| stays) {
                made.push(own.clone());
                continue;
            }
            let id = match own {
                Some(own) => own.endpoint.id().as_str().to_owned(),
                None if is_alone => self.free_id(&server.written, &made),
                None => self.free_id(&format!("{}/{address}", server.written), &made),
            };
            let endpoint = clusters::endpoint(id, &self.upstream, server, address.clone(), &self.applied)?;
            made.push(ServerEndpoint { address, endpoint });
        }
        Ok(made)
    }

    /// Returns `wanted`, with a number appended if another endpoint of the upstream already has
    /// this id.
    fn free_id(&self, wanted: &str, made: &[ServerEndpoint]) -> String {
        let is_taken = |id: &str| self.servers.iter().flatten().chain(made).any(|one| one.endpoint.id().as_str() == id);
        let numbered = (2..).map(|time| format!("{wanted}#{time}"));
        std::iter::once(wanted.to_owned()).chain(numbered).find(|id| !is_taken(id)).unwrap_or_default()
    }

    /// Sets the addresses of the server at `index`. Returns whether they changed.
    fn update(&mut self, index: usize, addresses: Vec<Address>) -> Result<bool, SiteError> {
        let had = std::mem::take(&mut self.servers[index]);
        let same =
            addresses.len() == had.len() && addresses.iter().all(|new| had.iter().any(|one| one.address == *new));
        if same {
            self.servers[index] = had;
            return Ok(false);
        }
        let server = self.upstream.servers[index].clone();
        match self.of_addresses(&server, addresses, &had, true) {
            Ok(made) => self.servers[index] = made,
            Err(error) => {
                self.servers[index] = had;
                return Err(error);
            }
        }
        Ok(true)
    }
}

/// Looks up names until it is dropped: see [`Site::start_name_lookups`].
#[must_use = "dropping it ends the lookups"]
#[derive(Debug)]
pub struct NameLookups {
    /// The task, which is aborted when the set is dropped.
    _task: JoinSet<()>,
}

impl Site {
    /// Looks up the names of servers again every `interval`, until the returned value is dropped.
    /// It must be called within a tokio runtime. The shortest interval is 10 ms.
    ///
    /// The endpoints of an upstream follow the addresses. An endpoint that stays keeps its id, live
    /// state, sessions and connections. A new one has a slow start if the file sets one. Requests
    /// in flight to a removed one continue. When addresses change, weights that were set in the
    /// cluster become those of the file again. A name whose lookup fails or takes over 15 s keeps
    /// its last addresses, with one warning, and is looked up again within 30 s.
    ///
    /// nginx does this only for `server ... resolve` (1.27.3). With the feature `dns`, the names of
    /// such servers are looked up at the DNS servers of `resolver`. The system resolver
    /// (`getaddrinfo`) looks up all other names. The same holds for the lookups at the start.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_name_lookups(&self, interval: Duration) -> NameLookups {
        let parts = Arc::clone(&self.parts);
        self.look_up_every(interval, move |server, host, port| {
            let resolvers = asks_dns(&parts.config, server).then(|| parts.config.resolvers.servers.clone());
            async move {
                match resolvers {
                    Some(resolvers) => ask_dns(&resolvers, &host, port).await,
                    None => tokio::net::lookup_host((host, port)).await.map(Iterator::collect),
                }
            }
        })
    }

    /// Returns the lookup interval of the configuration: the shortest `valid=` of its `resolver`
    /// lines, else [`NAME_LOOKUP_INTERVAL`].
    pub fn name_lookup_interval(&self) -> Duration {
        self.parts.config.resolvers.valid.unwrap_or(NAME_LOOKUP_INTERVAL)
    }

    /// Looks up names as [`start_name_lookups`](Self::start_name_lookups) does, but with `lookup`,
    /// which gets a host and a port.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[cfg(any(test, feature = "test-util"))]
    pub fn start_name_lookups_with<L, F>(&self, interval: Duration, lookup: L) -> NameLookups
    where
        L: Fn(String, u16) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Vec<std::net::SocketAddr>>> + Send,
    {
        self.look_up_every(interval, move |_, host, port| lookup(host, port))
    }

    fn look_up_every<L, F>(&self, interval: Duration, lookup: L) -> NameLookups
    where
        L: Fn(&UpstreamServer, String, u16) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send,
    {
        let site = self.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut failing: Vec<_> =
                site.parts.endpoints.iter().flat_map(|endpoints| endpoints.lock().without_address()).collect();
            loop {
                let interval = if failing.is_empty() { interval } else { interval.min(NAME_LOOKUP_INTERVAL) };
                tokio::time::sleep(interval.max(Duration::from_millis(10))).await;
                for (endpoints, cluster) in site.parts.endpoints.iter().zip(&site.parts.clusters) {
                    refresh(endpoints, cluster, &lookup, &mut failing).await;
                }
            }
        });
        NameLookups { _task: task }
    }
}

/// Looks up the names of one upstream, and updates its cluster.
async fn refresh<L, F>(
    endpoints: &Arc<Mutex<UpstreamEndpoints>>,
    cluster: &Cluster,
    lookup: &L,
    failing: &mut Vec<(String, String)>,
) where
    L: Fn(&UpstreamServer, String, u16) -> F,
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let upstream = endpoints.lock().upstream.clone();
    let mut changed = false;
    for (index, server) in upstream.servers.iter().enumerate() {
        let Address::Name(host, port) = &server.address else { continue };
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup(server, host.clone(), *port)).await;
        let found =
            found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|found| some(found.into_iter()));
        let place = (upstream.name.clone(), server.written.clone());
        let updated = match found {
            Ok(addresses) => {
                failing.retain(|known| *known != place);
                endpoints.lock().update(index, addresses).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        match updated {
            Ok(differs) => changed |= differs,
            Err(_) if failing.contains(&place) => {}
            Err(error) => {
                let (upstream, server) = &place;
                tracing::warn!(
                    upstream,
                    server,
                    error,
                    "the name of a server cannot be looked up; its last addresses stay"
                );
                failing.push(place);
            }
        }
    }
    if changed {
        let all = endpoints.lock().endpoints();
        let ids = all.iter().map(|endpoint| endpoint.id().as_str()).collect::<Vec<_>>().join(" ");
        match cluster.replace(all) {
            Ok(()) => {
                tracing::info!(upstream = upstream.name, endpoints = ids, "the names of servers have other addresses")
            }
            Err(error) => tracing::error!(upstream = upstream.name, %error, "new addresses cannot be used"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::applied::applied;
    use crate::nginx::{Config, options::KylinOptions};

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_unknown_at_the_start_is_looked_up_soon() {
        // The label is too long for DNS, so no lookup asks a server.
        let name = "a".repeat(70);
        let text = format!(
            "server {{ listen 1; resolver 127.0.0.1 valid=1h; set $later {name}; location / {{ proxy_pass http://$later:7070; }} }}"
        );
        let site = Site::builder(Config::parse("kylin.conf", &text).unwrap()).build().unwrap();
        let cluster = site.clusters().next().unwrap().1.clone();
        assert!(cluster.status().endpoints.is_empty());
        let start = tokio::time::Instant::now();
        let found = |_, port| std::future::ready(Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]));
        let _lookups = site.start_name_lookups_with(site.name_lookup_interval(), found);
        while cluster.status().endpoints.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(start.elapsed() < NAME_LOOKUP_INTERVAL + Duration::from_secs(2), "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_fails_or_hangs_is_repeated_soon() {
        let text = "upstream kylin { server localhost:7070; }
            server { listen 1; location / { proxy_pass http://kylin; } }";
        let site = Site::builder(Config::parse("kylin.conf", text).unwrap()).build().unwrap();
        let (times, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let hour = Duration::from_secs(3600);
        let start = tokio::time::Instant::now();
        let _lookups = site.start_name_lookups_with(hour, move |_, port| {
            let times = times.clone();
            async move {
                let at = start.elapsed();
                _ = times.send(at);
                match at {
                    at if at <= hour => Err(io::Error::other("no server responds")),
                    at if at <= hour + NAME_LOOKUP_INTERVAL + Duration::from_secs(1) => std::future::pending().await,
                    _ => Ok(vec![([127, 0, 0, 1], port).into()]),
                }
            }
        });
        let mut expected = hour;
        let (hanging, good) = (LOOKUP_TIMEOUT + NAME_LOOKUP_INTERVAL, hour);
        for until_next in [NAME_LOOKUP_INTERVAL, hanging, good, good] {
            let at = seen.recv().await.unwrap();
            assert!(at >= expected && at < expected + Duration::from_secs(1), "{at:?}, not {expected:?}");
            expected = at + until_next;
        }
    }

    #[test]
    fn a_name_that_cannot_be_looked_up_at_a_reload_keeps_its_addresses() {
        let text = "upstream kylin { server nodes.example:7070; server 10.0.0.9:7070; }
            server { listen 1; location / { proxy_pass http://kylin; } }";
        let config = Config::parse("kylin.conf", text).unwrap();
        let (upstream, applied) = (&config.upstreams[0], &applied(&config, &KylinOptions::default())[0]);
        let finds = |address: &Address| match address {
            Address::Name(..) => some(["10.0.0.1:7070", "10.0.0.2:7070"].map(|one| one.parse().unwrap()).into_iter()),
            _ => Ok(vec![address.clone()]),
        };
        let fails = |address: &Address| match address {
            Address::Name(..) => Err(io::Error::other("no server responds")),
            _ => Ok(vec![address.clone()]),
        };
        let addresses = |of: &UpstreamEndpoints| -> Vec<Address> {
            of.servers.iter().flatten().map(|one| one.address.clone()).collect()
        };
        let before = UpstreamEndpoints::look_up(upstream, applied, None, finds).unwrap();
        let after = UpstreamEndpoints::look_up(upstream, applied, Some(&before), fails).unwrap();
        assert_eq!((addresses(&after).len(), addresses(&after)), (3, addresses(&before)));
        let first = UpstreamEndpoints::look_up(upstream, applied, None, fails);
        assert!(matches!(first, Err(SiteError::HostNotFound { .. })), "no addresses are known at the start");
    }
}
