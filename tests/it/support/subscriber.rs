//! Subscribers of `tracing` for one thread or one future.

use std::sync::LazyLock;

use tracing::Dispatch;
use tracing::subscriber::NoSubscriber;

/// Makes every subscriber of this process decide on each callsite.
///
/// While there is one subscriber alone, `tracing` asks the default of the thread that meets a callsite first. That may be the thread
/// of another test, which has none, and then the callsite stays off for all. A test calls this before it makes a subscriber.
pub(crate) fn ask_every_subscriber() {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&SECOND);
}
