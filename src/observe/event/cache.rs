//! The events and the status of a result cache.

use std::fmt;
use std::time::Duration;

use crate::observe::ObservedRequest;

/// A query was looked up in the result cache.
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Debug)]
#[non_exhaustive]
pub struct CacheLookup<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The result of the lookup.
    pub outcome: CacheOutcome,
    /// The age of the cached result that the client gets; `None` if it gets none.
    pub age: Option<Duration>,
}

/// The result of looking a query up in the result cache.
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// The cache has the result, which the client gets.
    Hit,
    /// The cache has no result.
    Miss,
    /// The cache has a result that must not be used.
    Stale,
}

impl CacheOutcome {
    /// Returns the name: `hit`, `miss` or `stale`.
    pub const fn as_str(self) -> &'static str {
        match self {
            CacheOutcome::Hit => "hit",
            CacheOutcome::Miss => "miss",
            CacheOutcome::Stale => "stale",
        }
    }
}

impl fmt::Display for CacheOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state and the counts of a result cache: see [`Proxy::cache`](crate::Proxy::cache).
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The number of entries, including those that are too old to be used.
    pub entries: usize,
    /// The size of the entries in bytes, which counts against the budget.
    pub bytes: usize,
    /// The number of projects whose builds are followed.
    pub projects: usize,
    /// The number of queries that got a cached result.
    pub hits: u64,
    /// The number of queries without an entry.
    pub misses: u64,
    /// The number of queries whose entry must not be used. It is older than a write, a build or 60
    /// s, or no node has accepted the credentials since.
    pub stale: u64,
    /// The number of entries that were removed to make space for others.
    pub evicted: u64,
    /// The reason why builds are currently not followed, so that nothing is cached.
    pub error: Option<String>,
}
