//! Is an endpoint fit to serve? Outcomes of requests go in, eligibility comes out.

pub(crate) mod passive;
