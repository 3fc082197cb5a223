//! The clocks of the nodes are compared by the `Date` of their responses to probes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kylin_lb::clock::ManualClock;
use kylin_lb::cluster::ClusterStatus;
use kylin_lb::probe::{HealthCheck, Probe};
use kylin_lb::testing::Scripted;
use kylin_lb::{Body, Cluster, Endpoint};

/// A node whose responses have this date, if any.
fn node(id: &str, date: &Arc<Mutex<Option<&'static str>>>) -> Endpoint<Scripted> {
    let date = Arc::clone(date);
    let script = move |_: Request<Body>| {
        let mut response = Response::builder().header("content-type", "application/json");
        if let Some(date) = *date.lock().unwrap() {
            response = response.header("date", date);
        }
        async move { Ok(response.body(Body::from(r#"{"kylin.version":"3.1.3"}"#)).unwrap()) }
    };
    Endpoint::new(id, Scripted::new(script)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn nodes_whose_clocks_differ_are_seen_in_the_status() {
    let dates = [None, Some("Thu, 01 Jan 2026 00:00:02 GMT"), Some("Wed, 31 Dec 2025 23:59:59 GMT")];
    let dates = dates.map(|date| Arc::new(Mutex::new(date)));
    let nodes = ["a", "b", "c"].iter().zip(&dates).map(|(id, date)| node(id, date));
    // The date is the first second of 2026.
    let cluster = Cluster::builder().endpoints(nodes).clock(ManualClock::new()).build().unwrap();
    assert_eq!(cluster.status().clock_skew, None);
    let _checker = HealthCheck::new(Probe::kylin_version()).start(&cluster).unwrap();
    let clocks = async || {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let status = cluster.status();
        let ahead: Vec<_> = status.endpoints.iter().map(|endpoint| endpoint.clock_ahead).collect();
        (ahead, status.clock_skew)
    };
    assert_eq!(clocks().await, (vec![None, Some(2), Some(-1)], Some(ClusterStatus::MAX_CLOCK_SKEW + 1)));
    *dates[0].lock().unwrap() = Some("Thu, 01 Jan 2026 00:01:00 GMT");
    assert_eq!(clocks().await, (vec![Some(60), Some(2), Some(-1)], Some(61)));
    for date in &dates {
        *date.lock().unwrap() = Some("Wed, 31 Dec 2025 23:00:00 GMT");
    }
    assert_eq!(clocks().await, (vec![Some(-3600); 3], Some(0)), "all nodes may differ from the front end");
}
