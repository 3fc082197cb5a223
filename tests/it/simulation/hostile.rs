//! A hostile client, which makes nodes fail, stalls, leaves, and sends requests that are refused.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use http::Request;
use http_body::Frame;
use http_body_util::BodyExt;
use kylin_lb::Body;
use tokio::time::{Sleep, sleep, timeout};

use super::client::{Client, PASSWORD};
use super::faulty::POISON;
use super::setup::Cast;
use super::world::pause;
use crate::support::browser::basic;

/// Sends one bad request after another, until it is dropped.
pub(super) async fn run(number: usize, cast: Cast) {
    let mut rng = cast.world.rng(200 + number as u64);
    loop {
        pause(&mut rng, 20..500).await;
        let (what, request) = bad(&mut rng);
        let limit = Duration::from_millis(rng.u64(1..4_000));
        let open = cast.world.request();
        let forwarded = cast.proxy.forward(Client::ip(200 + number), request);
        let ended = match timeout(limit, forwarded).await {
            Ok(response) => {
                let status = response.status();
                let read = match rng.u8(..3) {
                    0 => "unread",
                    _ => match timeout(limit, response.into_body().collect()).await {
                        Ok(Ok(_)) => "read",
                        Ok(Err(_)) => "broken",
                        Err(_) => "left",
                    },
                };
                format!("{} {read}", status.as_u16())
            }
            Err(_) => "left before the head".to_owned(),
        };
        drop(open);
        cast.world.log(format!("hostile client {number} {what}: {ended}"));
    }
}

fn bad(rng: &mut Rng) -> (&'static str, Request<Body>) {
    let login = basic("ADMIN", PASSWORD);
    let request = |method: &str, path: &str| {
        Request::builder().method(method).uri(path).header("host", "kylin").header("authorization", &login)
    };
    let query = |sql: &str| Body::from(serde_json::json!({"sql": sql, "project": "learn_kylin"}).to_string());
    let slow = |every, count| Body::new(SlowBody { every: Duration::from_millis(every), left: count, sleep: None });
    let poison = *rng.choice(&["page", "reset", "garbage"]).unwrap_or(&"page");
    match rng.u8(..12) {
        0..=2 => {
            let request = request("POST", "/kylin/api/query").header(POISON, poison);
            ("poisons a query", request.body(query("select 1 from kylin_sales")).unwrap())
        }
        3 | 4 => {
            let request = request("GET", "/kylin/api/projects").header(POISON, poison);
            ("poisons a read", request.body(Body::empty()).unwrap())
        }
        5 => {
            let request = request("PUT", "/kylin/api/cubes/evil/rebuild").header(POISON, poison);
            ("poisons a build", request.body("{}".into()).unwrap())
        }
        6 => ("uploads slowly", request("POST", "/kylin/api/query").body(slow(rng.u64(1..900), 50)).unwrap()),
        7 => ("stalls", request("POST", "/kylin/api/query").body(slow(100_000, 2)).unwrap()),
        8 => ("sends brackets", request("POST", "/kylin/api/query").body(query(&"[".repeat(2_000))).unwrap()),
        9 => ("calls what is closed", request("PUT", "/kylin/api/cache/all/all/update").body(Body::empty()).unwrap()),
        10 => {
            let request =
                request("POST", "/kylin/api/query").header("transfer-encoding", "chunked").header("content-length", 3);
            ("frames twice", request.body("abc".into()).unwrap())
        }
        _ => {
            let sql = format!("select 'sleep_ms({})' from kylin_sales", rng.u32(100..6_000));
            ("runs a long query", request("POST", "/kylin/api/query").body(query(&sql)).unwrap())
        }
    }
}

/// A body with pauses between its pieces.
struct SlowBody {
    every: Duration,
    left: u32,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for SlowBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let every = self.every;
        let paused = self.sleep.get_or_insert_with(|| Box::pin(sleep(every)));
        ready!(paused.as_mut().poll(cx));
        (self.sleep, self.left) = (None, self.left - 1);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}
