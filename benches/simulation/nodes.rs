//! The nodes, and the clock that drives them: a discrete-event simulation. Nothing here takes any real time, and nothing
//! depends on any.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::balance::{Balancer, Tried};
use kylin_lb::clock::ManualClock;
use kylin_lb::{Backend, Body, Cluster, Endpoint, Lease, Outcome, RequestView, SendError};

use crate::workload::{Micros, Query};

pub(crate) const NODES: usize = 8;
/// How many queries a node runs at once; the others wait at the node, first come, first served.
pub(crate) const SLOTS: usize = 8;
/// How many results a node's cache holds, of which the one used longest ago makes room.
pub(crate) const CACHED_RESULTS: usize = 400;
/// How often a data load empties all caches.
const LOAD_EVERY: Micros = 15 * 60 * 1_000_000;

/// Who decides where a query goes.
pub(crate) enum Front {
    /// A policy of the crate, when the query comes.
    Policy(Arc<dyn Balancer>),
    /// Nobody, before a slot is free: one queue for all nodes. With `one_cache` they share their cache too.
    Central { one_cache: bool },
}

/// What became of the queries, in their order.
pub(crate) struct Run {
    pub(crate) answers: Vec<Answer>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answer {
    /// From the query to its answer.
    pub(crate) took: Micros,
    /// Of that, what was spent waiting for a slot.
    pub(crate) waited: Micros,
    pub(crate) hit: bool,
    pub(crate) node: u8,
}

/// Runs `queries` under `front`.
pub(crate) fn run(queries: &[Query], front: &Front, seed: u64) -> Run {
    // What the policies draw at random comes from this thread's generator.
    fastrand::seed(seed);
    let mut simulation = Simulation::new(queries, front);
    for index in 0..queries.len() {
        simulation.until(queries[index].at);
        simulation.arrive(index);
    }
    simulation.until(Micros::MAX);
    Run { answers: simulation.answers }
}

struct Simulation<'s> {
    queries: &'s [Query],
    front: Option<(Cluster<Nowhere>, ManualClock)>,
    one_cache: bool,
    nodes: Vec<Node>,
    /// Waits for any slot, under a central queue.
    central: VecDeque<usize>,
    now: Micros,
    /// When which query ends; the index decides between equals.
    ends: BinaryHeap<Reverse<(Micros, usize)>>,
    leases: HashMap<usize, Lease>,
    answers: Vec<Answer>,
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
            answers: vec![Answer::default(); queries.len()],
            request: Request::post("/kylin/api/query").body(()).expect("a valid request"),
        }
    }

    /// Lets everything happen that happens up to `until`.
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
        let picked = cluster.pick(&view, &Tried::none()).expect("all nodes can serve");
        let node = picked.lease.endpoint().as_str()[1..].parse::<usize>().expect("a node's number");
        self.leases.insert(index, picked.lease);
        self.answers[index].node = node as u8;
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
        self.answers[index] = Answer { took: waited + takes, waited, hit, node: node as u8 };
        self.ends.push(Reverse((self.now + takes, index)));
    }

    fn end(&mut self, index: usize) {
        let node = usize::from(self.answers[index].node);
        if let Some(mut lease) = self.leases.remove(&index) {
            lease.set_outcome(Outcome::Success);
        }
        let cache = if self.one_cache { 0 } else { node };
        self.nodes[cache].cache.put(&self.queries[index], self.now);
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

/// A backend that is picked and never sent to: the simulation plays its part.
struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        unreachable!("nothing is sent")
    }
}

/// A node's result cache.
pub(crate) struct Cache {
    most: usize,
    /// How many data loads it has seen.
    loads: u64,
    used: u64,
    last_use: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl Cache {
    pub(crate) fn new(most: usize) -> Self {
        Cache { most, loads: 0, used: 0, last_use: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// Is the result of `query` there? Looking counts as use.
    pub(crate) fn has(&mut self, query: &Query, now: Micros) -> bool {
        self.empty_at_load(now);
        let found = self.last_use.contains_key(&query.keys.affinity);
        if found {
            self.touch(query.keys.affinity);
        }
        found
    }

    /// Keeps the result of `query`, if a node would.
    pub(crate) fn put(&mut self, query: &Query, now: Micros) {
        self.empty_at_load(now);
        if !query.is_cacheable() {
            return;
        }
        self.touch(query.keys.affinity);
        if self.last_use.len() > self.most
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.last_use.remove(&oldest);
        }
    }

    fn touch(&mut self, key: u64) {
        self.used += 1;
        if let Some(before) = self.last_use.insert(key, self.used) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.used, key);
    }

    fn empty_at_load(&mut self, now: Micros) {
        if now / LOAD_EVERY != self.loads {
            *self = Cache { loads: now / LOAD_EVERY, ..Cache::new(self.most) };
        }
    }
}
