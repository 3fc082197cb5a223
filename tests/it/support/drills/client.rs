//! A client that behaves like curl, the JDK and browsers, and checks each response by a token.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::tally::Tally;
use crate::support::browser::basic;
use crate::support::http::{Connection, RawResponse};

/// The maximum wait for a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// One request in this many is a build.
const BUILD_EVERY: u64 = 6;

/// How a client authenticates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// With a login, whose session cookie the client then sends.
    Session,
    /// With credentials in each request, and without cookies.
    EachRequest,
}

/// The state that the clients of a drill share.
pub(crate) struct Crowd {
    pub(crate) over: AtomicBool,
    /// Whether no node runs, so that failures are honest.
    pub(crate) outage: AtomicBool,
    /// Responses of any kind.
    pub(crate) responses: AtomicU64,
    /// The restarts of the nodes, by the name of the node.
    pub(crate) restarts: BTreeMap<String, Restarts>,
    pub(crate) build: BuildCall,
    /// Whether the front end may repeat queries.
    pub(crate) repeats_queries: bool,
    /// The duration of each query.
    pub(crate) query_ms: u64,
    pub(crate) think_time: Duration,
}

/// Counts twice for each loss of a node's sessions: before it begins, and when it is over. In
/// between, the count is odd.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restarts(Arc<AtomicU64>);

impl Restarts {
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Crowd {
    fn restarts(&self) -> BTreeMap<String, u64> {
        self.restarts.iter().map(|(name, restarts)| (name.clone(), restarts.0.load(Ordering::SeqCst))).collect()
    }
}

/// The text of the query with this token, which ends with its time in milliseconds.
pub(crate) fn sql(token: &str) -> String {
    let ms = token.rsplit('-').next().unwrap_or_default();
    format!("select '{token}', sleep_ms({ms})")
}

/// The call that starts a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildCall {
    /// `PUT /cubes/{cube}/build`, of Kylin 2.x-4.x.
    Cube,
    /// `POST /models/{model}/segments`, of Kylin 5, and of the application for Tomcat, because a
    /// JSP accepts no PUT.
    Segments,
}

impl BuildCall {
    fn line(self, token: &str) -> String {
        match self {
            BuildCall::Cube => format!("PUT /kylin/api/cubes/{token}/build"),
            BuildCall::Segments => format!("POST /kylin/api/models/{token}/segments"),
        }
    }
}

/// A client with one kept connection and its cookies.
pub(crate) struct Client {
    number: usize,
    user: String,
    front: SocketAddr,
    login: Login,
    connection: Option<Connection>,
    cookies: BTreeMap<String, String>,
    /// The number of restarts of all nodes before the login.
    login_restarts: Option<BTreeMap<String, u64>>,
    /// The node that served the session last.
    home: Option<String>,
    /// Whether there was an outage at the beginning or at the end of the last exchange.
    in_outage: bool,
    crowd: Arc<Crowd>,
    tally: Tally,
}

/// How an exchange ended.
enum Exchange {
    Response(RawResponse),
    Failed(&'static str),
}

impl Client {
    pub(crate) fn new(number: usize, front: SocketAddr, login: Login, crowd: Arc<Crowd>) -> Self {
        Client {
            number,
            user: user(number),
            front,
            login,
            connection: None,
            cookies: BTreeMap::new(),
            login_restarts: None,
            home: None,
            in_outage: false,
            crowd,
            tally: Tally::default(),
        }
    }

    /// Sends queries and builds until the drill is over.
    pub(crate) async fn run(mut self) -> Tally {
        for round in self.number as u64.. {
            if self.crowd.over.load(Ordering::SeqCst) {
                break;
            }
            if self.login == Login::EachRequest || self.login_restarts.is_some() || self.log_in().await {
                self.work(round).await;
            }
            tokio::time::sleep(self.crowd.think_time).await;
        }
        self.tally
    }

    async fn log_in(&mut self) -> bool {
        let restarts = self.crowd.restarts();
        let head = format!(
            "POST /kylin/api/user/authentication HTTP/1.1\r\nAuthorization: {}\r\n",
            basic(&self.user, PASSWORD)
        );
        let response = self.exchange(&head, "").await;
        match response {
            Exchange::Response(response) if response.status() == 200 && response.text().contains(&self.user) => {
                (self.login_restarts, self.home) = (Some(restarts), None);
                return true;
            }
            // A front end that knows nothing about Kylin repeats no POST that may have been
            // executed.
            Exchange::Response(response) if response.status() == 502 && !self.crowd.repeats_queries => {
                self.tally.broken_writes += 1;
            }
            Exchange::Response(response) => self.fail(format!("login: {}", shown(&response))),
            Exchange::Failed(how) => self.fail(format!("login: {how}")),
        }
        false
    }

    async fn work(&mut self, round: u64) {
        let is_build = round.is_multiple_of(BUILD_EVERY);
        let token = format!("t{}-{round}-{}", self.number, self.crowd.query_ms);
        let (line, body) = match is_build {
            true => (self.crowd.build.line(&token), "{}".to_owned()),
            false => (
                "POST /kylin/api/query".to_owned(),
                serde_json::json!({"sql": sql(&token), "project": "learn_kylin"}).to_string(),
            ),
        };
        let mut head = format!("{line} HTTP/1.1\r\nContent-Type: application/json\r\n");
        if self.login == Login::EachRequest {
            head += &format!("Authorization: {}\r\n", basic(&self.user, PASSWORD));
        }
        let kind = if is_build { "build" } else { "query" };
        let silent = self.tally.silent;
        let exchange = self.exchange(&head, &body).await;
        self.tally.sent(token.clone(), is_build, 1 + self.tally.silent - silent);
        match exchange {
            Exchange::Failed(how) => self.fail(format!("{kind}: {how}")),
            Exchange::Response(response) => match response.status() {
                200 if response.text().contains(&token) => {
                    if !is_build {
                        self.home = self.node_of(&response).or(self.home.take());
                    }
                }
                200 => self.fail(format!("{kind}: the response of another request")),
                401 => self.lost(),
                502 if is_build || !self.crowd.repeats_queries => self.tally.broken_writes += 1,
                _ => self.fail(format!("{kind}: {}", shown(&response))),
            },
        }
    }

    fn fail(&mut self, what: String) {
        match self.in_outage {
            true => self.tally.failed_in_outage += 1,
            false => *self.tally.failures.entry(what).or_default() += 1,
        }
    }

    /// Attributes a lost login to the node if it lost its sessions since, otherwise to the front
    /// end.
    fn lost(&mut self) {
        let (before, now) = (self.login_restarts.take().unwrap_or_default(), self.crowd.restarts());
        let home = self.home.take();
        let lost = |(name, times): (&String, &u64)| before.get(name) != Some(times) || times % 2 == 1;
        let honest = now.iter().filter(|(name, _)| home.as_ref().is_none_or(|home| home == *name)).any(lost);
        if honest {
            self.tally.lost += 1;
        } else {
            self.tally.lost_wrongly += 1;
        }
    }

    /// The node that ran a query: the first cell of its result.
    fn node_of(&self, response: &RawResponse) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&response.body).ok()?;
        json["results"][0][0].as_str().map(str::to_owned)
    }

    /// Sends a request on the kept connection, or on a new one. If the kept one closes without a
    /// byte of the response, sends it again on a new one, regardless of its method. So do curl, the
    /// JDK and browsers.
    async fn exchange(&mut self, head: &str, body: &str) -> Exchange {
        let mut request = format!("{head}Host: kylin\r\nUser-Agent: test\r\nContent-Length: {}\r\n", body.len());
        if self.login == Login::Session && !self.cookies.is_empty() {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        request += &format!("\r\n{body}");
        let began = Instant::now();
        self.in_outage = self.crowd.outage.load(Ordering::SeqCst);
        let exchange = loop {
            let (mut connection, kept) = match self.connection.take() {
                Some(connection) => (connection, true),
                None => match Connection::open_from(self.address(), self.front).await {
                    Ok(connection) => (connection.read_timeout(READ_TIMEOUT), false),
                    Err(_) => break Exchange::Failed("no connection"),
                },
            };
            let before = connection.received();
            let response = match connection.send(&request).await {
                Ok(()) => connection.response().await,
                // The response may be there although the request could not be sent completely.
                Err(error) => connection.response().await.map_err(|_| error),
            };
            match response {
                Ok(response) => {
                    if response.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
                        self.connection = Some(connection);
                    }
                    break Exchange::Response(response);
                }
                Err(error) if !is_close(&error) => break Exchange::Failed("time-out"),
                Err(_) if connection.received() > before => break Exchange::Failed("truncated"),
                Err(_) if kept => self.tally.silent += 1,
                Err(_) => break Exchange::Failed("closed without a byte"),
            }
        };
        self.in_outage |= self.crowd.outage.load(Ordering::SeqCst);
        self.tally.requests += 1;
        self.tally.slowest = self.tally.slowest.max(began.elapsed());
        self.crowd.responses.fetch_add(1, Ordering::SeqCst);
        if let Exchange::Response(response) = &exchange {
            self.keep_cookies(response);
        }
        exchange
    }

    /// Each client has its own address, so that policies by address can tell the clients apart.
    fn address(&self) -> IpAddr {
        Ipv4Addr::new(127, 0, self.number as u8 + 1, 1).into()
    }

    fn keep_cookies(&mut self, response: &RawResponse) {
        for line in response.head.all("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => _ = self.cookies.remove(name),
                value => _ = self.cookies.insert(name.to_owned(), value.to_owned()),
            }
        }
    }
}

/// The password of all users.
pub(crate) const PASSWORD: &str = "KYLIN";

/// The user of a client.
pub(crate) fn user(number: usize) -> String {
    format!("USER{number}")
}

fn is_close(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The status and the beginning of a response, without the parts that differ between two of a kind.
fn shown(response: &RawResponse) -> String {
    let text = String::from_utf8_lossy(&response.body);
    let message =
        serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|json| Some(json["msg"].as_str()?.to_owned()));
    format!("{} {:.90}", response.status(), message.as_deref().unwrap_or(&text))
}
