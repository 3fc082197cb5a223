//! A user who floods the nodes, alongside other users.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderValue, Request};
use kylin_lb::{Backend, Body, Proxy};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::nodes::Completion;
use crate::served::{self, Pace, Served};
use crate::workload::Query;

/// The number of queries of a flood.
const QUERIES: usize = 1_000;

/// A user who always has this many queries in flight. They resemble those of the trace that `of`
/// chooses. The flood begins when a twentieth of the other users' queries have arrived, and ends
/// with the last of them.
#[derive(Clone, Copy)]
pub(crate) struct Flood {
    pub(crate) queries: usize,
    pub(crate) of: fn(&Query) -> bool,
    /// Whether each query has its own pattern, so that no duration is known for it.
    pub(crate) unseen: bool,
}

/// The floods that are compared, by name.
pub(crate) const FLOODS: [(&str, Flood); 7] = [
    ("none", Flood { queries: 0, of: |_| true, unseen: false }),
    ("of 50 to 200 ms each", Flood { queries: QUERIES, of: takes_millis, unseen: false }),
    ("of 1 to 5 s each", Flood { queries: QUERIES, of: takes_seconds, unseen: false }),
    ("of 1 to 3 min each", Flood { queries: QUERIES, of: takes_minutes, unseen: false }),
    ("of 50 to 200 ms each, unseen", Flood { queries: QUERIES, of: takes_millis, unseen: true }),
    ("of 1 to 5 s each, unseen", Flood { queries: QUERIES, of: takes_seconds, unseen: true }),
    ("of 1 to 3 min each, unseen", Flood { queries: QUERIES, of: takes_minutes, unseen: true }),
];

fn takes_millis(query: &Query) -> bool {
    !query.is_cacheable()
}

fn takes_seconds(query: &Query) -> bool {
    (1_000_000..5_000_000).contains(&query.fresh)
}

fn takes_minutes(query: &Query) -> bool {
    query.fresh >= 20_000_000
}

impl Flood {
    /// Runs the other users' queries in virtual time. Also returns how many queries of the flood
    /// were served.
    pub(crate) fn simulate(self, queries: &[Query], front: &Served, scale: f64) -> (Vec<Completion>, u64) {
        served::in_virtual_time(async {
            let (queries, pace) = (Arc::<[Query]>::from(queries), Pace::new(scale));
            self.drive(served::proxy(front, served::in_process(&queries, pace, front)), queries, pace, front).await
        })
    }

    /// Runs the other users' queries through a proxy, alongside the flood. Also returns how many
    /// queries of the flood were served.
    pub(crate) async fn drive<B: Backend>(
        self,
        proxy: Proxy<B>,
        queries: Arc<[Query]>,
        pace: Pace,
        front: &Served,
    ) -> (Vec<Completion>, u64) {
        let served = Arc::new(AtomicU64::new(0));
        let at = |number: usize| pace.start + pace.real(queries.get(number).map_or(0.0, |query| query.at as f64));
        let (begin, end) = (at(queries.len() / 20), at(queries.len() - 1));
        let mut flooding = self.spawn(&proxy, &queries, pace, front, begin, &served);
        tokio::spawn(async move {
            sleep_until(end).await;
            flooding.shutdown().await;
        });
        let completions = served::drive(proxy, queries, pace, front).await;
        (completions, served.load(Ordering::Relaxed))
    }

    /// Spawns the flood, which begins at `begin` and ends when the result is dropped.
    fn spawn<B: Backend>(
        self,
        proxy: &Proxy<B>,
        queries: &Arc<[Query]>,
        pace: Pace,
        front: &Served,
        begin: Instant,
        served: &Arc<AtomicU64>,
    ) -> JoinSet<()> {
        let mut all = JoinSet::new();
        let numbers: Arc<[usize]> =
            queries.iter().enumerate().filter(|(_, query)| (self.of)(query)).map(|(number, _)| number).collect();
        let has_account = front.accounts;
        for first in 0..self.queries {
            let (proxy, queries, numbers) = (proxy.clone(), Arc::clone(queries), Arc::clone(&numbers));
            let served = Arc::clone(served);
            all.spawn(async move {
                sleep_until(begin).await;
                for (round, number) in numbers.iter().cycle().skip(first).enumerate() {
                    let pattern = self.unseen.then(|| format!("{first}_{round}"));
                    let request = request(*number, &queries[*number], pattern, has_account);
                    let client = IpAddr::from([192, 0, 2, 1]);
                    if served::send(proxy.clone(), client, request, pace).await.refused {
                        // As `Retry-After` requests.
                        sleep(pace.real(1e6)).await;
                    } else {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        all
    }
}

/// Makes a request of the flood. With `pattern`, the query gets a new pattern.
fn request(number: usize, query: &Query, pattern: Option<String>, has_account: bool) -> Request<Body> {
    let mut request = served::request(number, query);
    if let Some(pattern) = pattern {
        let sql = format!(r#"{{"sql":"select x{pattern} from flood","project":"p{}"}}"#, query.project);
        *request.body_mut() = sql.into();
    }
    for (name, value) in [("cache-control", "no-cache"), ("x-flood", "1")] {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if has_account {
        let account = HeaderValue::from_static("Basic Zmxvb2Q6S1lMSU4=");
        request.headers_mut().insert("authorization", account);
    }
    request
}
