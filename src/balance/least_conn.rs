use super::least::least;
use super::{Balancer, Candidate, Candidates};
use crate::request::RequestView;

/// The endpoint with the fewest requests in flight for its weight (nginx: `least_conn`); of equals, the one whose turn is
/// next in smooth weighted order.
///
/// The count is of requests whose answer has not ended, over all cores of the process. Turns among equals each core takes for
/// itself, as nginx's workers do, so that they do not contend for a counter. An endpoint that has nothing in flight when its turn
/// comes takes the turn, whether others are idle or not; nginx counts only picks among equals.
///
/// Among more than 64 endpoints a pick takes a turn in smooth weighted order and looks at the 32 endpoints from there on, of
/// which it chooses by the same rule; where none of them can serve, the next in order does. nginx looks at all, which for
/// thousands of endpoints costs more than sending the request. What is lost is little: two to choose from already bring nearly
/// all the balance that choosing from all does (Mitzenmacher 2001), and every endpoint is among the 32 of as many picks of a core
/// in a row. Cores begin in different parts of the order.
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
