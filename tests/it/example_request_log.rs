//! The request log and the query log of the example front end.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::example_options::nodes;
use crate::support::example::start;
use crate::support::front::{closed_port, eventually};
use crate::support::http::Connection;

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
        " node=gone,n1 why=policy us=\"connect, 200\" ut=\"0.0",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    for secret in ["KYLIN ", "QURNSU46", "tok-secret", "select"] {
        assert!(!line.contains(secret), "{secret} in {line}");
    }

    // A log that was moved is opened again, and no line is lost.
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
async fn a_query_is_logged_by_its_fingerprint_unless_sql_is_asked_for() {
    let (_nodes, named) = nodes(1).await;
    let folder = TempDir::new().unwrap();
    for with_sql in [false, true] {
        let file = folder.path().join(format!("queries.{with_sql}"));
        let args = ["--nodes", &named, "--query-log", file.to_str().unwrap()];
        let more: &[&str] = if with_sql { &["--log-sql"] } else { &[] };
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
