//! A store that is slow, silent or gone costs a bounded time and no request, and nothing secret is told.

use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use kylin_lb::clock::Clock;
use kylin_lb::kylin::KylinVersion;
use kylin_lb::session::{
    Affinity, MemoryStore, Precondition, SaveOutcome, Secret, SessionKey, SessionRecord, SessionStore, Sessions,
    StoreError, StoreFuture, Stored,
};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};

use crate::support::front::Front;
use crate::support::login::{Browser, Nodes};

const DEADLINE: Duration = Duration::from_millis(50);

/// A store that works, fails, or says nothing.
#[derive(Debug, Clone)]
struct Moody {
    store: MemoryStore,
    mood: Arc<AtomicU8>,
    saved: Arc<Mutex<Vec<SessionKey>>>,
    calls: Arc<AtomicUsize>,
}

const WORKS: u8 = 0;
const FAILS: u8 = 1;
const SILENT: u8 = 2;

impl Moody {
    fn new() -> Self {
        Moody { store: MemoryStore::new(), mood: Arc::default(), saved: Arc::default(), calls: Arc::default() }
    }

    fn is_now(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    /// As a cache does when it is restarted.
    async fn loses_all(&self) {
        let saved = std::mem::take(&mut *self.saved.lock().unwrap());
        for key in saved {
            self.store.remove(&key).await.unwrap();
        }
        assert!(self.store.is_empty());
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn or<'a, T: Send + Unpin + 'a>(
        &'a self,
        done: impl FnOnce(&'a MemoryStore) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        StoreFuture::boxed(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            match self.mood.load(Ordering::SeqCst) {
                WORKS => done(&self.store).await,
                FAILS => Err(StoreError::Unavailable("it is down".into())),
                _ => std::future::pending().await,
            }
        })
    }
}

impl SessionStore for Moody {
    fn load<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, Option<Stored>> {
        self.or(move |store| store.load(key))
    }

    fn save<'a>(
        &'a self,
        key: &'a SessionKey,
        record: &'a SessionRecord,
        expect: Precondition,
        ttl: Duration,
    ) -> StoreFuture<'a, SaveOutcome> {
        self.saved.lock().unwrap().push(*key);
        self.or(move |store| store.save(key, record, expect, ttl))
    }

    fn touch<'a>(&'a self, key: &'a SessionKey, ttl: Duration) -> StoreFuture<'a, ()> {
        self.or(move |store| store.touch(key, ttl))
    }

    fn remove<'a>(&'a self, key: &'a SessionKey) -> StoreFuture<'a, ()> {
        self.or(move |store| store.remove(key))
    }
}

/// Time as tokio's timers see it, which the tests here pause.
#[derive(Debug)]
struct Paused;

impl Clock for Paused {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// A node that knows the sessions that it has issued, and takes `sleep` seconds where the path says so.
fn node(name: &'static str) -> Endpoint<Scripted> {
    let node = Scripted::new(move |request: Request<Body>| async move {
        let mut answer = Response::new(Body::from(name));
        let path = request.uri().path();
        if let Some(id) = path.strip_prefix("/issue/") {
            let line = format!("JSESSIONID={id}-{name}");
            answer.headers_mut().insert("set-cookie", line.parse().unwrap());
        } else if let Some(seconds) = path.strip_prefix("/kylin/api/sleep/") {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
        }
        let cookie = request.headers().get("cookie").map_or("", |cookie| cookie.to_str().unwrap());
        if !cookie.is_empty() && !cookie.ends_with(name) {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok(answer)
    });
    Endpoint::new(name, node).unwrap()
}

fn sessions(store: &Moody) -> Sessions {
    Sessions::remote(store.clone(), Secret::new([7; 32])).deadline(DEADLINE).clock(Paused)
}

fn proxy(sessions: Sessions) -> Proxy<Scripted> {
    let cluster = Cluster::builder().endpoints(["a", "b", "c"].map(node)).build().unwrap();
    Proxy::plain(cluster).affinity(Affinity::learn(sessions)).build().unwrap()
}

/// The node that answers, the status, and how long it took.
async fn ask(proxy: &Proxy<Scripted>, path: &str, cookie: &str) -> (String, u16, Duration) {
    let begun = tokio::time::Instant::now();
    let mut request = Request::get(path).header("host", "kylin").body(Body::empty()).unwrap();
    if !cookie.is_empty() {
        request.headers_mut().insert("cookie", format!("JSESSIONID={cookie}").parse().unwrap());
    }
    let answer = proxy.forward(ClientAddr::Unix, request).await;
    let status = answer.status().as_u16();
    let took = begun.elapsed();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), status, took)
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_costs_its_deadline_a_few_times_and_then_nothing() {
    let store = Moody::new();
    let proxy = proxy(sessions(&store));
    store.is_now(SILENT);
    let mut waited = Duration::ZERO;
    for n in 0..100 {
        let (_, status, took) = ask(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
        assert_eq!(status, 401, "the node's own answer");
        assert!(took <= DEADLINE, "{took:?}");
        waited += took;
    }
    assert_eq!(waited, 5 * DEADLINE);
    assert_eq!(store.calls(), 5);
    // A login, with its own write, is no slower.
    let (_, status, took) = ask(&proxy, "/issue/1", "").await;
    assert_eq!((status, took), (200, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn what_was_served_before_is_served_while_the_store_is_down_and_new_bindings_are_written_afterwards() {
    for mood in [FAILS, SILENT] {
        let store = Moody::new();
        let (kept, other) = (sessions(&store), sessions(&store));
        let (one, two) = (proxy(kept.clone()), proxy(other));
        let mut homes = Vec::new();
        for n in 0..30 {
            homes.push((format!("{n}"), ask(&one, &format!("/issue/{n}"), "").await.0));
        }
        store.is_now(mood);
        // Long after the near cache has gone stale.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for n in 30..60 {
            homes.push((format!("{n}"), ask(&one, &format!("/issue/{n}"), "").await.0));
        }
        for (n, home) in &homes {
            let (node, status, took) = ask(&one, "/kylin/api/x", &format!("{n}-{home}")).await;
            assert_eq!((node.as_str(), status), (home.as_str(), 200));
            assert!(took <= DEADLINE);
        }
        assert!(kept.is_store_unavailable() && kept.backlog() == 30, "{kept:?}");

        store.is_now(WORKS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!kept.is_store_unavailable() && kept.backlog() == 0, "{kept:?}");
        for (n, home) in &homes {
            let (node, status, _) = ask(&two, "/kylin/api/x", &format!("{n}-{home}")).await;
            assert_eq!((node.as_str(), status), (home.as_str(), 200), "at the other front end");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_told_again_of_sessions_in_use() {
    for mood in [FAILS, SILENT] {
        let store = Moody::new();
        let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
        let mut homes = Vec::new();
        for n in 0..30 {
            homes.push((format!("{n}"), ask(&one, &format!("/issue/{n}"), "").await.0));
        }
        store.is_now(mood);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // One failure is enough to know that the store may lose something.
        ask(&one, "/kylin/api/x", &format!("0-{}", homes[0].1)).await;
        store.loses_all().await;
        store.is_now(WORKS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for proxy in [&one, &two] {
            for (n, home) in &homes {
                let (node, status, _) = ask(proxy, "/kylin/api/x", &format!("{n}-{home}")).await;
                assert_eq!((node.as_str(), status), (home.as_str(), 200));
            }
            assert_eq!(store.store.len(), 30);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_nothing_but_a_probe_a_second_reaches_it_and_no_request_waits_for_that() {
    for mood in [FAILS, SILENT] {
        let store = Moody::new();
        let sessions = sessions(&store);
        let proxy = proxy(sessions.clone());
        let (home, ..) = ask(&proxy, "/issue/known", "").await;
        store.is_now(mood);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for n in 0..5 {
            ask(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
        }
        assert!(sessions.is_store_unavailable());
        let (calls, begun, mut late) = (store.calls(), tokio::time::Instant::now(), 0);
        for n in 0..2000 {
            let known = ask(&proxy, "/kylin/api/x", &format!("known-{home}")).await;
            assert_eq!((known.0.as_str(), known.1), (home.as_str(), 200));
            let unknown = ask(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
            let login = ask(&proxy, &format!("/issue/{n}"), "").await;
            for (_, _, took) in [known, unknown, login] {
                late += usize::from(took > Duration::ZERO);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let seconds = begun.elapsed().as_secs() as usize;
        let probes = store.calls() - calls;
        assert!(probes <= seconds + 1 && late == 0, "{probes} probes in {seconds} s, {late} waited");
        assert!(sessions.is_store_unavailable() && probes > seconds / 2, "it is looked after: {probes} in {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn front_ends_agree_on_sessions_that_nobody_knows_while_the_store_is_down() {
    let store = Moody::new();
    store.is_now(FAILS);
    let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..30 {
        let id = format!("unknown{n}-x");
        let (node, ..) = ask(&one, "/kylin/api/x", &id).await;
        for proxy in [&one, &two] {
            assert_eq!(ask(proxy, "/kylin/api/x", &id).await.0, node);
        }
        seen.insert(node);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_expire_under_its_own_query_and_is_touched_no_more_than_it_has_to_be() {
    let store = Moody { store: MemoryStore::with_clock(100, 1 << 20, Paused), ..Moody::new() };
    let proxy = proxy(sessions(&store));
    let (home, ..) = ask(&proxy, "/issue/1", "").await;
    // JSESSIONID lives for eight hours.
    let id = format!("1-{home}");
    let calls = store.calls();
    let (_, status, _) = ask(&proxy, "/kylin/api/sleep/86400", &id).await;
    assert_eq!(status, 200);
    let calls = store.calls() - calls;
    assert!((23..=24).contains(&calls), "a touch an hour: {calls}");
    assert_eq!(store.store.len(), 1);
    let (_, status, _) = ask(&proxy, "/kylin/api/x", &id).await;
    assert_eq!(status, 200, "known after a day");
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_is_asked_for_once_per_staleness() {
    let store = Moody::new();
    let proxy = proxy(sessions(&store));
    let (home, ..) = ask(&proxy, "/issue/1", "").await;
    let before = store.calls();
    for _ in 0..100 {
        ask(&proxy, "/kylin/api/x", &format!("1-{home}")).await;
    }
    assert_eq!(store.calls(), before, "the near cache answers");
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..100 {
        ask(&proxy, "/kylin/api/x", &format!("1-{home}")).await;
    }
    assert_eq!(store.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_binding_is_in_the_store_before_the_answer_leaves() {
    let store = Moody::new();
    let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
    for n in 0..30 {
        let (home, ..) = ask(&one, &format!("/issue/{n}"), "").await;
        assert_eq!(store.store.len(), n + 1);
        assert_eq!(ask(&two, "/kylin/api/x", &format!("{n}-{home}")).await.0, home);
    }
}

/// Sessions of whose origin nobody knows any more: all front ends have been restarted.
#[tokio::test]
async fn two_front_ends_that_see_a_session_for_the_first_time_at_once_agree() {
    let store = Moody::new();
    // Every node takes every session, so that only the store can decide.
    let open = |name: &'static str| {
        let node = Scripted::new(move |_: Request<Body>| async move {
            tokio::task::yield_now().await;
            Ok(Response::new(Body::from(name)))
        });
        Endpoint::new(name, node).unwrap()
    };
    let fronts = [(); 2].map(|()| {
        let cluster = Cluster::builder().endpoints(["a", "b", "c"].map(open)).build().unwrap();
        Proxy::plain(cluster).affinity(Affinity::learn(sessions(&store))).build().unwrap()
    });
    // Out of step, so that the two would choose differently.
    ask(&fronts[1], "/", "").await;
    for n in 0..500 {
        let id = format!("{n}");
        tokio::join!(ask(&fronts[0], "/kylin/api/x", &id), ask(&fronts[1], "/kylin/api/x", &id));
        let (one, ..) = ask(&fronts[0], "/kylin/api/x", &id).await;
        let (two, ..) = ask(&fronts[1], "/kylin/api/x", &id).await;
        assert_eq!(one, two, "{n}");
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// At the trace level, over real sockets, with a store that fails: no id, no cookie, no credential anywhere.
#[tokio::test]
async fn nothing_that_is_logged_or_shown_holds_a_session_id_or_a_credential() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    // All that a proxy of this thread does; the nodes and the server have threads of their own or are called before.
    let nodes = Nodes::of(KylinVersion::V4, 2).await;
    let store = Moody::new();
    let sessions = Sessions::remote(store.clone(), Secret::new([7; 32]));
    let cookie = Affinity::cookie(Secret::new([9; 32]));
    let learn = Affinity::learn(sessions.clone()).or_user(Secret::new([8; 32]));
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut secrets = vec!["QURNSU46S1lMSU4".to_owned(), "KYLIN".to_owned(), "made-up-by-a-client".to_owned()];
    for affinity in [learn, cookie] {
        let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(affinity.clone()));
        tracing::trace!(?affinity, proxy = ?front.proxy, ?sessions, "shown");
        let mut user = Browser::default();
        for mood in [WORKS, FAILS, SILENT, WORKS] {
            store.is_now(mood);
            // In process, so that it happens on this thread.
            for (path, credentials) in [("/kylin/api/user/authentication", true), ("/kylin/api/projects", false)] {
                let mut request = Request::get(path).header("host", "kylin").body(Body::empty()).unwrap();
                if credentials {
                    request.headers_mut().insert("authorization", "Basic QURNSU46S1lMSU4=".parse().unwrap());
                }
                let cookies: Vec<String> = user.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let cookies =
                    if cookies.is_empty() { "JSESSIONID=made-up-by-a-client".into() } else { cookies.join("; ") };
                request.headers_mut().insert("cookie", cookies.parse().unwrap());
                tracing::trace!(?affinity, "asking");
                let answer = front.proxy.forward(ClientAddr::Unix, request).await;
                for line in answer.headers().get_all("set-cookie") {
                    let (name, value) = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
                    secrets.push(value.to_owned());
                    user.cookies.insert(name.to_owned(), value.to_owned());
                }
            }
            user.get(&front, "/kylin/api/projects").await;
        }
    }
    let text = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(text.contains("shown") && text.contains("Affinity::learn"), "the subscriber works: {text}");
    assert!(secrets.len() > 5, "there were cookies: {secrets:?}");
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
    }
}
