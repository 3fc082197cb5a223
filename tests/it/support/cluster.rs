//! Clusters whose endpoints are picked but get no requests.

use std::net::IpAddr;
use std::num::NonZeroU32;

use http::{Request, Response};
use kylin_lb::balance::{Attempted, Balancer, Candidate, Candidates};
use kylin_lb::cluster::Picked;
use kylin_lb::endpoint::AdminState;
use kylin_lb::{Backend, Body, Cluster, Endpoint, QueryKeys, RequestView, SendError};

/// A backend that must not be used.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Backend for Nowhere {
    async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
        panic!("nothing is sent in this test")
    }
}

/// Picks the first endpoint that is eligible.
#[derive(Debug)]
pub(crate) struct InOrder;

impl Balancer for InOrder {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        from.iter().next()
    }
}

/// Returns an endpoint without a node.
pub(crate) fn endpoint(id: &str) -> Endpoint<Nowhere> {
    Endpoint::new(id, Nowhere).unwrap()
}

/// Returns endpoints called `0`, `1`, ... with nginx's server parameters (`"weight=3 down"`).
pub(crate) fn endpoints(parameters: &[&str]) -> Vec<Endpoint<Nowhere>> {
    let with = |index: usize, parameters: &str| {
        parameters.split_whitespace().fold(endpoint(&index.to_string()), |endpoint, parameter| {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("weight", weight) => endpoint.weight(weight.parse().unwrap()),
                ("max_conns", limit) => endpoint.max_in_flight(NonZeroU32::new(limit.parse().unwrap())),
                ("max_fails", fails) => endpoint.max_fails(NonZeroU32::new(fails.parse().unwrap())),
                ("backup", _) => endpoint.backup(true),
                ("down", _) => endpoint.admin_state(AdminState::Maintenance),
                other => panic!("{other:?}"),
            }
        })
    };
    parameters.iter().enumerate().map(|(index, parameters)| with(index, parameters)).collect()
}

/// Returns a weight or a limit.
pub(crate) const fn nonzero(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// Returns a cluster of such endpoints.
pub(crate) fn cluster(balancer: impl Balancer, parameters: &[&str]) -> Cluster<Nowhere> {
    Cluster::builder().endpoints(endpoints(parameters)).balancer(balancer).build().unwrap()
}

/// Returns a request with a key in `x-key`.
pub(crate) fn request(key: &str) -> Request<()> {
    Request::get("/").header("x-key", key).body(()).unwrap()
}

/// Picks for a client and a key, from which the query keys are also made.
pub(crate) fn pick(
    cluster: &Cluster<Nowhere>,
    client: IpAddr,
    key: &str,
    attempted: &Attempted,
) -> Option<Picked<Nowhere>> {
    let number = key.bytes().fold(7, |number: u64, byte| number.wrapping_mul(257).wrapping_add(byte.into()));
    cluster.pick(&RequestView::of(&request(key), client).with_query(QueryKeys::new(number, number)), attempted).ok()
}

/// Returns the index of the endpoint that is picked for a client and a key. The lease is dropped at
/// once.
pub(crate) fn choose(cluster: &Cluster<Nowhere>, client: IpAddr, key: &str) -> usize {
    index(&pick(cluster, client, key, &Attempted::none()).expect("an endpoint is eligible"))
}

pub(crate) fn index(picked: &Picked<Nowhere>) -> usize {
    picked.lease.endpoint().as_str().parse().unwrap()
}
