//! No secret of a session is logged, shown by `Debug`, or stored in the clear.

use std::io::Write;
use std::sync::{Arc, Mutex};

use http::Request;
use http_body_util::BodyExt;
use kylin_lb::session::{Affinity, LoginRelay, MemoryStore, Secret, Sessions};
use kylin_lb::testing::kylin::{KylinNode, Metastore};
use kylin_lb::{Body, Cluster, Endpoint, Proxy};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::browser::basic;
use crate::support::recording::Recording;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// Set in the process that runs only this test.
const ALONE: &str = "KYLIN_LB_TEST_ALONE";

/// Runs in its own process, because the log subscriber is global.
#[test]
fn no_secret_is_logged_shown_or_stored_in_the_clear() {
    if std::env::var_os(ALONE).is_none() {
        let name = "login_relay_secrets::no_secret_is_logged_shown_or_stored_in_the_clear";
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        let output = alone.args([name, "--exact", "--nocapture"]).env(ALONE, "yes").output().unwrap();
        let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        let printed = format!("{out}{err}");
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(keeps_secrets(log));
}

async fn keeps_secrets(log: Log) {
    let metastore = Metastore::new();
    let nodes = ["q1", "q2", "q3"].map(|name| KylinNode::new(name).metastore(&metastore));
    let endpoints = nodes.iter().map(|node| Endpoint::new(node.name(), node.clone()).unwrap());
    let store = Recording::over(MemoryStore::new());
    let secret = Secret::new([7; 32]);
    let relay = LoginRelay::new(Sessions::remote(store.clone(), secret.clone()), secret);
    let mut shown = format!("{relay:?}");
    let affinity = Affinity::login_relay(relay);
    let cluster = Cluster::builder().endpoints(endpoints).build().unwrap();
    let proxy = Proxy::plain(cluster).affinity(affinity.clone()).build().unwrap();
    shown += &format!("{affinity:?} {proxy:?}");

    let mut secrets =
        vec!["KYLIN\"".to_owned(), basic("ADMIN", "KYLIN")[6..].to_owned(), "\u{7}\u{7}\u{7}\u{7}".to_owned()];
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().unwrap();
    let ask = |method: &'static str, path: &'static str, cookie: String, authorization: Option<String>| {
        let mut request = Request::builder().method(method).uri(path).header("host", "kylin").header("cookie", cookie);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        proxy.forward(client, request.body(Body::from("{}")).unwrap())
    };
    let login = ask("POST", "/kylin/api/user/authentication", String::new(), Some(basic("ADMIN", "KYLIN"))).await;
    let cookie = login.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    shown += &format!("{login:?}");
    secrets.push(cookie.split_once('=').unwrap().1.to_owned());
    for round in 0..3 {
        for _ in 0..6 {
            let response = ask("GET", "/kylin/api/projects", cookie.clone(), None).await;
            assert_eq!(response.status(), 200);
            shown += &format!("{response:?}");
        }
        for _ in 0..3 {
            let seen =
                ask("GET", "/demo/head", cookie.clone(), None).await.into_body().collect().await.unwrap().to_bytes();
            let seen = String::from_utf8_lossy(&seen).into_owned();
            let at = seen.find("JSESSIONID=").expect("a node sees its cookie") + 11;
            secrets.push(seen[at..at + 32].to_owned());
        }
        if round == 0 {
            nodes.iter().for_each(KylinNode::forget_sessions);
        }
        if round == 1 {
            // A refused login.
            nodes.iter().for_each(KylinNode::forget_sessions);
            let _ = metastore.clone().user("ADMIN", "changed", true);
            let response = ask("GET", "/kylin/api/projects", cookie.clone(), None).await;
            assert_eq!(response.status(), 503);
            break;
        }
    }
    assert_eq!(ask("GET", "/kylin/j_spring_security_logout", cookie, None).await.status(), 302);

    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(log.contains("session logged in at node"), "the log lacks the login: {log}");
    assert!(store.saves() > 3);
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret:?} in the log");
        assert!(!shown.contains(secret.as_str()), "{secret:?} in {shown}");
        assert!(!store.has_received(secret.as_bytes()), "{secret:?} in the store");
    }
    assert!(!store.has_received(b"ADMIN") && !store.has_received(b"JSESSIONID"));
}
