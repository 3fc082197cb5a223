//! What a result cache does.

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
    /// What the cache had.
    pub outcome: CacheOutcome,
    /// How old the result is that the client gets; `None` if it gets none from the cache.
    pub age: Option<Duration>,
}

/// What the result cache had for a query.
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheOutcome {
    /// The result, which is the response.
    Hit,
    /// Nothing.
    Miss,
    /// A result that must not be given.
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

/// What a result cache holds and has done: see [`Proxy::cache`](crate::Proxy::cache).
#[cfg_attr(docsrs, doc(cfg(feature = "cache")))]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// The entries, including those that are too old to be given.
    pub entries: usize,
    /// What they count in the budget, in bytes.
    pub bytes: usize,
    /// The projects whose builds are followed.
    pub projects: usize,
    /// How many queries have got a cached result.
    pub hits: u64,
    /// How many found no entry.
    pub misses: u64,
    /// How many found an entry that must not be given: older than a write, a build or 60 s, or of credentials that no node has accepted
    /// since.
    pub stale: u64,
    /// How many entries were removed to make space for others.
    pub evicted: u64,
    /// Why builds are not followed at present, so that nothing is cached.
    pub error: Option<String>,
}
