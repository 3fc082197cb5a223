//! Compares addresses that Kylin names with those that the front end has. One may be a name and the
//! other a number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;

/// The timeout for looking up a name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// The number of names that are looked up at once. Each lookup takes a thread.
const MAX_LOOKUPS: usize = 32;

/// The looked-up addresses.
#[derive(Default)]
pub struct Addresses(BTreeMap<String, Vec<SocketAddr>>);

impl Addresses {
    /// Looks up each address, `host:port`, in this order. An address that cannot be looked up
    /// equals only itself.
    pub async fn look_up(texts: impl Iterator<Item = String>) -> Self {
        let mut begun = BTreeSet::new();
        let mut found = BTreeMap::new();
        let mut lookups = JoinSet::new();
        for text in texts.filter(|text| begun.insert(text.clone())) {
            if lookups.len() == MAX_LOOKUPS {
                found.extend(lookups.join_next().await.and_then(Result::ok));
            }
            lookups.spawn(async move {
                let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(text.clone())).await;
                let found = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
                (text, found)
            });
        }
        found.extend(lookups.join_all().await);
        Addresses(found)
    }

    /// Returns whether both represent the same address.
    pub fn are_same(&self, one: &str, other: &str) -> bool {
        let of = |text: &str| self.0.get(text).map(Vec::as_slice).unwrap_or_default();
        one.eq_ignore_ascii_case(other) || of(one).iter().any(|address| of(other).contains(address))
    }

    pub fn contains(&self, list: &[String], address: &str) -> bool {
        list.iter().any(|listed| self.are_same(listed, address))
    }
}
