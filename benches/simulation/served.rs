//! The whole proxy of the crate in front of simulated nodes: `Proxy::forward` for every query, on
//! tokio's timers. If the timers are paused, they are a virtual clock; otherwise the same code runs
//! in real time.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use kylin_lb::admission::QueueRules;
use kylin_lb::balance::Balancer;
use kylin_lb::clock::Clock;
use kylin_lb::session::{Affinity, Sessions};
use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

use crate::nodes::{CACHED_RESULTS, Cache, Completion, NODES, SLOTS};
use crate::workload::{Micros, Query};

/// The header with the number of a query. Single flight compares all headers except tracing
/// headers, such as this one.
const NUMBER: &str = "x-correlation-id";

/// The response of a node, in the form of Kylin.
const RESULT: &str = r#"{"columnMetas":[],"results":[],"isException":false,"exceptionMessage":null}"#;

/// How a proxy handles its queries.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) policy: Arc<dyn Balancer>,
    /// Whether the endpoints have their limit, so that queries wait in the proxy. Otherwise they
    /// wait at the nodes.
    pub(crate) queues: bool,
    /// Whether identical queries are executed once. Otherwise clients ask for their own response.
    pub(crate) single_flight: bool,
    /// Whether the queries of a node share its cores, which are as many as its slots here; all
    /// queries run at once.
    pub(crate) shared_cores: bool,
    /// Whether each client of the trace is a user with their own account. Otherwise all queries
    /// come from one account.
    pub(crate) accounts: bool,
    /// Whether each client has a session, which is bound to the node of its first query.
    pub(crate) sessions: bool,
}

impl Served {
    /// All queries come from one account, like those of a dashboard server.
    pub(crate) fn of_one_account(
        policy: Arc<dyn Balancer>,
        queues: bool,
        single_flight: bool,
        shared_cores: bool,
    ) -> Self {
        Served { policy, queues, single_flight, shared_cores, accounts: false, sessions: false }
    }
}

/// The passage of virtual time, starting at the first query.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) start: Instant,
    /// The duration of a second of the trace.
    scale: f64,
}

impl Pace {
    pub(crate) fn new(scale: f64) -> Self {
        Pace { start: Instant::now(), scale }
    }

    fn now(self) -> Micros {
        (self.start.elapsed().as_secs_f64() / self.scale * 1e6) as Micros
    }

    pub(crate) fn real(self, micros: f64) -> Duration {
        Duration::from_secs_f64(micros * self.scale / 1e6)
    }
}

/// A node that serves the queries of a trace by their numbers.
pub(crate) struct Node {
    queries: Arc<[Query]>,
    pace: Pace,
    cache: Mutex<Cache>,
    slots: Semaphore,
    sharing: Option<Sharing>,
}

impl Node {
    pub(crate) fn new(queries: &Arc<[Query]>, pace: Pace, shared_cores: bool) -> Arc<Self> {
        Arc::new(Node {
            queries: Arc::clone(queries),
            pace,
            cache: Mutex::new(Cache::new(CACHED_RESULTS)),
            slots: Semaphore::new(SLOTS),
            sharing: shared_cores.then(Sharing::default),
        })
    }

    /// Responds to a query.
    pub(crate) async fn respond(&self, request: &Request<Body>) -> Response<Body> {
        let number = request.headers()[NUMBER].to_str().ok().and_then(|text| text.parse::<usize>().ok());
        let query = &self.queries[number.expect("a number of a query")];
        let _slot = if self.sharing.is_none() { self.slots.acquire().await.ok() } else { None };
        let began = self.pace.now();
        // A flood produces no results for others.
        let is_of_flood = request.headers().contains_key("x-flood");
        let hit = !is_of_flood && self.cache.lock().expect("no panic").has(query, began);
        let takes = if hit { query.cached } else { query.fresh };
        match &self.sharing {
            Some(sharing) => sharing.run(self.pace, takes).await,
            None => sleep(self.pace.real(takes as f64)).await,
        }
        if !is_of_flood {
            self.cache.lock().expect("no panic").put(query, began);
        }
        let response = Response::builder().header("content-type", "application/json").header("x-hit", u32::from(hit));
        let mut response = response.header("x-takes", takes).body(RESULT.into()).expect("valid headers");
        if let Some(session) = request.headers().get("x-new-session").and_then(|id| id.to_str().ok()) {
            let cookie = format!("JSESSIONID={session}; Path=/kylin").parse().expect("a valid value");
            response.headers_mut().insert("set-cookie", cookie);
        }
        response
    }
}

/// The cores of a node. Each query runs at full speed while there are no more queries than cores;
/// otherwise all are equally slower.
#[derive(Default)]
struct Sharing {
    progress: Mutex<Progress>,
    changed: Notify,
}

#[derive(Default)]
struct Progress {
    running: usize,
    at: Micros,
    /// How much of its work a query has done if it has run from the beginning.
    done: f64,
}

impl Progress {
    fn rate(&self) -> f64 {
        (SLOTS as f64 / self.running.max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: Micros) {
        self.done += now.saturating_sub(self.at) as f64 * self.rate();
        self.at = now;
    }
}

impl Sharing {
    fn change(&self, now: Micros, change: impl FnOnce(&mut Progress)) -> f64 {
        let mut progress = self.progress.lock().expect("no panic");
        progress.advance(now);
        change(&mut progress);
        self.changed.notify_waiters();
        progress.done
    }

    async fn run(&self, pace: Pace, takes: Micros) {
        let until = takes as f64 + self.change(pace.now(), |progress| progress.running += 1);
        loop {
            let changed = self.changed.notified();
            let left = {
                let mut progress = self.progress.lock().expect("no panic");
                progress.advance(pace.now());
                (until - progress.done) / progress.rate()
            };
            if left < 500.0 {
                break;
            }
            tokio::select! {
                () = sleep(pace.real(left)) => {}
                () = changed => {}
            }
        }
        self.change(pace.now(), |progress| progress.running -= 1);
    }
}

struct InProcess(Arc<Node>);

impl Backend for InProcess {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        Ok(self.0.respond(&request).await)
    }
}

/// The clock of tokio's timers.
#[derive(Debug)]
struct TimerClock;

impl Clock for TimerClock {
    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Returns the proxy with one endpoint for each backend.
pub(crate) fn proxy<B: Backend>(served: &Served, backends: impl IntoIterator<Item = B>) -> Proxy<B> {
    let limit = if served.queues { NonZeroU32::new(SLOTS as u32) } else { None };
    let endpoint =
        |(number, backend)| Endpoint::new(format!("q{number}"), backend).expect("a valid id").max_in_flight(limit);
    let cluster = Cluster::builder()
        .endpoints((0..).zip(backends).map(|(number, backend): (u32, B)| endpoint((number, backend))));
    let cluster = cluster.balancer(Arc::clone(&served.policy)).clock(TimerClock).build().expect("distinct ids");
    let affinity = served.sessions.then(|| Affinity::learn(Sessions::in_memory().expect("random bytes")));
    let proxy = Proxy::builder(cluster).clock(TimerClock).affinity(affinity).max_requests_per_client(None);
    proxy.queue(QueueRules::new()).build().expect("valid settings")
}

/// Runs `queries` in virtual time.
pub(crate) fn run(queries: &[Query], served: &Served, scale: f64) -> Vec<Completion> {
    in_virtual_time(async {
        let (queries, pace) = (Arc::<[Query]>::from(queries), Pace::new(scale));
        let proxy = proxy(served, in_process(&queries, pace, served));
        drive(proxy, queries, pace, served).await
    })
}

/// Runs `work` on paused timers.
pub(crate) fn in_virtual_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

/// Returns the nodes in this process.
pub(crate) fn in_process(queries: &Arc<[Query]>, pace: Pace, served: &Served) -> impl Iterator<Item = impl Backend> {
    (0..NODES).map(move |_| InProcess(Node::new(queries, pace, served.shared_cores)))
}

/// Sends each query when it is due.
pub(crate) async fn drive<B: Backend>(
    proxy: Proxy<B>,
    queries: Arc<[Query]>,
    pace: Pace,
    served: &Served,
) -> Vec<Completion> {
    let sessions = Arc::new(Mutex::new(HashSet::new()));
    let mut tasks = Vec::with_capacity(queries.len());
    for (number, query) in queries.iter().enumerate() {
        sleep_until(pace.start + pace.real(query.at as f64)).await;
        let mut request = request(number, query);
        if served.accounts {
            let account = format!("Basic {}", query.client);
            request.headers_mut().insert("authorization", account.parse().expect("a valid value"));
        }
        if served.sessions {
            let id = session_id(query.client);
            let is_known = sessions.lock().expect("no panic").contains(&query.client);
            let (name, value) = if is_known { ("cookie", format!("JSESSIONID={id}")) } else { ("x-new-session", id) };
            request.headers_mut().insert(name, value.parse().expect("a valid value"));
        }
        if !served.single_flight {
            request.headers_mut().insert("cache-control", http::HeaderValue::from_static("no-cache"));
        }
        let (proxy, client, sessions) = (proxy.clone(), query.client, Arc::clone(&sessions));
        tasks.push(tokio::spawn(async move {
            let completion = send(proxy, client, request, pace).await;
            sessions.lock().expect("no panic").insert(client);
            completion
        }));
    }
    let mut completions = Vec::with_capacity(tasks.len());
    for task in tasks {
        completions.push(task.await.expect("no panic"));
    }
    completions
}

fn session_id(client: IpAddr) -> String {
    match client {
        IpAddr::V4(client) => format!("{:032X}", client.to_bits()),
        IpAddr::V6(client) => format!("{:032X}", client.to_bits()),
    }
}

/// Makes the request of a query.
pub(crate) fn request(number: usize, query: &Query) -> Request<Body> {
    let body = format!(
        r#"{{"sql":"select x from t{} where v = {}","project":"p{}"}}"#,
        query.keys.fingerprint, query.keys.affinity, query.project
    );
    let request =
        Request::post("/kylin/api/query").header("host", "kylin").header("authorization", "Basic QURNSU46S1lMSU4=");
    let request = request.header("content-type", "application/json").header(NUMBER, number);
    request.body(body.into()).expect("a valid request")
}

pub(crate) async fn send<B: Backend>(
    proxy: Proxy<B>,
    client: IpAddr,
    request: Request<Body>,
    pace: Pace,
) -> Completion {
    let began = pace.now();
    let (head, body) = proxy.forward(client, request).await.into_parts();
    drop(body.collect().await);
    let took = pace.now() - began;
    let number =
        |name| head.headers.get(name).and_then(|value| value.to_str().ok()?.parse::<Micros>().ok()).unwrap_or(0);
    let refused = head.status == http::StatusCode::SERVICE_UNAVAILABLE;
    Completion { took, waited: took.saturating_sub(number("x-takes")), hit: number("x-hit") == 1, node: 0, refused }
}
