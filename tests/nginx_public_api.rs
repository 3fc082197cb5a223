//! Proves that the nginx module needs only the crate's public API, because it compiles here,
//! outside the crate.
//!
//! `crate::` in the module finds the exports of `kylin_lb`, and nothing private. Compiling is the
//! test, so `main` is empty.

#![allow(dead_code, missing_docs, unreachable_pub, unused_imports, reason = "the module is written for the crate")]

use kylin_lb::*;

#[path = "../src/nginx/mod.rs"]
mod nginx;

fn main() {}
