//! Measures the memory and lookup time of a session, the time that affinity adds to a request, and
//! response times while a shared store is down.
//!
//! ```sh
//! cargo bench --bench sessions                          # about four minutes
//! cargo bench --bench sessions -- --cases memory        # bytes per session and nanoseconds per lookup, 10 thousand to 10 million
//! cargo bench --bench sessions -- --cases requests      # nanoseconds per request with each affinity
//! cargo bench --bench sessions -- --cases store-down    # response times while Redis, MariaDB or Memcached is down, and after
//! cargo bench --bench sessions -- --cases store-down --seconds 3 --stores redis
//! BINARY --cases loop --loop proxy --rounds 21000       # a fixed amount of work, to count its instructions
//! ```
//!
//! `benches/README.md` explains the figures.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for a terminal, which may panic"
)]
#![allow(unreachable_pub, reason = "a program exports nothing")]

mod fixed;
mod memory;
mod requests;
mod store_down;

/// The real servers, the front end and the client from the tests.
#[path = "../../tests/it/support"]
#[allow(dead_code, reason = "the tests use more of it")]
mod support {
    pub(crate) mod front;
    pub(crate) mod http;
    pub(crate) mod login;
    pub(crate) mod mariadb;
    pub(crate) mod memcached;
    pub(crate) mod port;
    pub(crate) mod process;
    pub(crate) mod redis;
    pub(crate) mod skip;
    pub(crate) mod store;
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| word == name)?;
        Some(words.get(at + 1).unwrap_or_else(|| panic!("{name} wants a value")).as_str())
    };
    let wants = |option: &str, name: &str| value(option).is_none_or(|list| list.split(',').any(|word| word == name));
    if wants("--cases", "memory") {
        memory::run();
    }
    if wants("--cases", "requests") {
        requests::run();
    }
    if value("--cases") == Some("loop") {
        let rounds = value("--rounds").map_or(1000, |rounds| rounds.parse().unwrap());
        fixed::run(value("--loop").unwrap_or("store"), rounds);
    }
    if wants("--cases", "store-down") {
        let seconds = value("--seconds").map_or(10, |seconds| seconds.parse().unwrap());
        store_down::run(seconds, |store| wants("--stores", store));
    }
}
