//! The nodes, and the clock that drives them: a discrete-event simulation. Nothing here takes real
//! time or depends on it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::balance::{Attempted, Balancer};
use kylin_lb::clock::ManualClock;
use kylin_lb::{Backend, Body, Cluster, Endpoint, Lease, Outcome, RequestView, SendError};

use crate::served::{self, Served};
use crate::workload::{Micros, PROJECTS, Query};

pub(crate) const NODES: usize = 8;
/// The number of queries that a node runs at once. The others wait at the node, first come, first
/// served.
pub(crate) const SLOTS: usize = 8;
/// The number of results that a node's cache holds. The least recently used result is evicted.
pub(crate) const CACHED_RESULTS: usize = 400;
/// How often a project gets new data, which invalidates its cached results.
const LOAD_EVERY: Micros = 15 * 60 * 1_000_000;

/// The front end that decides which node runs a query.
pub(crate) enum Front {
    /// A policy of the crate decides when the query arrives.
    Policy(Arc<dyn Balancer>),
    /// One queue for all nodes: a query waits until a slot is free. With `one_cache`, the nodes
    /// share their cache too.
    Central { one_cache: bool },
    /// The whole proxy.
    Proxy(Served),
}

/// The result of a query.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Completion {
    /// The time from the query to its response.
    pub(crate) took: Micros,
    /// The part of that time that was spent waiting for a slot.
    pub(crate) waited: Micros,
    pub(crate) hit: bool,
    pub(crate) node: u8,
    /// Whether the client got a 503.
    pub(crate) refused: bool,
}

/// Runs `queries` under `front`. The results are in the order of the queries.
pub(crate) fn run(queries: &[Query], front: &Front) -> Vec<Completion> {
    if let Front::Proxy(served) = front {
        return served::run(queries, served, 1.0);
    }
    let mut simulation = Simulation::new(queries, front);
    for (index, query) in queries.iter().enumerate() {
        simulation.until(query.at);
        simulation.arrive(index);
    }
    simulation.until(Micros::MAX);
    simulation.completions
}

struct Simulation<'s> {
    queries: &'s [Query],
    front: Option<(Cluster<Nowhere>, ManualClock)>,
    one_cache: bool,
    nodes: Vec<Node>,
    /// Waits for any slot, under a central queue.
    central: VecDeque<usize>,
    now: Micros,
    /// When each query ends. Among equals, the index decides.
    ends: BinaryHeap<Reverse<(Micros, usize)>>,
    leases: HashMap<usize, Lease>,
    completions: Vec<Completion>,
    request: Request<()>,
}

struct Node {
    running: usize,
    waiting: VecDeque<usize>,
    cache: Cache,
}

impl<'s> Simulation<'s> {
    fn new(queries: &'s [Query], front: &Front) -> Self {
        let (front, one_cache) = match front {
            Front::Policy(policy) => (Some(cluster(Arc::clone(policy))), false),
            Front::Central { one_cache } => (None, *one_cache),
            Front::Proxy(_) => (None, false),
        };
        let results = if one_cache { NODES * CACHED_RESULTS } else { CACHED_RESULTS };
        let node = |_| Node { running: 0, waiting: VecDeque::new(), cache: Cache::new(results) };
        Simulation {
            queries,
            front,
            one_cache,
            nodes: (0..NODES).map(node).collect(),
            central: VecDeque::new(),
            now: 0,
            ends: BinaryHeap::new(),
            leases: HashMap::new(),
            completions: vec![Completion::default(); queries.len()],
            request: Request::post("/kylin/api/query").body(()).expect("a valid request"),
        }
    }

    /// Processes all events up to `until`.
    fn until(&mut self, until: Micros) {
        while let Some(Reverse((at, index))) = self.ends.peek().copied().filter(|Reverse((at, _))| *at <= until) {
            self.ends.pop();
            self.advance(at);
            self.end(index);
        }
        if until != Micros::MAX {
            self.advance(until);
        }
    }

    fn advance(&mut self, to: Micros) {
        if let Some((_, clock)) = &self.front {
            clock.advance(Duration::from_micros(to - self.now));
        }
        self.now = to;
    }

    fn arrive(&mut self, index: usize) {
        let Some((cluster, _)) = &self.front else {
            self.central.push_back(index);
            return self.serve_central();
        };
        let query = &self.queries[index];
        let view = RequestView::of(&self.request, query.client).with_query(query.keys);
        let picked = cluster.pick(&view, &Attempted::none()).expect("all nodes can serve");
        let node = picked.lease.endpoint().as_str()[1..].parse::<usize>().expect("a node's number");
        self.leases.insert(index, picked.lease);
        self.completions[index].node = node as u8;
        match self.nodes[node].running {
            SLOTS => self.nodes[node].waiting.push_back(index),
            _ => self.start(index, node),
        }
    }

    fn start(&mut self, index: usize, node: usize) {
        let query = &self.queries[index];
        self.nodes[node].running += 1;
        let cache = if self.one_cache { 0 } else { node };
        let hit = self.nodes[cache].cache.has(query, self.now);
        let takes = if hit { query.cached } else { query.fresh };
        let waited = self.now - query.at;
        self.completions[index] = Completion { took: waited + takes, waited, hit, node: node as u8, refused: false };
        self.ends.push(Reverse((self.now + takes, index)));
    }

    fn end(&mut self, index: usize) {
        let node = usize::from(self.completions[index].node);
        if let Some(mut lease) = self.leases.remove(&index) {
            lease.set_outcome(Outcome::Success);
        }
        let cache = if self.one_cache { 0 } else { node };
        let Completion { took, waited, .. } = self.completions[index];
        self.nodes[cache].cache.put(&self.queries[index], self.now - (took - waited));
        self.nodes[node].running -= 1;
        match self.nodes[node].waiting.pop_front() {
            Some(next) => self.start(next, node),
            None => self.serve_central(),
        }
    }

    fn serve_central(&mut self) {
        while !self.central.is_empty() {
            let idlest = (0..NODES).min_by_key(|node| self.nodes[*node].running).expect("there are nodes");
            if self.nodes[idlest].running == SLOTS {
                return;
            }
            let index = self.central.pop_front().expect("looked at above");
            self.start(index, idlest);
        }
    }
}

fn cluster(policy: Arc<dyn Balancer>) -> (Cluster<Nowhere>, ManualClock) {
    let clock = ManualClock::new();
    let endpoints = (0..NODES).map(|node| Endpoint::new(format!("q{node}"), Nowhere).expect("a valid id"));
    let cluster = Cluster::builder().endpoints(endpoints).balancer(policy).clock(clock.clone()).build();
    (cluster.expect("distinct ids"), clock)
}

/// A backend that is picked but never used; the simulation takes its place.
struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        unreachable!("nothing is sent")
    }
}

/// A node's result cache.
pub(crate) struct Cache {
    most: usize,
    used: u64,
    results: HashMap<u64, Stored>,
    /// The keys by their last use.
    by_use: BTreeMap<u64, u64>,
}

struct Stored {
    last_use: u64,
    /// The number of data loads that its project had seen.
    loads: u64,
}

impl Cache {
    pub(crate) fn new(most: usize) -> Self {
        Cache { most, used: 0, results: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Returns whether the cache has the result of `query`. Counts as a use.
    pub(crate) fn has(&mut self, query: &Query, now: Micros) -> bool {
        let key = query.keys.affinity;
        if self.results.get(&key).is_none_or(|stored| stored.loads != loads(query, now)) {
            return false;
        }
        self.keep(key, loads(query, now));
        true
    }

    /// Keeps the result of `query`, computed from the data at `now`, if a node would keep it.
    pub(crate) fn put(&mut self, query: &Query, now: Micros) {
        if !query.is_cacheable() {
            return;
        }
        self.keep(query.keys.affinity, loads(query, now));
        if self.results.len() > self.most
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.results.remove(&oldest);
        }
    }

    fn keep(&mut self, key: u64, loads: u64) {
        self.used += 1;
        if let Some(before) = self.results.insert(key, Stored { last_use: self.used, loads }) {
            self.by_use.remove(&before.last_use);
        }
        self.by_use.insert(self.used, key);
    }
}

/// Returns how many data loads the project of `query` has seen at `now`. Projects load one after
/// another.
fn loads(query: &Query, now: Micros) -> u64 {
    (now + LOAD_EVERY * u64::from(query.project) / PROJECTS as u64) / LOAD_EVERY
}
