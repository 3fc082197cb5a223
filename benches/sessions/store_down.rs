//! Response times while a shared session store is down, and after it recovers.
//!
//! A front end with default settings learns sessions in a real server. Users with a session query
//! at a fixed rate, each on their own connection. Other users log in, which writes to the store
//! before the response. The rate leaves the machine mostly idle, so that added time is caused by
//! the store. If a request is sent late because the previous one was late, its time counts from
//! when it was due.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kylin_lb::clock::{Clock as _, SystemClock};
use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{Affinity, Secret, Sessions, open};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::front::Front;
use crate::support::http::{Connection, RawResponse};
use crate::support::login::{ADMIN, Nodes, node_of};
use crate::support::mariadb::{MariaDb, mariadb_installed};
use crate::support::memcached::{Memcached, memcached_installed};
use crate::support::process::Process;
use crate::support::redis::{Redis, redis_installed};

/// Users with a session, and how often each of them queries: 1,000 requests a second.
const USERS: u32 = 200;
const QUERY_INTERVAL: Duration = Duration::from_millis(200);
/// Users who repeatedly log in and query once: 50 logins a second.
const LOGIN_USERS: u32 = 50;
const LOGIN_INTERVAL: Duration = Duration::from_secs(1);
/// The time before requests are counted.
const WARM_UP: Duration = Duration::from_secs(4);
/// The deadline of a store operation: the default.
const DEADLINE_MS: u64 = 50;

/// Measures each store, killed and then stopped, for `seconds` before, during and after the outage.
pub fn run(seconds: u64, wanted: impl Fn(&str) -> bool) {
    println!("\nms; the deadline of the store is {DEADLINE_MS}");
    println!(
        "{:<10} {:<8} {:<8} {:>9} {:>7} {:>7} {:>7} {:>10} {:>11} {:>11} {:>10} {:>7}",
        "store",
        "is",
        "window",
        "requests",
        "p50",
        "p99",
        "max",
        "added p99",
        "logins p99",
        "logins max",
        "added p99",
        "failed"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for name in ["redis", "mariadb", "memcached"] {
        if wanted(name) && Store::is_installed(name) {
            for down in [Down::Killed, Down::Stopped] {
                runtime.block_on(async {
                    let server = Store::start(name).await;
                    measure(name, server, down, Duration::from_secs(seconds)).await;
                });
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Down {
    /// `kill -9`: connections are refused until the server is started again.
    Killed,
    /// `kill -STOP`: the kernel still accepts connections and bytes, but the server does not
    /// respond.
    Stopped,
}

enum Store {
    Redis(Redis),
    MariaDb(MariaDb),
    Memcached(Memcached),
}

impl Store {
    /// Returns whether the server is installed, and reports it if it is not.
    fn is_installed(name: &str) -> bool {
        match name {
            "redis" => redis_installed(),
            "mariadb" => mariadb_installed(),
            _ => memcached_installed(),
        }
    }

    async fn start(name: &str) -> Self {
        match name {
            "redis" => Store::Redis(Redis::start(&[]).await),
            "mariadb" => Store::MariaDb(MariaDb::start(&[]).await),
            _ => Store::Memcached(Memcached::start(&[]).await),
        }
    }

    fn url(&self) -> String {
        match self {
            Store::Redis(server) => format!("redis://{}", server.address()),
            Store::MariaDb(server) => server.url(),
            Store::Memcached(server) => format!("memcached://{}", server.address()),
        }
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Store::Redis(server) => server.process(),
            Store::MariaDb(server) => server.process(),
            Store::Memcached(server) => server.process(),
        }
    }

    fn take_down(&mut self, down: Down) {
        match down {
            Down::Killed => self.process().kill(),
            Down::Stopped => self.process().signal("STOP"),
        }
    }

    async fn recover(&mut self, down: Down) {
        match (down, self) {
            (Down::Stopped, store) => store.process().signal("CONT"),
            (Down::Killed, Store::Redis(server)) => server.restart().await,
            (Down::Killed, Store::MariaDb(server)) => server.restart().await,
            (Down::Killed, Store::Memcached(server)) => server.restart().await,
        }
    }
}

const WINDOWS: [&str; 3] = ["before", "down", "after"];
const DOWN: usize = 1;

/// The measured response times.
#[derive(Default)]
struct Measurements {
    is_counting: AtomicBool,
    stop: AtomicBool,
    window: AtomicUsize,
    windows: Mutex<[Window; 3]>,
}

#[derive(Default)]
struct Window {
    /// In milliseconds.
    queries: Vec<f64>,
    logins: Vec<f64>,
    failed: usize,
}

async fn measure(name: &str, mut store: Store, down: Down, length: Duration) {
    let nodes = Nodes::of(KylinVersion::V4, 3).await;
    let sessions = Sessions::remote(open(&store.url()).unwrap(), Secret::new([7; 32]));
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
    let measurements = Arc::new(Measurements::default());
    let mut users = JoinSet::new();
    for user in 0..USERS {
        users.spawn(query_often(front.address(), Arc::clone(&measurements), QUERY_INTERVAL * user / USERS));
    }
    for user in 0..LOGIN_USERS {
        users.spawn(log_in_often(front.address(), Arc::clone(&measurements), LOGIN_INTERVAL * user / LOGIN_USERS));
    }
    tokio::time::sleep(WARM_UP).await;
    assert!(sessions.is_store_available(), "the store works");
    measurements.is_counting.store(true, Ordering::SeqCst);
    tokio::time::sleep(length).await;

    measurements.window.store(1, Ordering::SeqCst);
    store.take_down(down);
    tokio::time::sleep(length).await;
    assert!(!sessions.is_store_available(), "the outage is detected");

    measurements.window.store(2, Ordering::SeqCst);
    let begun = SystemClock.now();
    store.recover(down).await;
    tokio::time::sleep(length.saturating_sub(SystemClock.now() - begun)).await;

    measurements.stop.store(true, Ordering::SeqCst);
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    report(name, down, &mut measurements.windows.lock().unwrap());
    assert!(
        sessions.is_store_available() && sessions.pending_writes() == 0,
        "all pending writes are done: {sessions:?}"
    );
}

fn report(name: &str, down: Down, windows: &mut [Window; 3]) {
    let (mut usual, mut usual_login) = (0.0, 0.0);
    for (window, title) in windows.iter_mut().zip(WINDOWS) {
        let mut all = [&window.queries[..], &window.logins].concat();
        all.sort_by(f64::total_cmp);
        window.logins.sort_by(f64::total_cmp);
        let (p50, p99, max) = (quantile(&all, 0.5), quantile(&all, 0.99), quantile(&all, 1.0));
        let (login, longest) = (quantile(&window.logins, 0.99), quantile(&window.logins, 1.0));
        let (mut added, mut added_login) = (String::new(), String::new());
        if title == "before" {
            (usual, usual_login) = (p99, login);
        } else {
            (added, added_login) = (format!("{:.1}", p99 - usual), format!("{:.1}", login - usual_login));
        }
        let down = format!("{down:?}").to_lowercase();
        println!(
            "{name:<10} {down:<8} {title:<8} {:>9} {p50:>7.1} {p99:>7.1} {max:>7.1} {added:>10} {login:>11.1} {longest:>11.1} \
             {added_login:>10} {:>7}",
            all.len(),
            window.failed
        );
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Measurements {
    /// Records a request that was due in `window` at `begun`, and whose response has just arrived.
    fn record(&self, window: usize, begun: Instant, is_login: bool, is_ok: bool) {
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        if !self.is_counting.load(Ordering::SeqCst) {
            assert!(is_ok, "requests succeed during the warm-up");
            return;
        }
        // A request that began during the outage counts for it, regardless of when it ends.
        let now = self.window.load(Ordering::SeqCst);
        let window = &mut self.windows.lock().unwrap()[if window == DOWN { window } else { now }];
        if is_login { &mut window.logins } else { &mut window.queries }.push(millis);
        window.failed += usize::from(!is_ok);
    }

    fn window(&self) -> usize {
        self.window.load(Ordering::SeqCst)
    }
}

/// Waits until `due` and returns the time from which a request counts. This is now, so that the
/// coarse timer does not count, or `due` if that has passed.
async fn wait_until(due: Instant) -> Instant {
    if due < Instant::now() {
        return due;
    }
    tokio::time::sleep_until(due).await;
    Instant::now()
}

/// Logs in once, and then queries at a fixed rate.
async fn query_often(front: SocketAddr, measurements: Arc<Measurements>, offset: Duration) {
    let mut user = Browser { front, connection: None, cookie: String::new() };
    user.log_in().await.unwrap();
    let home = node_of(&user.query().await.unwrap());
    let mut due = Instant::now() + offset;
    while !measurements.stop.load(Ordering::SeqCst) {
        let begun = wait_until(due).await;
        let window = measurements.window();
        let response = user.query().await;
        let is_ok = response.is_ok_and(|response| response.status() == 200 && node_of(&response) == home);
        measurements.record(window, begun, false, is_ok);
        due += QUERY_INTERVAL;
    }
}

/// Repeatedly logs in and queries once.
async fn log_in_often(front: SocketAddr, measurements: Arc<Measurements>, offset: Duration) {
    let mut due = Instant::now() + offset;
    while !measurements.stop.load(Ordering::SeqCst) {
        let begun = wait_until(due).await;
        let window = measurements.window();
        let mut user = Browser { front, connection: None, cookie: String::new() };
        let is_ok = user.log_in().await.is_ok_and(|response| response.status() == 200);
        measurements.record(window, begun, true, is_ok);
        let (begun, window) = (Instant::now(), measurements.window());
        let is_ok = user.query().await.is_ok_and(|response| response.status() == 200);
        measurements.record(window, begun, false, is_ok);
        due += LOGIN_INTERVAL;
    }
}

/// A client that keeps its connection and its cookie.
struct Browser {
    front: SocketAddr,
    connection: Option<Connection>,
    cookie: String,
}

impl Browser {
    async fn log_in(&mut self) -> std::io::Result<RawResponse> {
        let response = self.send("/kylin/api/user/authentication", &format!("Authorization: {ADMIN}\r\n"), "").await?;
        if let Some(set) = response.header("set-cookie") {
            self.cookie = format!("Cookie: {}\r\n", set.split(';').next().unwrap_or_default());
        }
        Ok(response)
    }

    async fn query(&mut self) -> std::io::Result<RawResponse> {
        let headers = format!("Content-Type: application/json\r\n{}", self.cookie);
        self.send("/kylin/api/query", &headers, r#"{"sql":"select 1","project":"learn_kylin"}"#).await
    }

    async fn send(&mut self, path: &str, headers: &str, body: &str) -> std::io::Result<RawResponse> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n{headers}\r\n");
        connection.send(head + body).await?;
        let response = connection.response().await?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}
