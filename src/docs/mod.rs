//! Guides. This module exists in the rustdoc only.
//!
//! | page | for |
//! |---|---|
//! | [`architecture`] | how the parts fit together, and the way of one request |
//! | [`policies`] | choosing a policy |
//! | [`logins`] | keeping logins |
//! | [`retries`] | what is retried, and what never is |
//! | [`health`] | health of nodes: ejection, probes, slow start, panic mode |
//! | [`several_front_ends`] | more than one front end for one address |
//! | [`axum`] | mounting the proxy in an axum application |
//! | [`operations`] | running a front end |

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("policies.md")]
pub mod policies {}

#[doc = include_str!("logins.md")]
pub mod logins {}

#[doc = include_str!("retries.md")]
pub mod retries {}

#[doc = include_str!("health.md")]
pub mod health {}

#[doc = include_str!("several_front_ends.md")]
pub mod several_front_ends {}

#[doc = include_str!("axum.md")]
pub mod axum {}

#[doc = include_str!("operations.md")]
pub mod operations {}
