//! Guides. This module exists only in the rustdoc.
//!
//! | page | topic |
//! |---|---|
//! | [`architecture`] | the parts, the terms, and the steps of one request |
//! | [`policies`] | choosing a policy |
//! | [`waiting`] | queries that wait for a node |
//! | [`logins`] | keeping logins |
//! | [`retries`] | what is retried and what is not |
//! | [`health`] | health of nodes: ejection, probes, slow start, panic mode |
//! | [`several_front_ends`] | several front ends for one cluster |
//! | [`axum`] | mounting the proxy in an axum application |
//! | [`operations`] | running a front end |

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("policies.md")]
pub mod policies {}

#[doc = include_str!("waiting.md")]
pub mod waiting {}

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
