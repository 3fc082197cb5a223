//! A client that logs in, queries and builds, and checks each response.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE, HOST, SET_COOKIE};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::testing::kylin::Metastore;
use kylin_lb::{Backend, Body, HttpBackend};

pub(crate) const PASSWORD: &str = "KYLIN";
pub(crate) const USERS: usize = 8;
/// Each client repeats this many queries, because the nodes remember the text of each.
const QUERIES: u64 = 16;
/// One in this many requests is a build, of which the metastore keeps a record.
const BUILD_EVERY: u64 = 50;

pub(crate) fn user(number: usize) -> String {
    format!("USER{}", number % USERS)
}

/// The results that clients got.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) right: u64,
    /// Responses with 401 to a session that lived in the memory of a node.
    pub(crate) lost: u64,
    pub(crate) honest: u64,
    /// Responses that ended with an error.
    pub(crate) truncated: u64,
    pub(crate) wrong: Vec<String>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.sent += other.sent;
        self.right += other.right;
        self.lost += other.lost;
        self.honest += other.honest;
        self.truncated += other.truncated;
        self.wrong.extend(other.wrong);
    }
}

pub(crate) struct Client {
    number: usize,
    front: HttpBackend,
    over: Arc<AtomicBool>,
    metastore: Metastore,
    cookie: Option<String>,
    tally: Tally,
}

impl Client {
    pub(crate) fn new(number: usize, front: SocketAddr, over: Arc<AtomicBool>, metastore: Metastore) -> Self {
        let front = HttpBackend::new(&front.to_string()).unwrap();
        Client { number, front, over, metastore, cookie: None, tally: Tally::default() }
    }

    pub(crate) async fn run(mut self) -> Tally {
        for round in 0_u64.. {
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            match self.cookie {
                None => self.log_in().await,
                Some(_) if round % BUILD_EVERY == 7 => self.build(round).await,
                Some(_) => self.query(round % QUERIES).await,
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..100))).await;
        }
        self.tally
    }

    async fn log_in(&mut self) {
        let login = kylin_login(&user(self.number));
        let request = Request::post("/kylin/api/user/authentication").header(AUTHORIZATION, login);
        let name = user(self.number);
        self.exchange(request, Body::empty(), |text| text.contains(&name)).await;
    }

    async fn query(&mut self, number: u64) {
        let sql = format!("select 'c{}q{number}' from kylin_sales", self.number);
        let body = format!(r#"{{"sql":"{sql}","project":"learn_kylin"}}"#);
        let request = Request::post("/kylin/api/query").header("content-type", "application/json");
        self.exchange(request, body.into(), |text| text.contains(&sql) && text.ends_with('}')).await;
    }

    async fn build(&mut self, round: u64) {
        let cube = format!("c{}r{round}", self.number);
        let request = Request::put(format!("/kylin/api/cubes/{cube}/rebuild"));
        self.exchange(request, "{}".into(), |text| text.contains(&cube)).await;
        let times = self.metastore.builds_of(&cube);
        if times > 1 {
            self.tally.wrong.push(format!("{cube} was built {times} times"));
        }
    }

    async fn exchange(&mut self, request: http::request::Builder, body: Body, is_right: impl Fn(&str) -> bool) {
        let mut request = request.header(HOST, "kylin");
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let request = request.body(body).unwrap();
        let what = format!("{} {}", request.method(), request.uri());
        self.tally.sent += 1;
        let response = match self.front.send(request).await {
            Ok(response) => response,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                self.tally.wrong.push(format!("{what}: {error}: {cause}"));
                return;
            }
        };
        let status = response.status();
        let cookie = response.headers().get(SET_COOKIE).and_then(|line| line.to_str().ok()?.split(';').next());
        let cookie = cookie.map(str::to_owned);
        let Ok(body) = response.into_body().collect().await else {
            self.tally.truncated += 1;
            return;
        };
        let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        match status {
            StatusCode::OK if is_right(&text) => {
                self.tally.right += 1;
                self.cookie = cookie.or(self.cookie.take());
            }
            StatusCode::UNAUTHORIZED => {
                self.tally.lost += 1;
                self.cookie = None;
            }
            status if status.is_server_error() => self.tally.honest += 1,
            status => self.tally.wrong.push(format!("{what}: {status} {text:.200}")),
        }
    }
}

fn kylin_login(user: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{PASSWORD}")))
}
