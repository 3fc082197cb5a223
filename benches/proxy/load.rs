//! The load: the requests, and how the responses are read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use super::child::OTHER_CORE;

/// A measured case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// POST of a query with 160 bytes of SQL, a login and a session cookie. The response has 1.8 KB
    /// of JSON.
    Post,
    /// GET of a small response.
    Get,
    /// GET of a file of the web interface, 8 KiB.
    Page,
    /// GET of 1 MiB.
    Megabyte,
    /// GET of 1 GiB.
    Gigabyte,
    /// Connections that have received one response and are now idle.
    Idle,
}

/// The result of a run.
pub struct Done {
    pub requests: u64,
    pub bytes: u64,
    pub errors: u64,
    pub time: Duration,
    /// In microseconds.
    pub p50: f64,
    pub p99: f64,
}

impl Case {
    pub const ALL: [Case; 6] = [Case::Post, Case::Get, Case::Page, Case::Megabyte, Case::Gigabyte, Case::Idle];

    pub fn name(self) -> &'static str {
        match self {
            Case::Post => "post",
            Case::Get => "get",
            Case::Page => "page",
            Case::Megabyte => "1MiB",
            Case::Gigabyte => "1GiB",
            Case::Idle => "idle",
        }
    }
}

/// The number of sessions of the clients, so that sticky peers must tell them apart.
pub const SESSIONS: usize = 200;

const CREDENTIALS: &str = "Basic QURNSU46S1lMSU4=";
pub const LOGIN: &str = "/kylin/api/user/authentication";

/// How a peer identifies its clients.
#[derive(Default)]
pub enum Clients {
    /// Each request has credentials, and a node's cookie that the front end has not seen.
    #[default]
    WithCredentials,
    /// The cookies that the front end set at the clients' logins.
    LoggedIn(Vec<String>),
}

const SCRIPT: &str = r#"
local before = '{"sql":"select part_dt, sum(price) as total from kylin_sales where part_dt > '
local after = ' group by part_dt order by part_dt limit 100","project":"learn_kylin","offset":0}'
local count, number = 0, 1000000
local cookies = { COOKIES }
function request()
  if wrk.path ~= "/kylin/api/query" then return wrk.format("GET") end
  count = count % #cookies + 1
  number = number + STEP
  return wrk.format("POST", nil, {
    ["Content-Type"] = "application/json",
    ["Authorization"] = AUTHORIZATION,
    ["User-Agent"] = "KylinJDBCDriver",
    ["Accept"] = "application/json, text/plain, */*",
    ["Cookie"] = cookies[count],
  }, before .. number .. after)
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %f %f\n", summary.requests, summary.bytes,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99)))
end
"#;

/// `repeats` says that all queries have the same SQL.
pub fn wrk(origin: &str, clients: &Clients, repeats: bool, case: Case, connections: usize, time: Duration) -> Done {
    let script = std::env::temp_dir().join(format!("kylin-lb-bench-{}.lua", std::process::id()));
    let of_nodes: Vec<String> = (1..=SESSIONS).map(|number| format!("JSESSIONID={:032X}", number * 7919)).collect();
    let (cookies, authorization) = match clients {
        Clients::WithCredentials => (&of_nodes, format!("\"{CREDENTIALS}\"")),
        Clients::LoggedIn(cookies) => (cookies, "nil".to_owned()),
    };
    let cookies: Vec<String> = cookies.iter().map(|cookie| format!("\"{cookie}\"")).collect();
    let text = SCRIPT.replace("COOKIES", &cookies.join(",")).replace("AUTHORIZATION", &authorization);
    let text = text.replace("STEP", if repeats { "0" } else { "1" });
    std::fs::write(&script, text).unwrap();
    let (path, connections) = match case {
        Case::Post => ("/kylin/api/query", connections),
        Case::Get => ("/kylin/api/admin/version", connections),
        Case::Page => ("/kylin/js/page.js", connections),
        _ => ("/1m", 8),
    };
    let connections = connections.to_string();
    // wrk accepts only whole seconds, so shorter runs take one second.
    let seconds = format!("{}s", time.as_secs().max(1));
    let output = Command::new("taskset")
        .args(["-c", OTHER_CORE, "wrk", "-t1", "-c", &connections, "-d", &seconds, "-s"])
        .arg(&script)
        .arg(format!("{origin}{path}"))
        .output()
        .expect("wrk runs (Debian: wrk)");
    _ = std::fs::remove_file(&script);
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("wrk printed: {text}"));
    let figures: Vec<f64> = line.split(' ').map(|figure| figure.parse().unwrap()).collect();
    Done {
        requests: figures[0] as u64,
        bytes: figures[1] as u64,
        errors: figures[2] as u64,
        time: Duration::from_micros(figures[3] as u64),
        p50: figures[4],
        p99: figures[5],
    }
}

/// Logs in [`SESSIONS`] times. Returns the cookies that the front end set.
pub fn log_in(front: SocketAddr) -> Vec<String> {
    let mut stream = TcpStream::connect(front).unwrap();
    let mut log_in = || {
        let request = format!(
            "POST {LOGIN} HTTP/1.1\r\nHost: kylin\r\nAuthorization: {CREDENTIALS}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = [0; 4096];
        let read = stream.read(&mut response).unwrap();
        let head = String::from_utf8_lossy(&response[..read]).to_lowercase().find("set-cookie: ").map(|at| at + 12);
        let line = String::from_utf8_lossy(&response[head.expect("a cookie")..read]).into_owned();
        line.split(';').next().unwrap().to_owned()
    };
    (0..SESSIONS).map(|_| log_in()).collect()
}

/// Reads one response as fast as it arrives.
pub fn download(front: SocketAddr, path: &str) -> Done {
    let began = Instant::now();
    let mut stream = TcpStream::connect(front).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: kylin\r\nConnection: close\r\n\r\n").unwrap();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let errors = u64::from(bytes < 1 << 30);
    Done { requests: 1, bytes, errors, time: began.elapsed(), p50: 0.0, p99: 0.0 }
}

/// Opens connections and receives one response on each.
pub fn idle(front: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect(front).unwrap();
            stream.write_all(b"GET /kylin/api/admin/version HTTP/1.1\r\nHost: kylin\r\n\r\n").unwrap();
            let mut response = [0; 4096];
            let read = stream.read(&mut response).unwrap();
            assert!(response[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&response[..read]));
            stream
        })
        .collect()
}
