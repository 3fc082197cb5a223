//! Lookups of names: by the system, or by the DNS servers of the configuration.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::backend::http1::Address;
use crate::clock::{Clock as _, SystemClock};
use crate::nginx::config::Config;
use crate::nginx::directives::upstream::UpstreamServer;

/// The maximum time for a lookup. The system resolver asks several DNS servers for 5 s each.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// The maximum number of names that are looked up at a time when the site is built.
const MAX_LOOKUPS: usize = 16;

/// The addresses of names, or the error of the lookup.
pub(in crate::nginx::serve) struct LookedUp(HashMap<(String, u16), Result<Vec<Address>, Arc<io::Error>>>);

/// A host and port, and their addresses.
type FoundName = ((String, u16), Result<Vec<Address>, Arc<io::Error>>);

impl LookedUp {
    /// Looks up the names of all servers, several at a time. It blocks until all are found, for at
    /// most 15 s. A name that takes longer has no addresses.
    pub(in crate::nginx::serve) fn all(config: &Config) -> Self {
        let servers = || config.upstreams.iter().flat_map(|upstream| &upstream.servers);
        let name = |server: &UpstreamServer| match &server.address {
            Address::Name(host, port) => Some((host.clone(), *port)),
            _ => None,
        };
        let by_dns: HashSet<_> = servers().filter(|server| asks_dns(config, server)).filter_map(name).collect();
        let resolvers = config.resolvers.servers.clone();
        Self::within(LOOKUP_TIMEOUT, servers().filter_map(name).collect(), move |host, port| {
            if !by_dns.contains(&(host.to_owned(), port)) {
                return (host, port).to_socket_addrs().map(Vec::from_iter);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask_dns(&resolvers, host, port))
        })
    }

    /// Looks up names in threads of their own. A system lookup cannot be cancelled, so a thread may
    /// outlive `limit`.
    fn within(
        limit: Duration,
        names: HashSet<(String, u16)>,
        look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        let threads = names.len().min(MAX_LOOKUPS);
        let names = Arc::new((Mutex::new(Vec::from_iter(names)), look_up));
        let (sender, found) = mpsc::channel();
        for _ in 0..threads {
            let (names, sender) = (Arc::clone(&names), sender.clone());
            let run = move || {
                let (names, look_up) = &*names;
                let next = || names.lock().pop();
                while let Some((host, port)) = next() {
                    let addresses = look_up(&host, port).and_then(|found| some(found.into_iter()));
                    if sender.send(((host, port), addresses.map_err(Arc::new))).is_err() {
                        return;
                    }
                }
            };
            // If a thread does not start, the others do its work. If none starts, no name is found.
            if let Err(error) = thread::Builder::new().name("name lookup".to_owned()).spawn(run) {
                tracing::warn!(%error, "a thread for lookups of names did not start");
            }
        }
        drop(sender);
        Self::collect(&found, limit)
    }

    /// Collects the results until all lookups have ended, for at most `limit`.
    fn collect(found: &mpsc::Receiver<FoundName>, limit: Duration) -> Self {
        let (begun, mut all) = (SystemClock.now(), HashMap::new());
        let left = || limit.saturating_sub(SystemClock.now().saturating_duration_since(begun));
        while let Ok((name, addresses)) = found.recv_timeout(left()) {
            all.insert(name, addresses);
        }
        LookedUp(all)
    }

    pub(in crate::nginx::serve) fn addresses(&self, address: &Address) -> io::Result<Vec<Address>> {
        let Address::Name(host, port) = address else { return Ok(vec![address.clone()]) };
        match self.0.get(&(host.clone(), *port)) {
            Some(Ok(addresses)) => Ok(addresses.clone()),
            Some(Err(error)) => Err(io::Error::new(error.kind(), Arc::clone(error))),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Returns whether the DNS servers of the file are asked for the name of a server.
pub(super) fn asks_dns(config: &Config, server: &UpstreamServer) -> bool {
    cfg!(feature = "dns") && server.resolve && !config.resolvers.servers.is_empty()
}

/// Asks these DNS servers for the addresses of a name.
#[cfg(feature = "dns")]
pub(super) async fn ask_dns(resolvers: &[(String, u16)], host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    use crate::discovery::{Discovery as _, Dns};

    let mut servers = Vec::new();
    for (host, port) in resolvers {
        servers.extend(tokio::net::lookup_host((host.as_str(), *port)).await?);
    }
    let dns = Dns::addresses(host, port).map_err(io::Error::other)?.servers(servers);
    let nodes = dns.timeout(LOOKUP_TIMEOUT).map_err(io::Error::other)?.next().await.map_err(io::Error::other)?;
    Ok(nodes.iter().filter_map(|node| node.address().parse().ok()).collect())
}

#[cfg(not(feature = "dns"))]
pub(super) async fn ask_dns(_: &[(String, u16)], host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    tokio::net::lookup_host((host, port)).await.map(Iterator::collect)
}

pub(super) fn some(found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<Address>> {
    let mut addresses: Vec<Address> = Vec::new();
    for address in found.map(Address::Socket) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_together_and_one_that_hangs_keeps_none_from_its_addresses() {
        let names = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let of = |found: &LookedUp, name: &str| found.addresses(&Address::Name(name.into(), 1)).map(|all| all.len());
        // Each lookup waits until all of them run.
        let barrier = std::sync::Barrier::new(MAX_LOOKUPS);
        let hosts: Vec<_> = (0..MAX_LOOKUPS).map(|number| format!("k{number}")).collect();
        let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
        let found = LookedUp::within(Duration::from_secs(60), names(&hosts), move |_, port| {
            barrier.wait();
            Ok(vec![([127, 0, 0, 1], port).into()])
        });
        assert!(hosts.iter().all(|host| of(&found, host).unwrap() == 1));

        // A lookup counts as running as long as the sender lives.
        let (sender, found) = mpsc::channel();
        let name = |name: &str| (name.to_owned(), 1);
        sender.send((name("fails"), Err(Arc::new(io::Error::other("no such name"))))).unwrap();
        sender
            .send((name("good"), some(std::iter::once(SocketAddr::from(([127, 0, 0, 1], 1)))).map_err(Arc::new)))
            .unwrap();
        let found = LookedUp::collect(&found, Duration::from_millis(10));
        assert_eq!(of(&found, "hangs").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(of(&found, "fails").unwrap_err().to_string(), "no such name");
        assert_eq!(of(&found, "good").unwrap(), 1);
    }
}
