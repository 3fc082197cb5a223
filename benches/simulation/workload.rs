//! A day of dashboard queries: which client sends which query and when, and how long a node takes
//! without its cache.
//!
//! One trace is generated per seed and load, and every policy gets the same trace.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use kylin_lb::QueryKeys;

use crate::nodes::{self, Cache};

/// In microseconds of virtual time.
pub(crate) type Micros = u64;

/// One query.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    pub(crate) at: Micros,
    pub(crate) client: IpAddr,
    pub(crate) keys: QueryKeys,
    pub(crate) project: u8,
    /// The time to compute it.
    pub(crate) fresh: Micros,
    /// The time to respond from the result cache.
    pub(crate) cached: Micros,
}

impl Query {
    /// A node caches only expensive results. Kylin decides by time (2 s), scanned rows (10,240) or
    /// size (1 MB), whichever is reached first. Only the time is modelled here, so the limit is
    /// lower.
    pub(crate) fn is_cacheable(&self) -> bool {
        self.fresh >= 300_000
    }
}

const TEMPLATES: usize = 200;
const CLIENTS: usize = 40;
/// Templates are distributed over the projects; a data load affects one project.
pub(crate) const PROJECTS: usize = 10;
/// How fast popularity decreases with rank: for templates, and for the variants of a template.
const ZIPF: f64 = 0.9;
/// How fast the popularity of clients decreases with rank. A client is an office behind one
/// address; the largest sends a tenth of all queries.
const ZIPF_OF_CLIENTS: f64 = 0.5;
/// A template has 1 to this many variants (filter values, users), distributed log-uniformly.
const MAX_VARIANTS: f64 = 120.0;
/// The ranks of the templates that take minutes: about one query in four hundred.
const SLOW_RANKS: [usize; 2] = [150, 195];
/// The number of most popular templates, none of which takes longer than 1.5 s.
const TUNED_RANKS: usize = 10;
/// The share of the other templates that takes 50 to 200 ms.
const FAST_SHARE: f64 = 0.6;
/// Opening a dashboard sends 1 to this many queries at once.
const MAX_BURST: usize = 8;

struct Template {
    mean: f64,
    variants: Zipf,
}

/// Returns `count` queries that keep 8 x 8 slots busy to `load` under round robin.
pub(crate) fn trace(seed: u64, count: usize, load: f64) -> Vec<Query> {
    trace_of(CLIENTS, seed, count, load)
}

/// Returns a [`trace`] with this many clients.
pub(crate) fn trace_of(clients: usize, seed: u64, count: usize, load: f64) -> Vec<Query> {
    let mut random = Rng::with_seed(seed);
    let templates: Vec<Template> = (0..TEMPLATES).map(|rank| template(rank, &mut random)).collect();
    let (by_rank, by_client) = (Zipf::new(TEMPLATES, ZIPF), Zipf::new(clients, ZIPF_OF_CLIENTS));
    let mut queries = Vec::with_capacity(count);
    let mut now = 0.0;
    while queries.len() < count {
        // Dashboards are opened independently of each other. The pace is set below.
        now += -(1.0 - random.f64()).ln() * 1e6;
        let client = by_client.draw(&mut random);
        for _ in 0..random.usize(1..=MAX_BURST) {
            let rank = by_rank.draw(&mut random);
            let variant = templates[rank].variants.draw(&mut random);
            queries.push(query(now as Micros, client, rank, variant, templates[rank].mean, &mut random));
        }
    }
    queries.truncate(count);
    pace(&mut queries, load);
    queries
}

fn template(rank: usize, random: &mut Rng) -> Template {
    let slow = SLOW_RANKS.contains(&rank);
    let seconds = if slow {
        log_uniform(60.0, 180.0, random)
    } else if random.f64() < FAST_SHARE {
        log_uniform(0.05, 0.2, random)
    } else {
        1.2 * (0.8 * normal(random)).exp()
    };
    // Operators make popular dashboards quick.
    let seconds = if rank < TUNED_RANKS { seconds.min(1.5) } else { seconds };
    // What takes minutes is asked by few, and each asks something else.
    let fewest = if slow { MAX_VARIANTS / 2.0 } else { 1.0 };
    Template { mean: seconds * 1e6, variants: Zipf::new(log_uniform(fewest, MAX_VARIANTS, random) as usize, ZIPF) }
}

fn query(at: Micros, client: usize, rank: usize, variant: usize, mean: f64, random: &mut Rng) -> Query {
    // A variant is permanently heavier or lighter than its template, and every run differs a
    // little.
    let affinity = scramble((rank as u64) << 32 | variant as u64);
    let of_variant = normal(&mut Rng::with_seed(affinity));
    let fresh = mean * (0.3 * of_variant + 0.2 * normal(random)).exp();
    Query {
        at,
        client: IpAddr::V4(Ipv4Addr::new(10, (client * 37 % 251) as u8, client as u8, 9)),
        keys: QueryKeys::new(affinity, scramble(rank as u64)),
        project: (rank % PROJECTS) as u8,
        fresh: fresh as Micros,
        cached: log_uniform(20_000.0, 60_000.0, random) as Micros,
    }
}

/// Stretches time until the nodes have the requested load. The load depends on what is cached, and
/// that depends on the pace, because caches are emptied from time to time. So this is repeated a
/// few times.
fn pace(queries: &mut [Query], load: f64) {
    for _ in 0..12 {
        let stretch = busy(queries) / load;
        for query in queries.iter_mut() {
            query.at = (query.at as f64 * stretch) as Micros;
        }
    }
}

/// Returns the share of all slots' time that round robin would use if a query never had to wait for
/// a slot.
fn busy(queries: &[Query]) -> f64 {
    let mut caches: Vec<Cache> = (0..nodes::NODES).map(|_| Cache::new(nodes::CACHED_RESULTS)).collect();
    let mut ends: BinaryHeap<Reverse<(Micros, usize)>> = BinaryHeap::new();
    let mut total = 0;
    for (number, query) in queries.iter().enumerate() {
        while let Some(Reverse((_, ended))) = ends.peek().copied().filter(|Reverse((end, _))| *end <= query.at) {
            ends.pop();
            caches[ended % nodes::NODES].put(&queries[ended], queries[ended].at);
        }
        if caches[number % nodes::NODES].has(query, query.at) {
            total += query.cached;
        } else {
            total += query.fresh;
            ends.push(Reverse((query.at + query.fresh, number)));
        }
    }
    let span = queries.last().map_or(1, |query| query.at.max(1));
    total as f64 / (span as f64 * (nodes::NODES * nodes::SLOTS) as f64)
}

/// Draws ranks, the k-th in proportion to 1 / k^falling.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize, falling: f64) -> Self {
        let mut sum = 0.0;
        let mut until: Vec<f64> = (1..=ranks.max(1))
            .map(|rank| {
                sum += (rank as f64).powf(-falling);
                sum
            })
            .collect();
        until.iter_mut().for_each(|at| *at /= sum);
        Zipf(until)
    }

    fn draw(&self, random: &mut Rng) -> usize {
        let at = random.f64();
        self.0.partition_point(|until| *until <= at).min(self.0.len() - 1)
    }
}

fn log_uniform(from: f64, to: f64, random: &mut Rng) -> f64 {
    from * (to / from).powf(random.f64())
}

/// Box and Muller 1958.
fn normal(random: &mut Rng) -> f64 {
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (std::f64::consts::TAU * random.f64()).cos()
}

/// The finalizer of splitmix64, which stands in for the hash of a text.
fn scramble(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
