//! `kylin_front ctl`: controls a front end that runs with `--admin`, from a shell.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::say;

const HELP: &str = "\
Changes a front end that runs with --admin.

Usage: kylin_front ctl VERB [OPTIONS]

  status              the nodes
  ready NODE          NODE serves everything
  drain NODE          NODE serves the sessions that are bound to it, and gets no new ones
  maintenance NODE    NODE serves nothing, and is not probed
  weight NODE N       sets the weight of NODE, until its source or a reload sets another
  reload              reads again what the front end was started from, as SIGHUP does
  log-level LEVEL     off, error, warn, info, debug or trace

  --admin ADDR        where that front end has its --admin: HOST:PORT or unix:/path (default: 127.0.0.1:8082)
  --token-file FILE   its --admin-token-file, which every verb but status needs
  --cluster NAME      the upstream of NODE, where several have a node of that name
  --wait              with drain: waits until no request is left at NODE
  --json              prints JSON
";

const VERBS: &str = "status, ready NODE, drain NODE, maintenance NODE, weight NODE N, reload or log-level LEVEL";

/// The timeout for connecting, and for each read and write. A reload may have to look up names.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The interval at which `--wait` reads the status.
const WAIT_INTERVAL: Duration = Duration::from_millis(500);

/// The parsed arguments.
struct Ctl {
    admin: String,
    token: Option<String>,
    json: bool,
    wait: bool,
    /// `None` means the status.
    action: Option<Value>,
}

pub fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let ctl = match Ctl::parse(words) {
        Ok(Some(ctl)) => ctl,
        Ok(None) => {
            say(format_args!("{HELP}"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("kylin_front ctl: {error}; try --help");
            return ExitCode::from(2);
        }
    };
    match ctl.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kylin_front ctl: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Ctl {
    /// Returns `None` for `--help`.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut ctl = Ctl { admin: "127.0.0.1:8082".into(), token: None, json: false, wait: false, action: None };
        let (mut verb, mut cluster) = (Vec::new(), None);
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (word, None),
            };
            if value.is_some() && matches!(&*name, "--wait" | "--json" | "--help") {
                return Err(format!("{name} takes no value"));
            }
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} needs a value"));
            match &*name {
                "--admin" => ctl.admin = value()?,
                "--token-file" => ctl.token = Some(token(&value()?)?),
                "--cluster" => cluster = Some(value()?),
                "--wait" => ctl.wait = true,
                "--json" => ctl.json = true,
                "--help" | "-h" => return Ok(None),
                // A negative number is an invalid weight, and not an option.
                _ if name.starts_with('-') && !name[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(format!("unknown option {name}"));
                }
                _ => verb.push(name),
            }
        }
        let on = |node: &str, action: &str| json!({ "action": action, "endpoint": node, "cluster": cluster });
        ctl.action = match &verb.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["status"] => None,
            [action @ ("ready" | "drain" | "maintenance"), node] => Some(on(node, action)),
            ["weight", node, weight] => {
                let weight: NonZeroU16 =
                    weight.parse().map_err(|_| format!("weight {weight}: expected a number from 1 to 65535"))?;
                let mut action = on(node, "weight");
                action["weight"] = weight.get().into();
                Some(action)
            }
            ["reload"] => Some(json!({ "action": "reload" })),
            ["log-level", level] => Some(json!({ "action": "log-level", "level": level })),
            [] => return Err(format!("a verb is missing: expected {VERBS}")),
            other => return Err(format!("{}: expected {VERBS}", other.join(" "))),
        };
        let drains = ctl.action.as_ref().is_some_and(|action| action["action"] == "drain");
        if ctl.wait && !drains {
            return Err("--wait needs the verb drain: it waits until the node has no requests".into());
        }
        Ok(Some(ctl))
    }

    fn run(&self) -> Result<(), String> {
        let Some(action) = &self.action else {
            let status = self.exchange("GET", "/status", "")?;
            say(format_args!("{}", if self.json { format!("{status:#}\n") } else { table(&status) }));
            return Ok(());
        };
        let done = self.exchange("POST", "/action", &action.to_string())?;
        if self.json {
            // One JSON object is printed; with --wait, it shows the node in its final state.
            if !self.wait {
                say(format_args!("{done:#}\n"));
            }
        } else {
            say(format_args!("{}{}\n", done["done"].as_str().unwrap_or_default(), waits_for(&done["endpoint"])));
        }
        if !self.wait {
            return Ok(());
        }
        loop {
            let status = self.exchange("GET", "/status", "")?;
            let endpoint = find(&status, action).ok_or("the node is no longer there")?;
            if endpoint["admin_state"] != "drain" {
                return Err("the node is no longer drained: its state was changed".into());
            }
            if endpoint["waits_for"]["drained"] == true {
                match self.json {
                    true => say(format_args!("{:#}\n", json!({ "done": done["done"], "endpoint": endpoint }))),
                    false => say(format_args!(
                        "{}{}\n",
                        action["endpoint"].as_str().unwrap_or_default(),
                        waits_for(endpoint)
                    )),
                }
                return Ok(());
            }
            std::thread::sleep(WAIT_INTERVAL);
        }
    }

    /// Sends a request on its own connection, and returns the JSON of the response.
    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<Value, String> {
        let (unix, host) = match self.admin.strip_prefix("unix:") {
            Some(path) => (Some(path), "localhost"),
            None => (None, &*self.admin),
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        if let Some(token) = &self.token {
            _ = write!(request, "Authorization: Bearer {token}\r\n");
        }
        if !body.is_empty() {
            _ = write!(request, "Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        _ = write!(request, "\r\n{body}");
        let exchanged = match unix {
            Some(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(stream, &request)
            }),
            None => connect(host).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                exchange(stream, &request)
            }),
        };
        let response = exchanged.map_err(|error| format!("--admin {}: {error}", self.admin))?;
        parse(&response)
    }
}

fn connect(host: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> std::io::Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

/// Returns the JSON of a response, or the error that the response reports.
fn parse(response: &str) -> Result<Value, String> {
    let invalid = || "the response is not that of a front end with --admin".to_owned();
    let (head, body) = response.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).ok_or_else(invalid)?;
    let json: Value = serde_json::from_str(body).map_err(|_| invalid())?;
    match status {
        "200" => Ok(json),
        status => Err(json["error"].as_str().map_or_else(|| format!("status {status}"), str::to_owned)),
    }
}

fn token(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("--token-file {file}: {error}"))?;
    let token = text.trim();
    // The token becomes part of a header.
    match token.bytes().all(|byte| byte.is_ascii_graphic()) && !token.is_empty() {
        true => Ok(token.to_owned()),
        false => Err(format!("--token-file {file}: expected a token in one line")),
    }
}

/// Returns the endpoint of an action in the status.
fn find<'s>(status: &'s Value, action: &Value) -> Option<&'s Value> {
    let clusters = status["clusters"].as_object()?.iter();
    let mut of_name = clusters.filter(|(name, _)| action["cluster"].as_str().is_none_or(|cluster| *name == cluster));
    of_name.find_map(|(_, cluster)| {
        cluster["endpoints"].as_array()?.iter().find(|endpoint| endpoint["id"] == action["endpoint"])
    })
}

/// Returns the number of requests and sessions that remain at an endpoint that is not ready.
fn waits_for(endpoint: &Value) -> String {
    let left = &endpoint["waits_for"];
    if left.is_null() {
        return String::new();
    }
    let sessions = left["bound_sessions"].as_u64().map(|count| format!("; {count} sessions are bound to it"));
    let requests = match left["drained"] == true {
        true => "; no request is left".to_owned(),
        false => format!("; waits for {} requests in flight and {} that wait", left["in_flight"], left["waiting"]),
    };
    requests + &sessions.unwrap_or_default()
}

/// Returns the status as text, with one node per line.
fn table(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut table = String::new();
    for (name, cluster) in status["clusters"].as_object().into_iter().flatten() {
        let since = cluster["not_serving_since"].as_str().map(|since| format!(" since {since}")).unwrap_or_default();
        let problem = if cluster["serving"] == false { format!(": no node is up{since}") } else { String::new() };
        _ = writeln!(table, "{name}{problem}");
        _ = writeln!(
            table,
            "  {:<24} {:<10} {:<12} {:>9} {:>8} {:>9} {:>9} {:>9}  reason",
            "node", "health", "admin state", "in flight", "waiting", "per s", "p50 ms", "p99 ms"
        );
        for endpoint in cluster["endpoints"].as_array().into_iter().flatten() {
            let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| value.to_string());
            let (rates, latency) = (&endpoint["rates"], &endpoint["rates"]["latency_ms"]);
            let error = endpoint["error"].as_str().map(|error| format!(" ({error})")).unwrap_or_default();
            let since = text(&endpoint["since"]);
            let reason = endpoint["reason"].as_str().map(|reason| format!("{reason}{error}, since {since}"));
            let (id, health, admin_state) =
                (text(&endpoint["id"]), text(&endpoint["health"]), text(&endpoint["admin_state"]));
            let (in_flight, waiting) = (number(&endpoint["in_flight"]), number(&endpoint["waiting"]));
            let (rate, p50, p99) = (number(&rates["requests_per_s"]), number(&latency["p50"]), number(&latency["p99"]));
            let reason = reason.unwrap_or_default() + &waits_for(endpoint);
            _ = writeln!(
                table,
                "  {id:<24} {health:<10} {admin_state:<12} {in_flight:>9} {waiting:>8} {rate:>9} {p50:>9} {p99:>9}  {reason}"
            );
        }
    }
    table
}
