//! `--admin` of the example front end: the page in a real browser, the listener, and
//! `kylin_front ctl`.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::chromium::{Page, require_chromium};
use crate::support::example::{TIMEOUT, address, program, run, spawn, start};
use crate::support::front::{closed_port, demo, until};
use crate::support::http::{self, Connection};
use crate::support::process::Process;

const TOKEN: &str = "0123456789abcdef0123";

struct Fixture {
    folder: TempDir,
    token_file: String,
}

impl Fixture {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let token_file = folder.path().join("token").to_str().unwrap().to_owned();
        std::fs::write(&token_file, format!("{TOKEN}\n")).unwrap();
        Fixture { folder, token_file }
    }

    /// Starts a front end of three demo nodes with a page. Returns the addresses of both.
    async fn start(&self, args: &[&str]) -> (Process, SocketAddr, SocketAddr) {
        let with_admin = ["--admin", "127.0.0.1:0", "--admin-token-file", &self.token_file];
        let (process, front) = start(&[args, &with_admin].concat()).await;
        let page = address(&process, "admin on http://");
        (process, front, page)
    }

    /// Does not block, because nodes in this process must keep serving.
    async fn ctl(&self, admin: &str, words: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(program());
        let words = command.arg("ctl").args(words).args(["--admin", admin, "--token-file", &self.token_file]);
        words.output().await.unwrap()
    }
}

async fn status(page: SocketAddr) -> Value {
    let response = http::get(page, "/status", &[]).await.unwrap();
    assert_eq!(response.status(), 200);
    serde_json::from_slice(&response.body).unwrap()
}

fn endpoint<'s>(status: &'s Value, id: &str) -> &'s Value {
    let endpoints = status["clusters"]["kylin"]["endpoints"].as_array().unwrap();
    endpoints.iter().find(|endpoint| endpoint["id"] == id).unwrap()
}

async fn queries(front: SocketAddr, count: usize) {
    for _ in 0..count {
        assert_eq!(Browser::insistent(front, "ADMIN", "KYLIN").query().await.status(), 200);
    }
}

fn output(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn an_operator_sees_the_nodes_in_a_browser_and_drains_one_by_a_click() {
    if !require_chromium() {
        return;
    }
    let fixture = Fixture::new();
    let (process, front, operators) = fixture.start(&["--policy=round-robin", "--sessions=memory"]).await;
    let mut page = Page::open(&format!("http://{operators}/"), (1280, 720)).await;
    page.until("document.querySelectorAll('tr[data-endpoint]').length === 3").await;
    let cell = |node: &str, label: &str| {
        format!("document.querySelector('tr[data-endpoint={node}] td[data-label=\"{label}\"]').innerText")
    };
    let served = cell("node-1", "load");
    page.until(&format!("{}.includes('healthy')", cell("node-1", "health"))).await;

    // Numbers change by themselves.
    let before = page.eval(&served).await;
    queries(front, 9).await;
    page.until(&format!("{served} !== {before} && {}.includes('p99')", cell("node-1", "latency"))).await;

    // A click asks for the token, because there is none yet, and then performs the action.
    page.click("tr[data-endpoint=node-1] [data-action=drain]").await;
    page.until("!document.getElementById('login').hidden").await;
    page.type_line("a-wrong-token-of-some-length").await;
    page.until("document.getElementById('message').innerText.includes('not done')").await;
    assert_eq!(endpoint(&status(operators).await, "node-1")["admin_state"], "ready");
    page.until("!document.getElementById('login').hidden").await;
    page.type_line(TOKEN).await;
    page.until(&format!("{}.startsWith('drain')", cell("node-1", "admin state"))).await;
    page.until(&format!("{}.includes('no request is left')", cell("node-1", "admin state"))).await;
    assert_eq!(endpoint(&status(operators).await, "node-1")["admin_state"], "drain");
    page.until("document.getElementById('login').hidden").await;
    let before = status(operators).await;
    queries(front, 9).await;
    let after = status(operators).await;
    let served_by = |status: &Value, id: &str| endpoint(status, id)["served"].as_u64().unwrap();
    assert_eq!(served_by(&after, "node-1"), served_by(&before, "node-1"), "a drained node gets no new sessions");
    assert!(served_by(&after, "node-2") >= served_by(&before, "node-2") + 4, "{after}");

    // The token is kept only in memory.
    assert_eq!(page.eval("localStorage.length + sessionStorage.length + document.cookie.length").await, 0);
    page.click("tr[data-endpoint=node-3] [data-action=drain]").await;
    page.until(&format!("{}.startsWith('drain')", cell("node-3", "admin state"))).await;
    page.click("tr[data-endpoint=node-3] [data-action=ready]").await;
    page.until(&format!("{}.startsWith('ready')", cell("node-3", "admin state"))).await;
    if let Some(file) = std::env::var_os("KYLIN_LB_SCREENSHOT") {
        std::fs::write(file, page.screenshot().await).unwrap();
    }
    // The browser itself logs the response 401 to the wrong token; the policy has blocked nothing.
    let unexpected: Vec<_> = page.errors.iter().filter(|error| !error.contains("401")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    let log = process.file("stderr");
    assert!(log.contains("operator: drain") && !log.contains(TOKEN), "{log}");
}

#[tokio::test]
async fn the_page_says_that_all_nodes_are_dead_and_fits_a_phone() {
    if !require_chromium() {
        return;
    }
    let fixture = Fixture::new();
    let named = format!("q1@{},q2@{}", closed_port(), closed_port());
    let (_process, _front, operators) = fixture.start(&["--nodes", &named, "--probe=tcp"]).await;
    let mut page = Page::open(&format!("http://{operators}/"), (390, 800)).await;
    page.until("document.getElementById('problems').innerText.includes('no node is up since')").await;
    let problems = page.eval("document.getElementById('problems').innerText").await;
    let problems = problems.as_str().unwrap();
    assert!(problems.contains("q1 ") && problems.contains("q2 ") && problems.contains('('), "{problems}");
    assert_eq!(page.eval("document.documentElement.scrollWidth <= innerWidth").await, true, "wider than the window");
    assert!(page.errors.is_empty(), "{:?}", page.errors);
}

#[tokio::test]
async fn a_shell_does_what_the_page_does() {
    let fixture = Fixture::new();
    let (process, front, operators) = fixture.start(&[]).await;
    let admin = operators.to_string();
    queries(front, 6).await;
    let (code, text) = output(&fixture.ctl(&admin, &["status"]).await);
    assert!(code == Some(0) && text.contains("node-3") && text.contains("healthy"), "{text}");
    let (code, text) = output(&fixture.ctl(&admin, &["drain", "node-1", "--wait"]).await);
    assert!(code == Some(0) && text.contains("node-1: drain") && text.contains("no request is left"), "{text}");
    assert_eq!(endpoint(&status(operators).await, "node-1")["admin_state"], "drain");
    for (words, member, value) in [
        (&["ready", "node-1"][..], "admin_state", Value::from("ready")),
        (&["maintenance", "node-1", "--cluster=kylin"], "admin_state", "maintenance".into()),
        (&["weight", "node-2", "5"], "weight", 5.into()),
    ] {
        assert_eq!(fixture.ctl(&admin, words).await.status.code(), Some(0), "{words:?}");
        assert_eq!(endpoint(&status(operators).await, words[1])[member], value, "{words:?}");
    }
    let (code, text) = output(&fixture.ctl(&admin, &["status", "--json"]).await);
    assert!(
        code == Some(0) && serde_json::from_str::<Value>(&text).unwrap()["clusters"]["kylin"].is_object(),
        "{text}"
    );
    let (code, text) = output(&fixture.ctl(&admin, &["reload"]).await);
    assert!(code == Some(0) && text.contains("no change"), "{text}");
    assert!(process.file("stderr").contains("reloaded"), "{}", process.file("stderr"));
    assert_eq!(fixture.ctl(&admin, &["log-level", "off"]).await.status.code(), Some(0));
    let before = process.file("stderr").len();
    assert_eq!(fixture.ctl(&admin, &["ready", "node-1"]).await.status.code(), Some(0));
    assert_eq!(process.file("stderr").len(), before, "the log is off");

    for (words, code, why) in [
        (&["drain", "node-9"][..], 1, "no endpoint is named node-9"),
        (&["drain", "node-1", "--cluster", "other"], 1, "no endpoint is named node-1"),
        (&["weight", "node-1", "0"], 2, "weight 0: expected a number from 1 to 65535; try --help\n"),
        (&["weight", "node-1", "-1"], 2, "weight -1: expected a number from 1 to 65535; try --help\n"),
        (&["weight", "node-1", "abc"], 2, "weight abc: expected a number from 1 to 65535; try --help\n"),
        (&["weight", "node-1", "65536"], 2, "weight 65536: expected a number from 1 to 65535; try --help\n"),
        (&["weight", "node-1", "-x"], 2, "unknown option -x"),
        (&["log-level", "loud"], 1, "loud: expected error"),
        (&["drain"], 2, "drain: expected status, ready NODE"),
        (&["destroy", "node-1"], 2, "destroy node-1: expected status"),
        (&[], 2, "a verb is missing"),
        (&["status", "--wait"], 2, "--wait needs the verb drain"),
    ] {
        let (ended, text) = output(&fixture.ctl(&admin, words).await);
        assert!(ended == Some(code) && text.contains(why), "{words:?}: {ended:?} {text}");
    }
    // The requests have no token, or another one.
    assert_eq!(
        output(&run(&["ctl", "drain", "node-1", "--admin", &admin])).1.trim(),
        "kylin_front ctl: actions need the token"
    );
    std::fs::write(&fixture.token_file, "a-wrong-token-of-some-length").unwrap();
    assert!(output(&fixture.ctl(&admin, &["drain", "node-1"]).await).1.contains("actions need the token"));
    let (code, text) = output(&run(&["ctl", "status", "--admin", &closed_port().to_string()]));
    assert!(code == Some(1) && text.contains("refused"), "{code:?} {text}");
    assert!(output(&run(&["ctl", "--help"])).1.contains("--token-file"));
}

#[tokio::test]
async fn the_token_is_read_again_at_a_reload_and_a_bad_one_changes_nothing() {
    let fixture = Fixture::new();
    let (process, _front, operators) = fixture.start(&["--demo=1"]).await;
    let admin = operators.to_string();
    std::fs::write(&fixture.token_file, "another-token-of-some-length").unwrap();
    assert_eq!(fixture.ctl(&admin, &["drain", "node-1"]).await.status.code(), Some(1));
    process.signal("HUP");
    until("the new token", async || fixture.ctl(&admin, &["drain", "node-1"]).await.status.success()).await;
    let good = std::fs::read_to_string(&fixture.token_file).unwrap();
    let other = fixture.folder.path().join("good");
    std::fs::write(&other, good).unwrap();
    std::fs::write(&fixture.token_file, "short").unwrap();
    let with_good = |words: &[&str]| {
        output(&run(&[&["ctl"][..], words, &["--admin", &admin, "--token-file", other.to_str().unwrap()]].concat()))
    };
    let (code, text) = with_good(&["reload"]);
    assert!(code == Some(1) && text.contains("not reloaded: --admin-token-file") && !text.contains("short"), "{text}");
    assert_eq!(with_good(&["ready", "node-1"]).0, Some(0), "the old token stays");
}

#[tokio::test]
async fn the_listener_of_operators_keeps_metrics_to_readers() {
    let fixture = Fixture::new();
    let (_process, front, operators) = fixture.start(&["--demo=1"]).await;
    queries(front, 1).await;
    let metrics = http::get(operators, "/metrics", &[]).await.unwrap();
    assert!(metrics.status() == 200 && metrics.text().contains("kylin_lb_requests_total"), "{}", metrics.text());
    let forwarded = [("x-forwarded-for", "192.0.2.7")];
    let evil = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    for path in ["/metrics", "/status"] {
        assert_eq!(http::get(operators, path, &forwarded).await.unwrap().status(), 401, "{path}");
        let bearer = [("x-forwarded-for", "192.0.2.7"), ("authorization", "Bearer 0123456789abcdef0123")];
        assert_eq!(http::get(operators, path, &bearer).await.unwrap().status(), 200, "{path}");
        let mut connection = Connection::open(operators).await.unwrap();
        connection.send(evil.replace("/metrics", path)).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), 403, "{path}");
    }
    assert_eq!(http::get(front, "/status", &[]).await.unwrap().status(), 404, "clients do not get the status");
}

#[tokio::test]
async fn the_status_without_a_login_is_for_no_page_of_another_origin() {
    let (_node, served) = demo("n1").await;
    let named = format!("n1@{}", served.addr());
    let (process, _front) = start(&["--nodes", &named, "--status=127.0.0.1:0", "--admin-host=front.example"]).await;
    let operators = address(&process, "status on http://");
    for path in ["/front/status", "/metrics"] {
        for (headers, expected) in [
            (format!("Host: {operators}"), 200),
            ("Host: front.example:8081".to_owned(), 200),
            ("Host: evil.example".to_owned(), 403),
            (format!("Host: {operators}\r\nOrigin: http://evil.example"), 403),
            (format!("Host: {operators}\r\nSec-Fetch-Site: cross-site"), 403),
        ] {
            let mut connection = Connection::open(operators).await.unwrap().read_timeout(TIMEOUT);
            connection.send(format!("GET {path} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n")).await.unwrap();
            assert_eq!(connection.response().await.unwrap().status(), expected, "{path} {headers}");
        }
    }
}

#[tokio::test]
async fn readers_on_this_machine_need_the_token_if_that_is_wanted() {
    let fixture = Fixture::new();
    let (process, _front, operators) = fixture.start(&["--demo=1", "--admin-read=token", "--log=info"]).await;
    for path in ["/status", "/metrics"] {
        assert_eq!(http::get(operators, path, &[]).await.unwrap().status(), 401, "{path}");
        let bearer = [("authorization", "Bearer 0123456789abcdef0123")];
        assert_eq!(http::get(operators, path, &bearer).await.unwrap().status(), 200, "{path}");
    }
    let admin = operators.to_string();
    let set = fixture.ctl(&admin, &["log-level", "off"]).await;
    assert!(set.status.success(), "{}", output(&set).1);
    let log = process.file("stderr");
    assert!(log.contains("operator sets the log level") && log.contains("level=\"off\""), "{log}");
    let drained = fixture.ctl(&admin, &["drain", "node-1", "--wait", "--json"]).await;
    let json: Value = serde_json::from_slice(&drained.stdout).expect("one JSON object");
    assert_eq!(
        (&json["endpoint"]["admin_state"], &json["endpoint"]["waits_for"]["drained"]),
        (&"drain".into(), &true.into())
    );
    for (args, why) in [
        (&["--admin-read=token", "--admin=127.0.0.1:0"][..], "--admin-read token needs --admin-token-file"),
        (&["--admin-read=local"], "--admin-read needs --admin"),
        (&["--admin=127.0.0.1:0", "--admin-read=all"], "--admin-read all: expected local or token"),
        (&["--admin-host=a.example"], "--admin-host needs --admin or --status"),
    ] {
        let (code, text) = output(&run(args));
        assert!(code == Some(2) && text.contains(why), "{args:?}: {text}");
    }
}

#[tokio::test]
async fn a_name_of_this_host_and_a_unix_socket_work() {
    let fixture = Fixture::new();
    let socket = fixture.folder.path().join("admin.sock");
    let socket = format!("unix:{}", socket.display());
    let (_node, served) = demo("n1").await;
    let named = format!("n1@{}", served.addr());
    let args =
        ["--nodes", &named, "--admin", &socket, "--admin-token-file", &fixture.token_file, "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    assert!(process.file("stdout").contains(&format!("admin on {socket}")), "{}", process.file("stdout"));
    assert_eq!(fixture.ctl(&socket, &["drain", "n1", "--wait"]).await.status.code(), Some(0));
    let (_, text) = output(&fixture.ctl(&socket, &["status"]).await);
    assert!(text.contains("drain") && text.contains("no request is left"), "{text}");

    let args = ["--nodes", &named, "--admin=127.0.0.1:0", "--admin-host=front.example", "--listen=127.0.0.1:0"];
    let process = spawn(&args).await;
    let operators = address(&process, "admin on http://");
    for (host, expected) in [("front.example", 200), ("other.example", 403)] {
        let mut connection = Connection::open(operators).await.unwrap().read_timeout(TIMEOUT);
        connection.send(format!("GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), expected, "{host}");
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_query_in_flight() {
    let fixture = Fixture::new();
    let (node, served) = demo("n1").await;
    let (_other, other) = demo("n2").await;
    let named = format!("n1@{},n2@{} backup", served.addr(), other.addr()).replace(',', ", ");
    let (_process, front, operators) = fixture.start(&["--nodes", &named, "--probe=none"]).await;
    let admin = operators.to_string();
    node.faults().set_query_latency(Duration::from_secs(600));
    let query = tokio::spawn(async move { Browser::insistent(front, "ADMIN", "KYLIN").query().await });
    until("the query", async || endpoint(&status(operators).await, "n1")["in_flight"] == 1).await;
    let (code, text) = output(&fixture.ctl(&admin, &["drain", "n1"]).await);
    assert!(code == Some(0) && text.contains("waits for 1 requests in flight"), "{text}");
    let mut drained = std::pin::pin!(fixture.ctl(&admin, &["drain", "n1", "--wait"]));
    // `ctl` reads the status twice a second.
    let early = tokio::time::timeout(Duration::from_millis(1200), drained.as_mut()).await;
    assert!(early.is_err(), "a query is in flight: {early:?}");
    query.abort();
    let (code, text) = output(&drained.await);
    assert!(code == Some(0) && text.contains("no request is left"), "{text}");
}
