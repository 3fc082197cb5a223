//! Asks a store that is away whether it is back, so that no request has to wait for finding out.

use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::breaker::PAUSE;
use super::inner::Inner;
use crate::session::SessionKey;

/// Starts the task that asks, unless there is one, or no runtime to carry it; then requests ask.
pub(super) fn start(inner: &Inner) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if !inner.breaker.probed.swap(true, Ordering::SeqCst) {
        runtime.spawn(probe(Prober(Weak::clone(&inner.own))));
    }
}

/// Says that no task asks any more, also when its runtime is gone before its time.
struct Prober(Weak<Inner>);

impl Drop for Prober {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.breaker.probed.store(false, Ordering::SeqCst);
        }
    }
}

/// Ends when the store is back, or when nobody holds the sessions any more.
async fn probe(mut prober: Prober) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(inner) = prober.0.upgrade() else { return };
        // No session's, and another one each time: where a part of a store is away, the rest is not.
        let key = SessionKey::from_bytes(fastrand::u128(..).to_ne_bytes());
        _ = inner.in_its_time(inner.store.load(&key)).await;
        if !inner.breaker.is_open() {
            // Who finds it away again from here on starts another task; who did before is seen now.
            let probed = &inner.breaker.probed;
            probed.store(false, Ordering::SeqCst);
            if !inner.breaker.is_open() || probed.swap(true, Ordering::SeqCst) {
                prober.0 = Weak::new();
                return;
            }
        }
    }
}
