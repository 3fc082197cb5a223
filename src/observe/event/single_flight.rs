//! The event and the status of single flight.

use std::time::Duration;

use crate::endpoint::EndpointId;
use crate::observe::ObservedRequest;

/// A request gets a copy of the response to an identical one, so no endpoint is picked for it.
#[derive(Debug)]
#[non_exhaustive]
pub struct SharedResponse<'a> {
    /// The request.
    pub request: &'a ObservedRequest,
    /// The endpoint that responded to the identical request.
    pub endpoint: &'a EndpointId,
    /// From the arrival of the request to the copy.
    pub waited: Duration,
}

/// The current state of single flight in a proxy: see
/// [`ProxyBuilder::single_flight`](crate::proxy::ProxyBuilder::single_flight).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SingleFlightStatus {
    /// The number of queries in flight whose response others would get too.
    pub leaders: usize,
    /// The number of queries that wait for the response to an identical one.
    pub followers: usize,
    /// The number of queries that got a copy of the response to an identical one since the proxy
    /// was built.
    pub shared: u64,
}
