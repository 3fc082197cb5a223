//! The example front end as a user runs it: the built program, its options, its signals.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use kylin_lb::testing::KylinNode;
use tempfile::TempDir;

use crate::support::example::{TIMEOUT, run, spawn, start};
use crate::support::front::eventually;
use crate::support::http::{self, Connection};
use crate::support::port::free_port;

const QUERY: &str = r#"{"sql":"select 1","project":"learn_kylin"}"#;

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn the_demo_answers_logs_in_and_balances() {
    let (mut process, front) = start(&["--demo", "3"]).await;
    let mut connection = Connection::open(front).await.unwrap();
    connection.send(post("/kylin/api/user/authentication", "")).await.unwrap();
    let login = connection.response().await.unwrap();
    assert_eq!(login.status(), 200);
    assert!(login.header("set-cookie").unwrap().starts_with("JSESSIONID="));
    let mut nodes = BTreeSet::new();
    for _ in 0..6 {
        connection.send(post("/kylin/api/query", QUERY)).await.unwrap();
        let text = connection.response().await.unwrap().text().to_owned();
        let at = text.find("node-").unwrap();
        nodes.insert(text[at..at + 6].to_owned());
    }
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["node-1", "node-2", "node-3"]);
    assert!(process.file("stdout").contains("curl -s -c cookies -u ADMIN:KYLIN"));
    drop(connection);
    process.signal("TERM");
    assert_eq!(process.ended(TIMEOUT).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn an_nginx_configuration_is_served_as_is_and_a_signal_lets_requests_finish() {
    let node = KylinNode::new("q1");
    let served = node.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("kylin.conf");
    // The configuration of Kylin's manual, with an address that is reachable.
    let text = format!(
        "upstream kylin {{
    server {}; # Kylin Server 1
    server 127.0.0.1:1 down; # Kylin Server 2
}}
server {{
    listen 8080;
    location / {{
        proxy_pass http://kylin;
    }}
}}
",
        served.addr()
    );
    std::fs::write(&config, text).unwrap();
    let (mut process, front) = start(&["--config", config.to_str().unwrap()]).await;

    let mut slow = Connection::open(front).await.unwrap();
    slow.send(post("/kylin/api/query", &QUERY.replace("select 1", "select sleep_ms(3000)"))).await.unwrap();
    node.wait_until(|stats| stats.in_flight == 1).await.unwrap();
    process.signal("TERM");
    let response = slow.response().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text());
    assert!(response.text().contains("q1"));
    assert_eq!(process.ended(TIMEOUT).await.unwrap().code(), Some(0));
    assert!(process.file("stdout").contains("0 connections were cut"), "{}", process.log());
}

#[tokio::test]
async fn no_signal_but_those_to_stop_ends_the_process_or_loses_a_request() {
    let (mut process, front) = start(&["--demo", "1"]).await;
    let ask = || async move {
        let mut connection = Connection::open(front).await.unwrap();
        connection.send(post("/kylin/api/query", &QUERY.replace("select 1", "select sleep_ms(20)"))).await.unwrap();
        connection.response().await.unwrap().status()
    };
    for signal in ["HUP", "USR1", "USR2", "WINCH", "PIPE", "HUP"] {
        let requests: Vec<_> = (0..40).map(|_| tokio::spawn(ask())).collect();
        process.signal(signal);
        for request in requests {
            assert_eq!(request.await.unwrap(), 200, "{signal}");
        }
        assert!(process.ended(std::time::Duration::ZERO).await.is_none(), "{signal}");
    }
    let printed = process.file("stdout");
    for signal in ["SIGUSR1", "SIGUSR2"] {
        assert!(printed.contains(&format!("received {signal}, ")), "{printed}");
    }
    eventually(|| process.file("stderr").contains("reloaded changes="), || process.log()).await;
}

#[tokio::test]
async fn each_signal_to_stop_lets_requests_finish() {
    for signal in ["TERM", "INT", "QUIT"] {
        let (mut process, front) = start(&["--demo", "1"]).await;
        let mut slow = Connection::open(front).await.unwrap();
        slow.send(post("/kylin/api/query", &QUERY.replace("select 1", "select sleep_ms(500)"))).await.unwrap();
        let mut other = Connection::open(front).await.unwrap();
        other.send(post("/kylin/api/query", QUERY)).await.unwrap();
        assert_eq!(other.response().await.unwrap().status(), 200);
        process.signal(signal);
        process.signal("HUP");
        assert_eq!(slow.response().await.unwrap().status(), 200, "{signal}");
        assert_eq!(process.ended(TIMEOUT).await.unwrap().code(), Some(0), "{signal}");
        assert!(process.file("stdout").contains("0 connections were cut"), "{}", process.log());
    }
}

#[tokio::test]
async fn the_addresses_of_a_configuration_are_named_and_replaced_with_its_limits_kept() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("front.conf");
    let socket = folder.path().join("front.sock");
    let text = format!(
        "upstream u {{ server 127.0.0.1:1; }}
         server {{ listen unix:{}; keepalive_timeout 0; location / {{ return 200 first; }} }}
         server {{ listen 127.0.0.1:{}; location / {{ return 200 second; }} }}",
        socket.display(),
        free_port()
    );
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()];
    let (process, front) = start(&args).await;
    let stdout = process.file("stdout");
    assert_eq!(stdout.matches("not listening on ").count(), 2, "{stdout}");
    assert!(stdout.contains(&format!("not listening on unix:{}, which", socket.display())), "{stdout}");
    let response = http::get(front, "/", &[]).await.unwrap();
    assert_eq!(response.text(), "first");
    let mut connection = Connection::open(front).await.unwrap();
    connection.send("GET / HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    assert_eq!(connection.response().await.unwrap().header("connection"), Some("close"), "keepalive_timeout 0");

    let process = spawn(&args).await;
    let stdout = process.file("stdout");
    assert!(stdout.lines().any(|line| line == format!("listening on unix:{}", socket.display())), "{stdout}");
    assert!(stdout.starts_with("listening on http://127.0.0.1:") && !stdout.contains("not listening"), "{stdout}");
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
}

#[test]
fn check_says_what_was_understood_or_where_the_mistake_is() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("kylin.conf");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    let check = || run(&["--config", config.to_str().unwrap(), "--check"]);

    write(
        "upstream k { ip_hash; server 1.1.1.1:7070; }\nserver { listen 80; gzip on; location / { proxy_pass http://k; } }\n",
    );
    let good = check();
    let stdout = String::from_utf8(good.stdout).unwrap();
    assert!(good.status.success(), "{stdout}");
    for part in ["upstream k: ip_hash", "1.1.1.1:7070", "location / -> http://k", "gzip", "the configuration is valid"]
    {
        assert!(stdout.contains(part), "{part} in {stdout}");
    }

    write("upstream k {\n    server 1.1.1.1:7070 wieght=2;\n}\nserver { location / { proxy_pass http://k; } }\n");
    let bad = check();
    assert_eq!(bad.status.code(), Some(1));
    let stderr = String::from_utf8(bad.stderr).unwrap();
    assert!(
        stderr.contains("kylin.conf:2:25") && stderr.contains("wieght=2") && stderr.contains("weight=N"),
        "{stderr}"
    );

    write("upstream k {\n    server 1.1.1.1:7070 down;\n}\nserver { location / { proxy_pass http://k; } }\n");
    let down = check();
    let [stdout, stderr] = [down.stdout, down.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert_eq!(down.status.code(), Some(1));
    assert!(stdout.contains("upstream k: ") && !stdout.contains("is valid"), "{stdout}");
    assert!(stderr.contains("kylin.conf:1:10: no request reaches a node: all servers are down"), "{stderr}");
}

#[test]
fn options_are_checked() {
    assert!(run(&["--help"]).status.success());
    for (args, why) in [
        (&["--wrong"][..], "unknown option --wrong"),
        (&["--threads", "0"], "--threads 0: expected a number"),
        (&["--store-deadline=0"], "--store-deadline 0: expected a number from 1 to 60000"),
        (&["--listen", "nowhere"], "--listen: \"nowhere\""),
        (&["--status", "nowhere"], "--status: \"nowhere\""),
        (&["--admin", "nowhere"], "--admin: \"nowhere\""),
        (&["--admin-token-file", "token"], "--admin-token-file needs --admin"),
        (&["--admin-host=front.example"], "--admin-host needs --admin"),
        (&["--config"], "--config needs a value"),
        (&["--check=yes"], "--check takes no value"),
        (&["--demo=2", "--demo=3"], "--demo is given twice"),
        (&["--config=x", "--demo=2"], "--demo and --config exclude each other"),
        (&["--nodes=a:1", "--zookeeper=b"], "--nodes and --zookeeper exclude each other"),
        (&["--properties=x", "--demo=1"], "--demo and --properties exclude each other"),
        (&["--demo=2", "--restore-sessions=alone"], "--restore-sessions: expected relayed logins in a store"),
        (&["--restore-sessions=yes"], "expected never, alone or shared"),
        (&["--nodes=a:1", "--kylin-version=v5"], "use it with --demo"),
        (&["--config=x", "--kylin-version=v5"], "use it with --demo"),
        (&["--nodes=a"], "--nodes: "),
        (&["--nodes=a:1 wieght=2"], "--nodes: a:1: wieght=2: expected weight=N"),
        (&["--nodes=a:1 weight=0"], "--nodes: a:1: weight=0: 0 is no weight"),
        (&["--nodes=a:1 read_timeout=soon"], "read_timeout=soon: expected a time such as 500ms"),
        (&["--connect-timeout=0"], "--connect-timeout 0: expected a time"),
        (&["--config=x", "--read-timeout=5m"], "--config and --read-timeout exclude each other"),
        (&["--nodes=a:1=chief"], "\"chief\" is not a server mode"),
        (&["--zookeeper", "a:b:c"], "--zookeeper: "),
        (&["--kylin-version", "v3"], "--kylin-version v3: expected 2.4, 2.6, 3.0, 3.1, 4.0, 5.0, v4 or v5"),
        (&["--policy", "best"], "--policy best: expected round-robin, least-conn"),
        (&["--kylin", "yes"], "--kylin yes: expected on, off"),
        (&["--outlier", "1"], "--outlier 1: expected on, off"),
        (&["--probe", "ping"], "--probe ping: expected auto, version, health, tcp, none"),
        (&["--sessions", "hunter2"], "--sessions: expected memory, redis://"),
        (&["--sessions", "gopher://:hunter2@example"], "--sessions: unknown scheme"),
        (&["--sessions", "login-relay:mysql://front:hunter2@host"], "--sessions: "),
    ] {
        let output = run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains("try --help") && stderr.contains(why), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
        assert!(!stderr.contains("hunter2"), "a password: {stderr}");
    }
}
