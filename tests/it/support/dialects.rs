//! Tests that run in each dialect of Kylin.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use kylin_lb::kylin::KylinVersion;
use kylin_lb::testing::kylin::Dialect;

/// Defines the test of an `async fn NAME(dialect: Dialect)`. It runs at the same time in each
/// dialect, in each dialect of a generation (`V4` or `V5`), or in each dialect for which a function
/// returns true.
macro_rules! in_each_dialect {
    ($name:ident) => {
        in_each_dialect!($name, |_| true);
    };
    ($name:ident, V4) => {
        in_each_dialect!($name, |dialect| !crate::support::dialects::is_v5(dialect));
    };
    ($name:ident, V5) => {
        in_each_dialect!($name, crate::support::dialects::is_v5);
    };
    ($name:ident, $is_tested:expr) => {
        mod $name {
            #[tokio::test]
            async fn in_each_dialect() {
                crate::support::dialects::each($is_tested, super::$name).await;
            }
        }
    };
}

pub(crate) use in_each_dialect;

/// Runs `test` in each dialect for which `is_tested` returns true.
pub(crate) async fn each<F: Future<Output = ()>>(is_tested: fn(Dialect) -> bool, test: impl Fn(Dialect) -> F) {
    let dialects = Dialect::ALL.into_iter().filter(|dialect| is_tested(*dialect));
    let mut running: Vec<(Dialect, Pin<Box<F>>)> = dialects.map(|dialect| (dialect, Box::pin(test(dialect)))).collect();
    poll_fn(|context| {
        running.retain_mut(|(dialect, test)| {
            let _named = NamedInPanic(*dialect);
            test.as_mut().poll(context).is_pending()
        });
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Names the dialect of a test that fails.
struct NamedInPanic(Dialect);

impl Drop for NamedInPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test failed in the dialect {:?}", self.0);
        }
    }
}

/// Returns whether the dialect is one of Kylin 5.
pub(crate) fn is_v5(dialect: Dialect) -> bool {
    dialect.generation() == KylinVersion::V5
}
