//! What users notice when the store that front ends share is killed, or hangs, and when it comes back.
//!
//! A front end with its defaults learns sessions over a real server. Users who are logged in ask at a fixed rate, each with a
//! connection of its own, and others log in, which writes to the store before they have their answer. The rate leaves the machine
//! mostly idle, so that what grows is what the store adds. A request that could not be sent when it should have been, because the one
//! before it was late, counts from when it should have been sent.

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

/// Users who stay, and how often each of them asks: 1,000 requests a second.
const USERS: u32 = 200;
const ASKS_EVERY: Duration = Duration::from_millis(200);
/// Users of whom each logs in anew, and asks once: 50 logins a second.
const NEWCOMERS: u32 = 50;
const LOGS_IN_EVERY: Duration = Duration::from_secs(1);
/// How long the users work before anything is counted.
const WARM_UP: Duration = Duration::from_secs(4);
/// What an operation on the store may take: the default.
const DEADLINE_MS: u64 = 50;

/// Measures each store, killed and then stopped, for so many seconds before, during and after.
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
    /// `kill -9`: connections are refused until it is started again.
    Killed,
    /// `kill -STOP`: the kernel goes on to take connections and bytes for it, and nobody answers.
    Stopped,
}

enum Store {
    Redis(Redis),
    MariaDb(MariaDb),
    Memcached(Memcached),
}

impl Store {
    /// Loud where it is not.
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

    fn goes(&mut self, down: Down) {
        match down {
            Down::Killed => self.process().kill(),
            Down::Stopped => self.process().signal("STOP"),
        }
    }

    async fn comes_back(&mut self, down: Down) {
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

/// What users saw.
#[derive(Default)]
struct Seen {
    counts: AtomicBool,
    stop: AtomicBool,
    window: AtomicUsize,
    windows: Mutex<[Window; 3]>,
}

#[derive(Default)]
struct Window {
    /// Milliseconds.
    queries: Vec<f64>,
    logins: Vec<f64>,
    failed: usize,
}

async fn measure(name: &str, mut store: Store, down: Down, length: Duration) {
    let nodes = Nodes::of(KylinVersion::V4, 3).await;
    let sessions = Sessions::remote(open(&store.url()).unwrap(), Secret::new([7; 32]));
    let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(Affinity::learn(sessions.clone())));
    let seen = Arc::new(Seen::default());
    let mut users = JoinSet::new();
    for user in 0..USERS {
        users.spawn(stay(front.address(), Arc::clone(&seen), ASKS_EVERY * user / USERS));
    }
    for newcomer in 0..NEWCOMERS {
        users.spawn(come_anew(front.address(), Arc::clone(&seen), LOGS_IN_EVERY * newcomer / NEWCOMERS));
    }
    tokio::time::sleep(WARM_UP).await;
    assert!(!sessions.is_store_unavailable(), "the store works");
    seen.counts.store(true, Ordering::SeqCst);
    tokio::time::sleep(length).await;

    seen.window.store(1, Ordering::SeqCst);
    store.goes(down);
    tokio::time::sleep(length).await;
    assert!(sessions.is_store_unavailable(), "the store is missed");

    seen.window.store(2, Ordering::SeqCst);
    let begun = SystemClock.now();
    store.comes_back(down).await;
    tokio::time::sleep(length.saturating_sub(SystemClock.now() - begun)).await;

    seen.stop.store(true, Ordering::SeqCst);
    while let Some(user) = users.join_next().await {
        user.unwrap();
    }
    report(name, down, &mut seen.windows.lock().unwrap());
    assert!(
        !sessions.is_store_unavailable() && sessions.backlog() == 0,
        "the store has got all that it missed: {sessions:?}"
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

impl Seen {
    /// Notes what was asked for in `window` at `begun`, and answered just now.
    fn note(&self, window: usize, begun: Instant, is_login: bool, went_well: bool) {
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        if !self.counts.load(Ordering::SeqCst) {
            assert!(went_well, "all is well before anything happens");
            return;
        }
        // All that had to do with a store that was down.
        let now = self.window.load(Ordering::SeqCst);
        let window = &mut self.windows.lock().unwrap()[if window == DOWN { window } else { now }];
        if is_login { &mut window.logins } else { &mut window.queries }.push(millis);
        window.failed += usize::from(!went_well);
    }

    fn window(&self) -> usize {
        self.window.load(Ordering::SeqCst)
    }
}

/// When something that is due at `due` begins: now, if nothing was in its way, so that the timer's coarseness does not count.
async fn begins(due: Instant) -> Instant {
    if due < Instant::now() {
        return due;
    }
    tokio::time::sleep_until(due).await;
    Instant::now()
}

/// A user who has logged in and stays.
async fn stay(front: SocketAddr, seen: Arc<Seen>, phase: Duration) {
    let mut user = Browser { front, connection: None, cookie: String::new() };
    user.log_in().await.unwrap();
    let home = node_of(&user.query().await.unwrap());
    let mut due = Instant::now() + phase;
    while !seen.stop.load(Ordering::SeqCst) {
        let begun = begins(due).await;
        let window = seen.window();
        let answer = user.query().await;
        let went_well = answer.is_ok_and(|answer| answer.status() == 200 && node_of(&answer) == home);
        seen.note(window, begun, false, went_well);
        due += ASKS_EVERY;
    }
}

/// One user after another who logs in and asks once.
async fn come_anew(front: SocketAddr, seen: Arc<Seen>, phase: Duration) {
    let mut due = Instant::now() + phase;
    while !seen.stop.load(Ordering::SeqCst) {
        let begun = begins(due).await;
        let window = seen.window();
        let mut user = Browser { front, connection: None, cookie: String::new() };
        let went_well = user.log_in().await.is_ok_and(|answer| answer.status() == 200);
        seen.note(window, begun, true, went_well);
        let (begun, window) = (Instant::now(), seen.window());
        let went_well = user.query().await.is_ok_and(|answer| answer.status() == 200);
        seen.note(window, begun, false, went_well);
        due += LOGS_IN_EVERY;
    }
}

/// Keeps its connection and its cookie.
struct Browser {
    front: SocketAddr,
    connection: Option<Connection>,
    cookie: String,
}

impl Browser {
    async fn log_in(&mut self) -> std::io::Result<RawResponse> {
        let answer = self.ask("/kylin/api/user/authentication", &format!("Authorization: {ADMIN}\r\n"), "").await?;
        if let Some(set) = answer.header("set-cookie") {
            self.cookie = format!("Cookie: {}\r\n", set.split(';').next().unwrap_or_default());
        }
        Ok(answer)
    }

    async fn query(&mut self) -> std::io::Result<RawResponse> {
        let fields = format!("Content-Type: application/json\r\n{}", self.cookie);
        self.ask("/kylin/api/query", &fields, r#"{"sql":"select 1","project":"learn_kylin"}"#).await
    }

    async fn ask(&mut self, path: &str, fields: &str, body: &str) -> std::io::Result<RawResponse> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.front).await?,
        };
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: kylin\r\nContent-Length: {length}\r\n{fields}\r\n");
        connection.send(head + body).await?;
        let answer = connection.response().await?;
        if answer.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}
