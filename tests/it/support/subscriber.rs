//! Subscribers of `tracing` for one thread or one future.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Level, Subscriber};

/// The log of a subscriber.
#[derive(Clone, Default)]
pub(crate) struct CapturedLog(Arc<Mutex<Vec<u8>>>);

impl CapturedLog {
    /// Returns a subscriber that writes to this log.
    pub(crate) fn subscriber(&self, level: Level) -> impl Subscriber + Send + Sync {
        ask_every_subscriber();
        let writer = self.clone();
        let builder = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        builder.with_writer(move || writer.clone()).finish()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for CapturedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes every subscriber of this process decide on each callsite.
///
/// While there is only one subscriber, `tracing` asks the default of the thread that reaches a
/// callsite first. That may be the thread of another test, which has none, and then the callsite
/// stays off for all. So a test calls this before it makes a subscriber.
pub(crate) fn ask_every_subscriber() {
    static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&SECOND);
}
