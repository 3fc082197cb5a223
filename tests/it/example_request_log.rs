//! The request log and the query log of the example front end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::example_options::nodes;
use crate::example_reload::with_socket;
use crate::support::browser::basic;
use crate::support::example::{TIMEOUT, address, spawn, start};
use crate::support::front::{closed_port, eventually, until};
use crate::support::http::{self, Connection};
use crate::support::skip;

/// Waits until the file has `count` lines, and returns them.
async fn lines(file: &Path, count: usize) -> Vec<String> {
    let read = || std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    eventually(|| read().len() >= count, || format!("{count} lines in {:?}", read())).await;
    read()
}

fn query(sql: &str) -> String {
    let body = format!(r#"{{"sql":"{sql}","project":"learn_kylin"}}"#);
    format!(
        "POST /kylin/api/query?token=tok-secret HTTP/1.1\r\nHost: kylin\r\nAuthorization: Basic QURNSU46S1lMSU4=\r\nUser-Agent: a\"b\\c\r\n\
         Referer: http://kylin/kylin/query?sql=select%20secret\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_request_has_a_line_with_its_nodes_times_and_end_and_no_secret() {
    let (_nodes, named) = nodes(1).await;
    let named = format!("gone@{},{named}", closed_port());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("access.log");
    let args = [
        "--nodes",
        &named,
        "--policy=round-robin",
        "--probe=none",
        "--sessions=none",
        "--access-log",
        file.to_str().unwrap(),
    ];
    let (process, front) = start(&args).await;
    let mut connection = Connection::open(front).await.unwrap();
    connection.send(query("select 1")).await.unwrap();
    assert_eq!(connection.response().await.unwrap().status(), 200);
    let line = &lines(&file, 1).await[0];
    let start = "127.0.0.1 - ADMIN [";
    assert!(line.starts_with(start), "{line}");
    for part in [
        "\"POST /kylin/api/query?token=*** HTTP/1.1\" 200 ",
        "\"http://kylin/kylin/query?sql=***\" \"a\\x22b\\x5Cc\"",
        " end=complete class=query id=",
        " node=gone,n1 why=policy us=\"connect, 200\" ut=\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    for secret in ["KYLIN ", "QURNSU46", "tok-secret", "select"] {
        assert!(!line.contains(secret), "{secret} in {line}");
    }

    // A log that was moved is reopened, and no line is lost.
    let moved = folder.path().join("access.log.1");
    std::fs::rename(&file, &moved).unwrap();
    process.signal("USR1");
    eventually(|| file.exists(), || "the file is not opened again".to_owned()).await;
    connection.send(query("select 2")).await.unwrap();
    assert_eq!(connection.response().await.unwrap().status(), 200);
    assert_eq!(lines(&file, 1).await.len(), 1);
    assert_eq!(lines(&moved, 1).await.len(), 1);
}

#[tokio::test]
async fn secrets_of_targets_and_referers_are_in_no_line_of_either_format() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let hidden = "AUTH=s3cret&s%69g=s3cret&key=s3cret&code=s3cret&passwd=s3cret&limit=5";
    let masked = "AUTH=***&s%69g=***&key=***&code=***&passwd=***&limit=5";
    for format in ["combined", "json"] {
        let file = folder.path().join(format);
        let args = ["--nodes", &named, "--access-log", file.to_str().unwrap(), "--access-log-format", format];
        let (_process, front) = start(&args).await;
        for (target, host, status) in [
            (format!("/kylin/api/projects?{hidden}"), "kylin", 401),
            // A request with a user in its target or its host is refused, and logged.
            (format!("http://user:s3cret@kylin/kylin/api/projects?{hidden}"), "user:s3cret@kylin", 400),
            (format!("/kylin/api/projects?{hidden}"), "user:s3cret@kylin", 400),
        ] {
            let mut connection = Connection::open(front).await.unwrap();
            let referer = format!("http://user:s3cret@kylin/page?{hidden}");
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nReferer: {referer}\r\n\r\n");
            connection.send(request).await.unwrap();
            assert_eq!(connection.response().await.unwrap().status(), status, "{target}");
        }
        let written = lines(&file, 3).await;
        for line in &written {
            assert!(!line.contains("s3cret"), "{line}");
            assert!(line.contains(&format!("/kylin/api/projects?{masked}")), "{line}");
            assert!(line.contains(&format!("http://***@kylin/page?{masked}")), "{line}");
        }
        if format == "json" {
            let hosts: Vec<Value> =
                written.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["host"].take()).collect();
            assert_eq!(hosts, ["kylin", "***@kylin", "***@kylin"]);
        }
    }
}

#[tokio::test]
async fn hostile_values_stay_inside_their_field() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let (text, json) = (folder.path().join("text.log"), folder.path().join("json.log"));
    for (file, format) in [(&text, "combined"), (&json, "json")] {
        let args = ["--nodes", &named, "--access-log", file.to_str().unwrap(), "--access-log-format", format];
        let (_process, front) = start(&args).await;
        let mut connection = Connection::open(front).await.unwrap();
        let mut request = b"GET /kylin/api/projects?a=%0A127.0.0.1&b=%22 HTTP/1.1\r\nHost: kylin\r\nUser-Agent: x\" 200 9\t\xff\xfe\r\n".to_vec();
        request.extend_from_slice(b"X-Request-ID: two words\r\nAuthorization: Basic YSJiCmM6cA==\r\n\r\n");
        connection.send(request).await.unwrap();
        connection.response().await.unwrap();
        let written = lines(file, 1).await;
        assert_eq!(written.len(), 1, "{written:?}");
        let line = &written[0];
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte)) || format == "json", "{line}");
        if format == "json" {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["user"], "a\"b\nc");
            let id = line["id"].as_str().unwrap();
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "a new one: {id}");
            assert_eq!(line["target"], "/kylin/api/projects?a=%0A127.0.0.1&b=%22");
        } else {
            assert!(line.starts_with("127.0.0.1 - a\\x22b\\x0Ac ["), "{line}");
            assert!(line.contains(" \"x\\x22 200 9\\x09\\xFF\\xFE\" rt="), "{line}");
        }
    }
}

#[tokio::test]
async fn a_long_value_of_a_client_is_cut() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let [access, queries] = ["access", "queries"].map(|name| folder.path().join(name));
    let long = "é".repeat(1_000);
    let user = basic(&long, "p");
    let body = format!(r#"{{"sql":"select 1","project":"{long}"}}"#);
    let other = "u".repeat(300);
    let query = format!(
        "POST /kylin/api/query?a={other} HTTP/1.1\r\nHost: kylin\r\nAuthorization: {user}\r\nUser-Agent: {other}\r\nReferer: {other}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (cut, cut_other) = (format!("{}...", "é".repeat(256)), format!("{}...", "u".repeat(256)));
    for format in ["json", "combined"] {
        let [access, queries] = [&access, &queries].map(|file| file.with_extension(format));
        let args = ["--nodes", &named, "--access-log", access.to_str().unwrap(), "--access-log-format", format];
        let (_process, front) = start(&[&args[..], &["--query-log", queries.to_str().unwrap()]].concat()).await;
        let mut connection = Connection::open(front).await.unwrap();
        connection.send(&query).await.unwrap();
        connection.response().await.unwrap();
        let line: Value = serde_json::from_str(&lines(&queries, 1).await[0]).unwrap();
        assert_eq!((line["user"].as_str(), line["project"].as_str()), (Some(&*cut), Some(&*cut)));
        let line = &lines(&access, 1).await[0];
        assert!(line.contains(&format!("?a={other}")), "targets are whole: {line}");
        if format == "json" {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["user"], cut);
            assert_eq!((&line["user_agent"], &line["referer"]), (&Value::from(&*cut_other), &Value::from(&*cut_other)));
        } else {
            assert!(line.len() < 3_000 && line.contains(&format!("\"{cut_other}\" \"{cut_other}\" rt=")), "{line}");
            assert!(line.contains("\\xA9... ["), "{line}");
        }
    }
}

#[tokio::test]
async fn a_client_of_a_socket_for_both_families_is_named_as_ipv4() {
    let socket = TcpListener::bind("[::]:0");
    if !skip::installed("IPv6", socket.is_ok()) {
        return;
    }
    let socket = socket.unwrap();
    let front = (Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port()).into();
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    for (format, start) in [("combined", "127.0.0.1 - "), ("json", "{")] {
        let file = folder.path().join(format);
        let args = ["--nodes", &named, "--access-log", file.to_str().unwrap(), "--access-log-format", format];
        // A socket of `--listen` accepts only IPv6; one that is passed may accept both.
        let _process = with_socket(&socket, &args).await;
        let mut connection = Connection::open(front).await.unwrap();
        connection.send("GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), 200);
        let line = &lines(&file, 1).await[0];
        assert!(line.starts_with(start) && line.contains("127.0.0.1") && !line.contains("::ffff"), "{line}");
    }
}

#[tokio::test]
async fn a_query_is_logged_by_its_fingerprint_unless_sql_is_asked_for() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    for with_sql in [false, true] {
        let file = folder.path().join(format!("queries.{with_sql}"));
        let args = ["--nodes", &named, "--query-log", file.to_str().unwrap()];
        let access = folder.path().join(format!("access.{with_sql}"));
        let more: &[&str] =
            if with_sql { &["--log-sql", "--log-flags", "--access-log", access.to_str().unwrap()] } else { &[] };
        let (_process, front) = start(&[&args[..], more].concat()).await;
        let mut connection = Connection::open(front).await.unwrap();
        for sql in ["select 'hunter2'", "select 'hunter3'"] {
            connection.send(query(sql)).await.unwrap();
            assert_eq!(connection.response().await.unwrap().status(), 200);
        }
        connection.send("GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
        connection.response().await.unwrap();
        let written: Vec<Value> =
            lines(&file, 2).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(written.len(), 2, "only queries: {written:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o007, 0, "{mode:o}");
        let first = &written[0];
        assert_eq!(first["fingerprint"], written[1]["fingerprint"], "literals do not matter");
        for (name, value) in [
            ("user", "ADMIN"),
            ("project", "learn_kylin"),
            ("class", "query"),
            ("node", "n1"),
            ("why", "policy"),
            ("outcome", "complete"),
        ] {
            assert_eq!(first[name], value, "{first}");
        }
        assert!(first["executed"].as_f64().unwrap() > 0.0 && first["bytes"].as_u64().unwrap() > 0, "{first}");
        assert_eq!(first["sql"].as_str(), Some("select 'hunter2'").filter(|_| with_sql));
        assert_eq!(first.to_string().contains("hunter2"), with_sql);
        for flag in ["storage_cache_used", "exception_cache_hit", "push_down"] {
            assert_eq!(first.get(flag), with_sql.then_some(&Value::Bool(false)), "{flag} in {first}");
        }
        if with_sql {
            let line = &lines(&access, 3).await[0];
            assert!(line.contains("sql=***") && !line.contains("select"), "only the query log shows SQL: {line}");
        }
        let long = format!("select '{}'", "é".repeat(50_000));
        connection.send(query(&long)).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), 200);
        let line: Value = serde_json::from_str(&lines(&file, 3).await[2]).unwrap();
        assert_eq!(line["sql_bytes"].as_u64(), Some(long.len() as u64).filter(|_| with_sql));
        if let Some(sql) = line["sql"].as_str() {
            assert!(long.starts_with(sql) && (65_530..=65_536).contains(&sql.len()), "{} bytes", sql.len());
        }
    }
}

#[tokio::test]
async fn a_shared_response_is_in_the_logs_the_status_and_the_metrics() {
    let (nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let [queries, access] = ["queries", "access"].map(|name| folder.path().join(name));
    let logs = ["--query-log", queries.to_str().unwrap(), "--access-log", access.to_str().unwrap()];
    let common = ["--nodes", &named, "--status=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let process = spawn(&[&common[..], &logs].concat()).await;
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "status on http://"));
    let status = async || -> Value {
        let response = http::get(operators, "/front/status", &[]).await.unwrap();
        serde_json::from_slice(&response.body).unwrap()
    };
    let body = r#"{"sql":"select 1, sleep_ms(5000)","project":"learn_kylin"}"#;
    let user = basic("ADMIN", "KYLIN");
    let length = body.len();
    let request = format!(
        "POST /kylin/api/query HTTP/1.1\r\nHost: kylin\r\nUser-Agent: test\r\nAuthorization: {user}\r\n\
         Cookie: JSESSIONID={}\r\nContent-Length: {length}\r\n\r\n{body}",
        session(front, &user).await
    );
    let mut first = Connection::open(front).await.unwrap();
    first.send(&request).await.unwrap();
    eventually(|| nodes[0].0.stats().running == 1, || "the query runs".to_owned()).await;
    let mut second = Connection::open(front).await.unwrap();
    second.send(&request).await.unwrap();
    let counts = async || status().await["single_flight"]["kylin"].clone();
    until("the second follows", async || counts().await == json!({ "leaders": 1, "followers": 1, "shared": 0 })).await;
    let text = http::get(operators, "/metrics", &[]).await.unwrap().text().to_owned();
    for line in ["kylin_lb_single_flight_followers{proxy=\"kylin\"} 1\n", "kylin_lb_single_flight_shared_total 0\n"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    for connection in [&mut first, &mut second] {
        assert_eq!(connection.response().await.unwrap().status(), 200);
    }
    assert_eq!(counts().await, json!({ "leaders": 0, "followers": 0, "shared": 1 }));
    let text = http::get(operators, "/metrics", &[]).await.unwrap().text().to_owned();
    assert!(text.contains("kylin_lb_single_flight_shared_total 1\n"), "{text}");
    let written: Vec<Value> = lines(&queries, 2).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shared = written.iter().find(|line| line["why"] == "shared").unwrap_or_else(|| panic!("{written:?}"));
    assert_eq!((&shared["node"], &shared["attempts"]), (&json!("n1"), &json!(0)), "{shared}");
    let lines = lines(&access, 3).await;
    assert!(lines.iter().any(|line| line.contains("shared")), "{lines:?}");
}

/// Returns the id of a new session.
async fn session(front: SocketAddr, user: &str) -> String {
    let login = [("Authorization", user)];
    let response = http::get(front, "/kylin/api/user/authentication", &login).await.unwrap();
    let line = response.header("set-cookie").unwrap_or_else(|| panic!("no session: {}", response.text()));
    line.split(['=', ';']).nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn queries_that_the_queue_refuses_are_in_the_metrics_and_the_log() {
    let (nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("queries");
    let config = folder.path().join("nginx.conf");
    let server = named.split_once('@').unwrap().1;
    let upstream = format!("upstream kylin {{ server {server} max_conns=1; queue 1 timeout=1s; }}");
    let text = format!("{upstream} server {{ listen 127.0.0.1:1; location / {{ proxy_pass http://kylin; }} }}");
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--status=127.0.0.1:0", "--query-log", file.to_str().unwrap()];
    let (process, front) = start(&args).await;
    let operators = address(&process, "status on http://");
    let query = |n: usize| query(&format!("select {n}, sleep_ms(3000)"));
    let mut running = Connection::open(front).await.unwrap();
    running.send(query(0)).await.unwrap();
    eventually(|| nodes[0].0.stats().running == 1, || "the query runs".to_owned()).await;
    let mut waiting = Vec::new();
    for n in 1..3 {
        let mut connection = Connection::open(front).await.unwrap();
        connection.send(query(n)).await.unwrap();
        waiting.push(connection);
    }
    for connection in &mut waiting {
        assert_eq!(connection.response().await.unwrap().status(), 503);
    }
    assert_eq!(running.response().await.unwrap().status(), 200);
    let mut outcomes: Vec<String> = lines(&file, 3)
        .await
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].as_str().unwrap().to_owned())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["complete", "queue_full", "queue_timeout"]);
    let mut text = String::new();
    // The metrics may learn of a request later than its log.
    until("both refusals in the metrics", async || {
        text = http::get(operators, "/metrics", &[]).await.unwrap().text().to_owned();
        let has = |outcome: &str| {
            text.contains(&format!("kylin_lb_requests_total{{class=\"query\",outcome=\"{outcome}\"}} 1\n"))
        };
        has("queue_full") && has("queue_timeout")
    })
    .await;
    let count = text.lines().find_map(|line| line.strip_prefix("kylin_lb_queue_duration_seconds_count "));
    assert!(count.is_some_and(|count| count != "0"), "{text}");
}

/// Such a query is executed too, so the log must contain it.
#[tokio::test]
async fn a_query_whose_sql_is_not_read_has_a_line_without_a_fingerprint() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("queries");
    let (_process, front) = start(&["--nodes", &named, "--query-log", file.to_str().unwrap(), "--log-sql"]).await;
    let long = format!(r#"{{"sql":"select '{}'","project":"p"}}"#, "x".repeat(1_100_000));
    let sql = r#"{"sql":"select 1","project":"p"}"#;
    let json = "Content-Type: application/json\r\n";
    let mut count = 0;
    for (path, headers, body, class) in [
        ("query", json, long.as_str(), "query"),
        ("query", json, "no json", "query"),
        ("query", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "\u{1f}\u{8}compressed", "query"),
        ("async_query", json, sql, "async_submit"),
    ] {
        let mut connection = Connection::open(front).await.unwrap();
        let length = body.len();
        let user = "Authorization: Basic QURNSU46S1lMSU4=\r\n";
        let head = format!(
            "POST /kylin/api/{path} HTTP/1.1\r\nHost: kylin\r\n{user}{headers}Content-Length: {length}\r\n\r\n"
        );
        connection.send(head + body).await.unwrap();
        connection.response().await.unwrap();
        count += 1;
        let line: Value = serde_json::from_str(&lines(&file, count).await[count - 1]).unwrap();
        assert_eq!((&line["class"], &line["node"], &line["user"]), (&class.into(), &"n1".into(), &"ADMIN".into()));
        assert_eq!((line.get("fingerprint"), line.get("sql")), (Some(&Value::Null), None), "{line}");
    }
}

#[tokio::test]
async fn the_logs_of_a_configuration_are_written_and_opened_again() {
    let (nodes, _named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("kylin.conf");
    let (dead, node) = (closed_port(), nodes[0].1.addr());
    let text = format!(
        "log_format lb '$remote_addr \"$request\" $status $upstream_addr $upstream_status $upstream_response_time $request_time';\n\
         map $status $is_error {{ ~^[45] 1; default 0; }}\n\
         upstream kylin {{ server {dead} max_fails=0; server {node} backup; }}\n\
         server {{ listen 127.0.0.1:1; access_log access.log lb; access_log errors.log lb if=$is_error;\n\
         location / {{ proxy_pass http://kylin; }} location /off {{ return 204; access_log off; }} }}"
    );
    std::fs::write(&config, &text).unwrap();
    let checked = crate::support::example::check(&["--config", config.to_str().unwrap()]);
    assert!(checked.contains("errors.log lb if $is_error"), "{checked}");
    let file = folder.path().join("access.log");
    assert!(!file.exists(), "--check opens no log");

    let (mut process, front) = start(&["--config", config.to_str().unwrap(), "--probe=none"]).await;
    let mut connection = Connection::open(front).await.unwrap();
    for path in ["/kylin/api/admin/version", "/off", "/kylin/api/cubes/sync?sql=hidden"] {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
        connection.response().await.unwrap();
    }
    let written = lines(&file, 2).await;
    let first = &written[0];
    assert!(first.starts_with("127.0.0.1 \"GET /kylin/api/admin/version HTTP/1.1\" 200 127.0.0.1:"), "{first}");
    assert!(first.contains(&format!(", {node} 502, 200 ")), "{first}");
    assert!(written[1].contains("?sql=*** "), "{}", written[1]);
    assert_eq!(lines(&folder.path().join("errors.log"), 1).await, written[1..], "the one that is an error");

    let moved = folder.path().join("access.log.1");
    std::fs::rename(&file, &moved).unwrap();
    process.signal("USR1");
    eventually(|| file.exists(), || "the file is not opened again".to_owned()).await;
    connection.send("GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    connection.response().await.unwrap();
    assert_eq!(lines(&file, 1).await.len(), 1);

    // A reload opens new logs and applies new formats. A log that cannot be opened leaves
    // everything unchanged.
    let mut reload = async |text: String, result: &str| {
        std::fs::write(&config, text).unwrap();
        process.signal("HUP");
        process.wait_ready(TIMEOUT, |process| process.file("stderr").contains(result)).await.unwrap();
    };
    reload(text.replace("errors.log", "none/errors.log"), "access_log: ").await;
    reload(
        text.replace("errors.log", "failed.log").replace("lb '$remote_addr", "lb 'second $remote_addr"),
        " reloaded ",
    )
    .await;
    connection.send("GET /kylin/api/cubes/sync HTTP/1.1\r\nHost: kylin\r\n\r\n").await.unwrap();
    connection.response().await.unwrap();
    let written = lines(&file, 2).await;
    assert!(written[1].starts_with("second 127.0.0.1 "), "{written:?}");
    let failed = folder.path().join("failed.log");
    assert_eq!(lines(&failed, 1).await, written[1..]);
    assert_eq!(lines(&folder.path().join("errors.log"), 1).await.len(), 1, "it gets no more");

    std::fs::remove_file(&failed).unwrap();
    process.signal("USR1");
    eventually(|| failed.exists(), || "the new file is not opened again".to_owned()).await;
}

/// A pipe that accepts nothing loses lines but no request. Operators see how many, and it delays
/// neither the start nor the stop.
#[tokio::test]
async fn lines_that_a_log_cannot_take_are_counted_in_the_status_and_the_metrics() {
    let folder = TempDir::new().unwrap();
    let (config, pipe) = (folder.path().join("kylin.conf"), folder.path().join("access.log"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Many lines per request, so that few requests fill the waiting buffer.
    let text = format!(
        "log_format long '{}'; server {{ listen 127.0.0.1:1; location / {{ return 204; {} }} location /end {{ return 204; }} \
         location /kylin {{ proxy_pass http://127.0.0.1:1; }} }}",
        "-".repeat(500),
        "access_log access.log long;".repeat(64)
    );
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap(), "--listen=127.0.0.1:0", "--status=127.0.0.1:0", "--probe=none"];
    let mut process = spawn(&args).await;
    let mut reader = std::fs::File::open(&pipe).unwrap();
    let (front, operators) = (address(&process, "listening on http://"), address(&process, "metrics on http://"));
    let lost = async || {
        let status = http::get(operators, "/front/status", &[]).await.unwrap();
        let status: Value = serde_json::from_str(status.text()).unwrap();
        status["logs"][pipe.to_str().unwrap()]["lost_lines"].as_u64().unwrap()
    };
    assert_eq!(lost().await, 0);
    let mut connection = Connection::open(front).await.unwrap();
    // Its buffers are bounded, so at some point it accepts no more.
    let mut fill = async || {
        let (before, mut sent) = (lost().await, 0_u64);
        while lost().await == before {
            // Once the last request, which has no log, is served, the earlier ones are written or
            // lost.
            for path in [["/"; 20].as_slice(), &["/end"]].concat() {
                connection.send(format!("GET {path} HTTP/1.1\r\nHost: kylin\r\n\r\n")).await.unwrap();
                assert_eq!(connection.response().await.unwrap().status(), 204);
            }
            sent += 20 * 64;
            assert!(sent < 100_000, "no line is lost");
        }
        (sent, lost().await)
    };
    let (sent, lost) = fill().await;
    let metrics = http::get(operators, "/metrics", &[]).await.unwrap();
    let metrics = metrics.text();
    let counted = format!("kylin_lb_log_lines_lost_total{{log=\"{}\"}} {lost}", pipe.to_str().unwrap());
    assert!(metrics.contains(&counted), "{counted} in {metrics}");

    // The lines that were not lost are written.
    let read = std::thread::spawn(move || {
        let (mut text, mut lines) = (vec![0; 1 << 16], 0);
        while lines < sent - lost {
            let length = std::io::Read::read(&mut reader, &mut text).unwrap();
            assert!(length > 0, "{lines} lines of {sent}, and {lost} lost");
            lines += text[..length].iter().filter(|&&byte| byte == b'\n').count() as u64;
        }
        (lines, reader)
    });
    eventually(|| read.is_finished(), || "lines are missing".to_owned()).await;
    let (lines, _reader) = read.join().unwrap();
    assert_eq!(lines, sent - lost);

    fill().await;
    process.signal("USR1");
    process.signal("TERM");
    assert!(process.ended(TIMEOUT).await.is_some_and(|status| status.success()), "{}", process.log());
}

/// Errors of the disk cost lines too.
#[tokio::test]
async fn lines_that_a_full_disk_refuses_are_counted_in_the_status() {
    let args = ["--demo=1", "--query-log=/dev/full", "--status=127.0.0.1:0"];
    let (process, front) = start(&args).await;
    let operators = address(&process, "status on http://");
    let lost = async || {
        let status = http::get(operators, "/front/status", &[]).await.unwrap();
        let status: Value = serde_json::from_str(status.text()).unwrap();
        status["logs"]["/dev/full"]["lost_lines"].as_u64().unwrap()
    };
    let mut connection = Connection::open(front).await.unwrap();
    let mut sent = 0;
    while lost().await == 0 {
        connection.send(query("select 1")).await.unwrap();
        assert_eq!(connection.response().await.unwrap().status(), 200);
        sent += 1;
        assert!(sent < 10_000, "no line is lost");
    }
}

#[tokio::test]
async fn a_log_whose_folder_is_missing_is_a_warning_and_is_written_once_it_can_be() {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("kylin.conf");
    let text = "server { listen 127.0.0.1:1; access_log nginx/access.log; location / { return 204; } \
                location /kylin { proxy_pass http://127.0.0.1:1; } }";
    std::fs::write(&config, text).unwrap();
    let (mut process, front) = start(&["--config", config.to_str().unwrap(), "--probe=none"]).await;
    let get = "GET / HTTP/1.1\r\nHost: kylin\r\n\r\n";
    let mut connection = Connection::open(front).await.unwrap();
    connection.send(get).await.unwrap();
    assert_eq!(connection.response().await.unwrap().status(), 204);
    let printed = process.file("stderr");
    assert!(printed.contains("access_log is not written") && printed.contains("nginx/access.log: "), "{printed}");

    std::fs::create_dir(folder.path().join("nginx")).unwrap();
    process.signal("HUP");
    process.wait_ready(TIMEOUT, |process| process.file("stderr").contains(" reloaded ")).await.unwrap();
    connection.send(get).await.unwrap();
    assert_eq!(connection.response().await.unwrap().status(), 204);
    assert_eq!(lines(&folder.path().join("nginx/access.log"), 1).await.len(), 1);
}
