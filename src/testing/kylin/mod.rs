//! An Apache Kylin node that runs in process.
//!
//! A real node needs Hadoop, a metastore and minutes to start, and cannot fail on demand in the
//! middle of a response. This one implements the paths that a front end uses: login and session
//! cookies, queries, builds, metadata and health. It has the status codes, bodies and oddities of
//! Kylin 2.4 to 5.0 (see [`Dialect`]). It runs no SQL: the result of a query names the node that
//! ran it, which a test of balancing needs to know.
//!
//! - [`KylinNode`] is the node: a [`Backend`](crate::Backend) in process, or a server behind a
//!   socket with [`KylinNode::serve`].
//! - [`Metastore`] makes several nodes one cluster, and records every build.
//! - [`Faults`] makes the node fail: hang, reset in the middle, gateway errors and more.
//! - [`Stats`] counts events, and [`KylinNode::wait_until`] waits for them without sleeping.
//!
//! Markers in the text of a query control its behaviour:
//!
//! - `sleep_ms(250)` makes it run that long;
//! - `repeat_bytes(1048576)` puts that many bytes into the response (`repeat_bytes_chunked` without
//!   a `Content-Length`);
//! - the words `SYNTAX ERROR` make it fail.
//!
//! Paths below `/demo/` are not Kylin's. They are for tests of the transport and need no login:
//!
//! | request | response |
//! |---|---|
//! | `GET /demo/bytes?n=2147483648` | that many bytes of [`demo_bytes_at`]; `&chunked` omits the length |
//! | `POST /demo/digest` | count and CRC-32 of the body: `{"bytes":3,"crc32":"352441c2"}` |
//! | `POST /demo/echo` | the body, as it arrives |
//! | `POST /demo/early` | 413 before the body is read |
//! | any `/demo/head` | method, target and headers as the node received them |

mod api;
mod data;
mod dialect;
mod exchange;
mod faults;
mod serve;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

pub use self::data::metastore::{Job, Metastore, Project};
pub use self::data::mode::Mode;
pub use self::data::stats::{Stats, WaitTimeout};
pub use self::dialect::{Dialect, UnknownDialect};
pub use self::faults::{Fault, FaultScope, Faults};
pub use self::serve::Served;
pub use self::stream::demo_bytes_at;

use self::data::running::Running;
use self::data::sessions::Sessions;
use self::data::stats::Counts;
use self::settings::Settings;

/// A Kylin node. Clones refer to the same node.
///
/// ```
/// use http::Request;
/// use http_body_util::BodyExt;
/// use kylin_lb::testing::kylin::{KylinNode, Metastore};
/// use kylin_lb::{Backend, Body};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let metastore = Metastore::new();
/// let node = KylinNode::new("q1").metastore(&metastore);
/// let request = Request::post("/kylin/api/query")
///     .header("authorization", "Basic QURNSU46S1lMSU4=") // ADMIN:KYLIN
///     .body(Body::from(r#"{"sql":"select 1","project":"learn_kylin"}"#))
///     .unwrap();
/// let response = node.send(request).await.unwrap();
/// assert!(response.headers().contains_key("set-cookie"));
/// let body = response.into_body().collect().await.unwrap().to_bytes();
/// assert!(String::from_utf8_lossy(&body).contains(r#""results":[["q1","select 1"]]"#));
/// assert_eq!(node.stats().queries, 1);
/// # });
/// ```
#[derive(Clone)]
pub struct KylinNode {
    inner: Arc<NodeData>,
}

#[derive(Default)]
struct NodeData {
    name: String,
    settings: RwLock<Arc<Settings>>,
    sessions: Sessions,
    running: Running,
    counts: Arc<Counts>,
    faults: Faults,
    /// Properties that were changed with `PUT /admin/config`. They change on this node only, which
    /// is how clusters drift apart.
    overrides: Mutex<BTreeMap<String, String>>,
}

impl KylinNode {
    /// Returns a node of Kylin 3.1 in mode *all*, with its own metastore and without faults.
    pub fn new(name: impl Into<String>) -> Self {
        let node = KylinNode { inner: Arc::new(NodeData { name: name.into(), ..NodeData::default() }) };
        node.cluster().join(&node.inner);
        node
    }

    /// Returns the name, which is in the first cell of every query's result.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Returns the faults of the node.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// Returns the current counters.
    pub fn stats(&self) -> Stats {
        self.inner.counts.snapshot()
    }

    /// Waits until `test` returns true for the counters.
    ///
    /// # Errors
    /// [`WaitTimeout`] after 30 s.
    pub async fn wait_until(&self, test: impl FnMut(&Stats) -> bool) -> Result<Stats, WaitTimeout> {
        self.inner.counts.wait_until(test).await
    }

    /// Returns how many requests with this `x-request-id` reached the node. The node remembers the
    /// last 100,000 different ids.
    pub fn seen(&self, id: &str) -> u64 {
        self.inner.counts.times_seen(id)
    }

    /// Returns how often this SQL text was executed on this node.
    pub fn executed(&self, sql: &str) -> u64 {
        self.inner.counts.times_ran(sql)
    }

    /// Returns the number of sessions that the node knows.
    pub fn sessions(&self) -> usize {
        self.session_table(&self.settings()).count()
    }

    /// Ends every session of the node, like a restart. Sessions that are shared in the metastore
    /// stay.
    pub fn forget_sessions(&self) {
        self.inner.sessions.forget();
    }
}

impl fmt::Debug for KylinNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KylinNode")
            .field("name", &self.inner.name)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
