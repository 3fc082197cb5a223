//! The observations of a drill's clients, and the executions of the nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use kylin_lb::testing::kylin::{KylinNode, Metastore};

/// The outcome of a drill, for one client or for all.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// The number of exchanges, including logins.
    pub(crate) requests: u64,
    /// Failures for the client: a 4xx or 5xx that is not a lost login, a wrong body, a truncated
    /// response, or no response.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Failures while no node was running.
    pub(crate) failed_in_outage: u64,
    /// Responses 502 to requests that the front end must not repeat, because they may have been
    /// executed. These are writes, and every POST if the front end knows nothing about Kylin.
    pub(crate) broken_writes: u64,
    /// Kept connections that closed without a byte of the response. The client repeated the
    /// request.
    pub(crate) silent: u64,
    /// Logins that ended with the node that had the session in its memory.
    pub(crate) lost: u64,
    /// Logins that ended although the node of the session is alive.
    pub(crate) lost_wrongly: u64,
    /// Queries that nodes executed more often than the client sent them.
    pub(crate) repeated_reads: u64,
    /// Queries that nodes executed more than twice as often as the client sent them.
    pub(crate) repeated_often: u64,
    /// Builds that nodes executed more often than the client sent them.
    pub(crate) repeated_writes: u64,
    pub(crate) slowest: Duration,
    queries: Vec<Sent>,
    builds: Vec<Sent>,
}

/// A request of a client.
#[derive(Debug, Clone)]
struct Sent {
    token: String,
    /// How often the client sent it: once, plus once for each connection that closed without a
    /// byte.
    times: u64,
}

impl Tally {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Records that the client sent the request with this token `times` times.
    pub(crate) fn sent(&mut self, token: String, is_build: bool, times: u64) {
        if is_build { &mut self.builds } else { &mut self.queries }.push(Sent { token, times });
    }

    /// Counts how often the requests were executed.
    pub(crate) fn count_executions(&mut self, query: impl Fn(&str) -> u64, build: impl Fn(&str) -> u64) {
        let count = |sent: &[Sent], is_counted: &dyn Fn(&Sent) -> bool| {
            sent.iter().filter(|sent| is_counted(sent)).count() as u64
        };
        self.repeated_reads = count(&self.queries, &|sent| query(&sent.token) > sent.times);
        self.repeated_often = count(&self.queries, &|sent| query(&sent.token) > 2 * sent.times);
        self.repeated_writes = count(&self.builds, &|sent| build(&sent.token) > sent.times);
    }

    /// [`Self::count_executions`] for in-process nodes.
    pub(crate) fn count_executions_of(&mut self, nodes: &[KylinNode], metastore: &Metastore) {
        let mut builds = BTreeMap::<String, u64>::new();
        for job in metastore.jobs() {
            *builds.entry(job.target).or_default() += 1;
        }
        self.count_executions(
            |token| nodes.iter().map(|node| node.executed(&super::client::sql(token))).sum(),
            |token| builds.get(token).copied().unwrap_or(0),
        );
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        for (what, times) in other.failures {
            *self.failures.entry(what).or_default() += times;
        }
        self.requests += other.requests;
        self.failed_in_outage += other.failed_in_outage;
        self.broken_writes += other.broken_writes;
        self.silent += other.silent;
        self.lost += other.lost;
        self.lost_wrongly += other.lost_wrongly;
        self.slowest = self.slowest.max(other.slowest);
        self.queries.extend(other.queries);
        self.builds.extend(other.builds);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} failed and {} in the outage, {} broken writes, {} silent, {} logins lost and {} wrongly, {} reads and {} writes \
             executed twice, slowest {:?} {:?}",
            self.requests,
            self.failed(),
            self.failed_in_outage,
            self.broken_writes,
            self.silent,
            self.lost,
            self.lost_wrongly,
            self.repeated_reads,
            self.repeated_writes,
            self.slowest,
            self.failures
        )
    }
}
