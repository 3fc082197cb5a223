//! An honest client, which logs in, queries, lists projects and builds cubes, and checks each
//! response.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use kylin_lb::Body;

use super::setup::{Cast, WELL};
use super::world::pause;
use crate::support::browser::basic;

pub(super) const PASSWORD: &str = "KYLIN";

pub(super) fn user(number: usize) -> String {
    format!("USER{number}")
}

pub(super) struct Client {
    number: usize,
    cast: Cast,
    rng: Rng,
    cookies: BTreeMap<String, String>,
    is_logged_in: bool,
    /// Whether it sends its credentials with each request, as drivers do.
    is_driver: bool,
}

enum Work {
    Login,
    Query(String),
    Projects,
    Build(String),
}

impl Client {
    pub(super) fn new(number: usize, cast: Cast) -> Self {
        let mut rng = cast.world.rng(100 + number as u64);
        let is_driver = rng.bool();
        Client { number, cast, rng, cookies: BTreeMap::new(), is_logged_in: false, is_driver }
    }

    pub(super) fn ip(number: usize) -> IpAddr {
        Ipv4Addr::new(10, 0, number as u8, 1).into()
    }

    /// Works until `end`.
    pub(super) async fn run(mut self, end: tokio::time::Instant) {
        let mut round = 0;
        while tokio::time::Instant::now() < end {
            pause(&mut self.rng, 50..600).await;
            round += 1;
            let token = format!("t{}x{round}", self.number);
            let work = match self.rng.u8(..100) {
                _ if !self.is_logged_in && !self.is_driver => Work::Login,
                0..70 => Work::Query(format!("select '{token}' from kylin_sales")),
                70..85 => Work::Projects,
                _ => Work::Build(token),
            };
            self.does(work).await;
        }
    }

    async fn does(&mut self, work: Work) {
        let (method, path, body) = match &work {
            Work::Login => ("POST", "/kylin/api/user/authentication".to_owned(), String::new()),
            Work::Query(sql) => {
                let body = serde_json::json!({"sql": sql, "project": "learn_kylin"}).to_string();
                ("POST", "/kylin/api/query".to_owned(), body)
            }
            Work::Projects => ("GET", "/kylin/api/projects".to_owned(), String::new()),
            Work::Build(cube) => ("PUT", format!("/kylin/api/cubes/{cube}/rebuild"), "{}".to_owned()),
        };
        let mut request = Request::builder().method(method).uri(&path).header("host", "kylin");
        if self.is_driver || matches!(work, Work::Login) {
            request = request.header("authorization", basic(&user(self.number), PASSWORD));
        }
        if !self.cookies.is_empty() && !self.is_driver {
            let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", cookies.join("; "));
        }
        let request = request.header("content-length", body.len()).body(Body::from(body)).unwrap();
        let world = self.cast.world.clone();
        let was_well = world.well_for().is_some_and(|well| well > WELL);
        let open = world.request();
        let began = tokio::time::Instant::now();
        let response = self.cast.proxy.forward(Self::ip(self.number), request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        drop(open);
        self.keep_cookies(&head.headers);
        let what = format!("client {} {method} {path}: {}", self.number, head.status.as_u16());
        world.log(&what);
        let is_well = was_well && world.well_for().is_some_and(|well| well > began.elapsed() + WELL);
        let Ok(text) = body else {
            world.check(!is_well, || format!("{what}, truncated although all nodes are well"));
            return;
        };
        let shown = || format!("{what} {:.300}", text);
        let is_right = match (&work, head.status) {
            (_, StatusCode::UNAUTHORIZED) => {
                self.is_logged_in = false;
                world
                    .check(!is_well || !self.is_driver, || format!("{}: refused although all nodes are well", shown()));
                return;
            }
            (Work::Login, StatusCode::OK) => {
                self.is_logged_in = true;
                text.contains(&user(self.number))
            }
            (Work::Query(sql), StatusCode::OK) => {
                let json = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
                json["results"][0][1].as_str() == Some(sql)
            }
            (Work::Projects, StatusCode::OK) => text.contains("learn_kylin") && text.ends_with(']'),
            (Work::Build(cube), StatusCode::OK) => text.contains(cube.as_str()),
            (_, status) if status.is_server_error() => {
                // The login relay resends a password that could not be checked after half a minute.
                let is_kept = text.contains("can check the login of the session");
                world.check(!is_well || is_kept, || format!("{} although all nodes are well", shown()));
                return;
            }
            _ => false,
        };
        world.check(is_right, || format!("wrong response: {}", shown()));
        let slow = began.elapsed() > Duration::from_secs(5);
        world.check(!(is_well && slow), || {
            format!("took {:?} although all nodes are well: {}", began.elapsed(), shown())
        });
        match work {
            Work::Build(cube) => {
                let times = self.cast.metastore.builds_of(&cube);
                world.check(times <= 1, || format!("{cube} was built {times} times"));
            }
            Work::Query(sql) => {
                let times: u64 = self.cast.nodes.iter().map(|node| node.node.executed(&sql)).sum();
                world.check((1..=2).contains(&times), || format!("{sql} was executed {times} times"));
            }
            Work::Login | Work::Projects => {}
        }
    }

    fn keep_cookies(&mut self, headers: &HeaderMap) {
        for line in headers.get_all("set-cookie") {
            let pair = line.to_str().unwrap().split(';').next().unwrap();
            match pair.split_once('=').unwrap() {
                (name, "") => _ = self.cookies.remove(name),
                (name, value) => _ = self.cookies.insert(name.to_owned(), value.to_owned()),
            }
        }
    }
}
