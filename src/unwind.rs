//! Catches panics in the application's code, so that they end only one request.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

/// Runs a future. Returns `None` if it panics.
///
/// The panic hook of the process has reported the panic by then. The values that the future borrows
/// must stay valid if it is dropped at any await. The caller pins it, because a future that owns
/// its arguments stores them twice.
pub(crate) fn catch_panic<T>(mut future: Pin<&mut impl Future<Output = T>>) -> impl Future<Output = Option<T>> {
    // Unwind safe, because the future is only dropped after a panic.
    poll_fn(move |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_at_any_poll_is_none() {
        assert_eq!(catch_panic(pin!(async { 1 })).await, Some(1));
        assert_eq!(catch_panic(pin!(async { assert!(std::hint::black_box(false), "at once") })).await, None);
        let later = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "later");
        };
        assert_eq!(catch_panic(pin!(later)).await, None);
    }
}
