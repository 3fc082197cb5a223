//! What a session costs in memory, how long it takes to find, what affinity adds to a request, and what users notice when the
//! store that front ends share goes away.
//!
//! ```sh
//! cargo bench --bench sessions                          # about four minutes
//! cargo bench --bench sessions -- --cases memory        # bytes per session and nanoseconds per lookup, 10 thousand to 10 million
//! cargo bench --bench sessions -- --cases requests      # nanoseconds per request with each way of keeping sessions
//! cargo bench --bench sessions -- --cases store-down    # waiting times while Redis, MariaDB or Memcached is down, and after
//! cargo bench --bench sessions -- --cases store-down --seconds 3 --stores redis
//! ```
//!
//! See `benches/README.md` for what is measured and how to read it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a program for a terminal, which may stop"
)]
#![allow(unreachable_pub, reason = "a program has no outside")]

mod memory;
mod requests;
mod store_down;

/// The real servers, the front end and the client of the tests.
#[path = "../../tests/it/support"]
#[allow(dead_code, reason = "not all that tests need")]
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
    if wants("--cases", "store-down") {
        let seconds = value("--seconds").map_or(10, |seconds| seconds.parse().unwrap());
        store_down::run(seconds, |store| wants("--stores", store));
    }
}
