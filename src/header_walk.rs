//! The only way to visit all headers of a message between the codec and the backend.
//!
//! A pass over the header map is one of the larger costs of a request. So one pass collects the
//! facts for later steps, and another one writes the head. Tests count the passes.

use http::header::{HeaderMap, HeaderValue, Iter};

/// Visits all headers; a header with several values is visited once per value.
pub(crate) fn walk(headers: &HeaderMap) -> Iter<'_, HeaderValue> {
    #[cfg(test)]
    tests::WALKS.with(|walks| walks.set(walks.get() + 1));
    headers.iter()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    thread_local! {
        pub(super) static WALKS: Cell<usize> = const { Cell::new(0) };
    }

    /// Returns how many passes this thread has made.
    pub(crate) fn walks() -> usize {
        WALKS.with(Cell::get)
    }
}
