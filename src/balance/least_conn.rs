use super::least::least;
use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// The endpoint with the fewest requests in flight for its weight (nginx: `least_conn`); of equals, the one whose turn is
/// next in smooth weighted order.
///
/// The count is of requests whose answer has not ended, over all cores of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeastConn;

impl LeastConn {
    /// The policy; all its state is the cluster's.
    pub fn new() -> Self {
        LeastConn
    }
}

impl Balancer for LeastConn {
    fn pick<'c>(&self, _request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        least(from, |candidate| u64::from(candidate.in_flight()))
    }
}
