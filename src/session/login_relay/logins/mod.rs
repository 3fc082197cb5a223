//! Logging in at nodes: once for all requests that need it, and rarely while logins fail.

mod attempt;
mod backoff;
mod ensure;
mod single_flight;

pub(super) use attempt::{ClientHeaders, LoginOutcome};
pub(super) use backoff::LoginBackoff;
pub(super) use single_flight::SingleFlight;
