//! A store that fails or does not respond costs a bounded time and no request, and no secret is
//! logged.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use kylin_lb::observe::{Observer, StoreChanged, Watch};
use kylin_lb::session::{Affinity, MemoryStore, Secret, Sessions};
use kylin_lb::testing::kylin::Dialect;
use kylin_lb::testing::{FailingStore, Scripted, StoreFault};
use kylin_lb::{Body, ClientAddr, Cluster, Endpoint, Proxy};
use tracing::instrument::WithSubscriber as _;

use crate::support::clock::PausedClock;
use crate::support::dialects::in_each_dialect;
use crate::support::front::Front;
use crate::support::login::{Browser, Nodes};
use crate::support::subscriber::CapturedLog;

const DEADLINE: Duration = Duration::from_millis(50);

fn limit(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap()
}

const WORKS: Option<StoreFault> = None;
const FAILS: Option<StoreFault> = Some(StoreFault::Fails);
const HANGS: Option<StoreFault> = Some(StoreFault::Hangs);

/// Makes a node that accepts only the sessions that it has issued, and sleeps as long as the path
/// says.
fn node(name: &'static str) -> Endpoint<Scripted> {
    let node = Scripted::new(move |request: Request<Body>| async move {
        let mut response = Response::new(Body::from(name));
        let path = request.uri().path();
        if let Some(id) = path.strip_prefix("/issue/") {
            let line = format!("JSESSIONID={id}-{name}");
            response.headers_mut().insert("set-cookie", line.parse().unwrap());
        } else if let Some(seconds) = path.strip_prefix("/kylin/api/sleep/") {
            tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
        }
        let cookie = request.headers().get("cookie").map_or("", |cookie| cookie.to_str().unwrap());
        if !cookie.is_empty() && !cookie.ends_with(name) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok(response)
    });
    Endpoint::new(name, node).unwrap()
}

fn sessions(store: &FailingStore) -> Sessions {
    let builder = Sessions::builder(store.clone(), Secret::new([7; 32]));
    builder.deadline(DEADLINE).clock(PausedClock).build().unwrap()
}

fn proxy(sessions: Sessions) -> Proxy<Scripted> {
    let cluster = Cluster::builder().endpoints(["a", "b", "c"].map(node)).build().unwrap();
    Proxy::plain(cluster).affinity(Affinity::learn(sessions)).build().unwrap()
}

/// Sends a request. Returns the node that responded, the status, and the time it took.
async fn send(proxy: &Proxy<Scripted>, path: &str, cookie: &str) -> (String, u16, Duration) {
    let begun = tokio::time::Instant::now();
    let mut request = Request::get(path).header("host", "kylin").body(Body::empty()).unwrap();
    if !cookie.is_empty() {
        request.headers_mut().insert("cookie", format!("JSESSIONID={cookie}").parse().unwrap());
    }
    let response = proxy.forward(ClientAddr::Unix, request).await;
    let status = response.status().as_u16();
    let took = begun.elapsed();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), status, took)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_its_deadline_a_few_times_and_then_nothing() {
    let store = FailingStore::new();
    let proxy = proxy(sessions(&store));
    store.set_fault(HANGS);
    let mut waited = Duration::ZERO;
    for n in 0..100 {
        let (_, status, took) = send(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
        assert_eq!(status, 401, "the response of the node");
        assert!(took <= DEADLINE, "{took:?}");
        waited += took;
    }
    assert_eq!(waited, 5 * DEADLINE);
    assert_eq!(store.calls(), 5);
    // A login, which writes to the store, is no slower.
    let (_, status, took) = send(&proxy, "/issue/1", "").await;
    assert_eq!((status, took), (200, Duration::ZERO));
}

/// Records when a store changes, and the reported facts.
#[derive(Clone)]
struct StoreNotes(Arc<Mutex<Vec<(Duration, String)>>>, tokio::time::Instant);

impl Observer for StoreNotes {
    fn store_changed(&self, event: &StoreChanged<'_>) {
        let text = format!("{} {} {:?} {:?}", event.store, event.available, event.phase, event.error);
        self.0.lock().unwrap().push((self.1.elapsed(), text));
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_learns_at_the_failure_that_a_store_is_unavailable_and_why() {
    let store = FailingStore::new();
    let sessions = sessions(&store);
    let proxy = proxy(sessions.clone());
    let notes = StoreNotes(Arc::default(), tokio::time::Instant::now());
    let _watch = Watch::new(notes.clone()).sessions("s", &sessions);
    for (fault, error) in [
        (FAILS, "the session store is unavailable: the test wants it"),
        (HANGS, "the session store did not respond within 50ms"),
    ] {
        // Not at a time at which the state would be read anyway.
        tokio::time::sleep(Duration::from_millis(1111)).await;
        store.set_fault(fault);
        for n in 0..8 {
            send(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
        }
        let failed = notes.1.elapsed();
        tokio::task::yield_now().await;
        let told = std::mem::take(&mut *notes.0.lock().unwrap());
        assert_eq!(told, [(failed, format!("s false None Some({error:?})"))]);
        store.set_fault(WORKS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let told = std::mem::take(&mut *notes.0.lock().unwrap());
        assert_eq!(told.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["s true None None"]);
    }
}

#[tokio::test(start_paused = true)]
async fn known_sessions_keep_their_node_while_the_store_is_down_and_new_bindings_are_written_afterwards() {
    for mode in [FAILS, HANGS] {
        let store = FailingStore::new();
        let (kept, other) = (sessions(&store), sessions(&store));
        let (one, two) = (proxy(kept.clone()), proxy(other));
        let mut homes = Vec::new();
        for n in 0..30 {
            homes.push((format!("{n}"), send(&one, &format!("/issue/{n}"), "").await.0));
        }
        store.set_fault(mode);
        // Long after the entries of the near cache became stale.
        tokio::time::sleep(Duration::from_secs(3600)).await;
        for n in 30..60 {
            homes.push((format!("{n}"), send(&one, &format!("/issue/{n}"), "").await.0));
        }
        for (n, home) in &homes {
            let (node, status, took) = send(&one, "/kylin/api/x", &format!("{n}-{home}")).await;
            assert_eq!((node.as_str(), status), (home.as_str(), 200));
            assert!(took <= DEADLINE);
        }
        assert!(!kept.is_store_available() && kept.pending_writes() == 30, "{kept:?}");

        store.set_fault(WORKS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(kept.is_store_available() && kept.pending_writes() == 0, "{kept:?}");
        for (n, home) in &homes {
            let (node, status, _) = send(&two, "/kylin/api/x", &format!("{n}-{home}")).await;
            assert_eq!((node.as_str(), status), (home.as_str(), 200), "at the other front end");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bindings_in_use_are_written_again_to_a_store_that_lost_them() {
    for mode in [FAILS, HANGS] {
        let store = FailingStore::new();
        let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
        let mut homes = Vec::new();
        for n in 0..30 {
            homes.push((format!("{n}"), send(&one, &format!("/issue/{n}"), "").await.0));
        }
        store.set_fault(mode);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // After one failure, the store may have lost records.
        send(&one, "/kylin/api/x", &format!("0-{}", homes[0].1)).await;
        store.lose_all().await;
        store.set_fault(WORKS);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for proxy in [&one, &two] {
            for (n, home) in &homes {
                let (node, status, _) = send(proxy, "/kylin/api/x", &format!("{n}-{home}")).await;
                assert_eq!((node.as_str(), status), (home.as_str(), 200));
            }
            assert_eq!(store.records().len(), 30);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_store_receives_one_probe_a_second_and_no_request_waits() {
    for mode in [FAILS, HANGS] {
        let store = FailingStore::new();
        let sessions = sessions(&store);
        let proxy = proxy(sessions.clone());
        let (home, ..) = send(&proxy, "/issue/known", "").await;
        store.set_fault(mode);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for n in 0..5 {
            send(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
        }
        assert!(!sessions.is_store_available());
        let (calls, begun, mut late) = (store.calls(), tokio::time::Instant::now(), 0);
        for n in 0..2000 {
            let known = send(&proxy, "/kylin/api/x", &format!("known-{home}")).await;
            assert_eq!((known.0.as_str(), known.1), (home.as_str(), 200));
            let unknown = send(&proxy, "/kylin/api/x", &format!("unknown{n}-x")).await;
            let login = send(&proxy, &format!("/issue/{n}"), "").await;
            for (_, _, took) in [known, unknown, login] {
                late += usize::from(took > Duration::ZERO);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        let seconds = begun.elapsed().as_secs() as usize;
        let probes = store.calls() - calls;
        assert!(probes <= seconds + 1 && late == 0, "{probes} probes in {seconds} s, {late} waited");
        assert!(!sessions.is_store_available() && probes > seconds / 2, "the task probes: {probes} in {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn front_ends_agree_on_unknown_sessions_while_the_store_is_down() {
    let store = FailingStore::new();
    store.set_fault(FAILS);
    let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..30 {
        let id = format!("unknown{n}-x");
        let (node, ..) = send(&one, "/kylin/api/x", &id).await;
        for proxy in [&one, &two] {
            assert_eq!(send(proxy, "/kylin/api/x", &id).await.0, node);
        }
        seen.insert(node);
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_expire_during_its_query_and_is_touched_rarely() {
    let store = FailingStore::over(MemoryStore::with_clock(limit(100), limit(1 << 20), PausedClock));
    let proxy = proxy(sessions(&store));
    let (home, ..) = send(&proxy, "/issue/1", "").await;
    // A JSESSIONID lives for eight hours.
    let id = format!("1-{home}");
    let calls = store.calls();
    let (_, status, _) = send(&proxy, "/kylin/api/sleep/86400", &id).await;
    assert_eq!(status, 200);
    let calls = store.calls() - calls;
    assert!((23..=24).contains(&calls), "a touch an hour: {calls}");
    assert_eq!(store.records().len(), 1);
    let (_, status, _) = send(&proxy, "/kylin/api/x", &id).await;
    assert_eq!(status, 200, "known after a day");
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_is_loaded_once_per_staleness() {
    let store = FailingStore::new();
    let proxy = proxy(sessions(&store));
    let (home, ..) = send(&proxy, "/issue/1", "").await;
    let before = store.calls();
    for _ in 0..100 {
        send(&proxy, "/kylin/api/x", &format!("1-{home}")).await;
    }
    assert_eq!(store.calls(), before, "the near cache serves them");
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..100 {
        send(&proxy, "/kylin/api/x", &format!("1-{home}")).await;
    }
    assert_eq!(store.calls(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_binding_is_in_the_store_before_the_response_is_sent() {
    let store = FailingStore::new();
    let (one, two) = (proxy(sessions(&store)), proxy(sessions(&store)));
    for n in 0..30 {
        let (home, ..) = send(&one, &format!("/issue/{n}"), "").await;
        assert_eq!(store.records().len(), n + 1);
        assert_eq!(send(&two, "/kylin/api/x", &format!("{n}-{home}")).await.0, home);
    }
}

/// All front ends were restarted, so that none knows the node of the sessions.
#[tokio::test]
async fn two_front_ends_that_bind_a_session_at_the_same_time_agree() {
    let store = FailingStore::new();
    // Every node accepts every session, so that only the store decides.
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
    // The rotations differ, so that the front ends would choose different nodes.
    send(&fronts[1], "/", "").await;
    for n in 0..500 {
        let id = format!("{n}");
        tokio::join!(send(&fronts[0], "/kylin/api/x", &id), send(&fronts[1], "/kylin/api/x", &id));
        let (one, ..) = send(&fronts[0], "/kylin/api/x", &id).await;
        let (two, ..) = send(&fronts[1], "/kylin/api/x", &id).await;
        assert_eq!(one, two, "{n}");
    }
}

in_each_dialect!(no_log_or_debug_output_contains_a_session_id_or_a_credential);
/// At the trace level, over real sockets, with a failing store, the log contains no id, cookie or
/// credentials.
async fn no_log_or_debug_output_contains_a_session_id_or_a_credential(dialect: Dialect) {
    let captured = CapturedLog::default();
    let subscriber = captured.subscriber(tracing::Level::TRACE);
    // The subscriber sees only this future. The dialects take turns on the thread, and nodes and
    // server have their own threads.
    let secrets = secrets_seen(dialect).with_subscriber(subscriber).await;
    let text = captured.text();
    assert!(text.contains("shown") && text.contains("Affinity::learn"), "the subscriber works: {text}");
    assert!(secrets.len() > 5, "there were cookies: {secrets:?}");
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
    }
}

/// Returns the texts that no log may contain, after requests that carried them.
async fn secrets_seen(dialect: Dialect) -> Vec<String> {
    let nodes = Nodes::of(dialect, 2).await;
    let store = FailingStore::new();
    let sessions = Sessions::remote(store.clone(), Secret::new([7; 32]));
    let cookie = Affinity::cookie(Secret::new([9; 32]));
    let learn = Affinity::learn(sessions.clone()).or_user(Secret::new([8; 32]));
    let mut secrets = vec!["QURNSU46S1lMSU4".to_owned(), "KYLIN".to_owned(), "made-up-by-a-client".to_owned()];
    for affinity in [learn, cookie] {
        let front = Front::with(&nodes.addresses(), |proxy| proxy.affinity(affinity.clone()));
        tracing::trace!(?affinity, proxy = ?front.proxy, ?sessions, "shown");
        let mut user = Browser::default();
        for mode in [WORKS, FAILS, HANGS, WORKS] {
            store.set_fault(mode);
            // The proxy runs in process, on this thread.
            for (path, credentials) in [("/kylin/api/user/authentication", true), ("/kylin/api/projects", false)] {
                let mut request = Request::get(path).header("host", "kylin").body(Body::empty()).unwrap();
                if credentials {
                    request.headers_mut().insert("authorization", "Basic QURNSU46S1lMSU4=".parse().unwrap());
                }
                let cookies: Vec<String> = user.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let cookies =
                    if cookies.is_empty() { "JSESSIONID=made-up-by-a-client".into() } else { cookies.join("; ") };
                request.headers_mut().insert("cookie", cookies.parse().unwrap());
                tracing::trace!(?affinity, "sending");
                let response = front.proxy.forward(ClientAddr::Unix, request).await;
                for line in response.headers().get_all("set-cookie") {
                    let (name, value) = line.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
                    // A cookie that is deleted has none.
                    secrets.extend((!value.is_empty()).then(|| value.to_owned()));
                    user.cookies.insert(name.to_owned(), value.to_owned());
                }
            }
            user.get(&front, "/kylin/api/projects").await;
        }
    }
    secrets
}
