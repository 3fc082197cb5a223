//! An Apache Kylin node that runs in process.
//!
//! A real node needs Hadoop, a metastore and minutes to start, and cannot be told to fail in the middle of an answer.
//! This one behaves on the paths that a front end meets: login and session cookies, queries, builds, metadata, health,
//! with the status codes, bodies and oddities of both generations of Kylin (see [`KylinVersion`](crate::kylin::KylinVersion)). What it computes is not
//! SQL: the answer to a query names the node that gave it, which is what a test of balancing wants to know.
//!
//! - [`KylinNode`] is the node: a [`Backend`](crate::Backend) in process, or behind a socket with [`KylinNode::serve`].
//! - [`Metastore`] makes several nodes one cluster and records every build.
//! - [`Faults`] are the knobs: hang, reset in the middle, gateway errors, job mode, and what else can go wrong.
//! - [`Stats`] and [`KylinNode::wait_until`] let a test see what happened, and wait for it without sleeping.
//!
//! Inside the text of a query, `sleep_ms(250)` makes it run that long, `repeat_bytes(1048576)` puts that many bytes into
//! the answer (`repeat_bytes_chunked` without a `Content-Length`), and the words `SYNTAX ERROR` make it fail.
//!
//! What is not Kylin's is under `/demo/`, for tests of the transport; it needs no login:
//!
//! | request | answer |
//! |---|---|
//! | `GET /demo/bytes?n=2147483648` | that many bytes, see [`demo_bytes_at`]; `&chunked` leaves the length out |
//! | `POST /demo/digest` | count and CRC-32 of the body: `{"bytes":3,"crc32":"352441c2"}` |
//! | `POST /demo/echo` | the body, while it still comes |
//! | `POST /demo/early` | 413 at once, the body unread |
//! | any `/demo/head` | method, target and headers as the node saw them |

mod api;
mod data;
mod exchange;
mod faults;
mod serve;
mod settings;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

pub use self::data::metastore::{Job, Metastore, Project};
pub use self::data::stats::{Stats, StillWaiting};
pub use self::faults::{Fault, Faults, Reach};
pub use self::serve::Served;
pub use self::settings::Mode;
pub use self::stream::demo_bytes_at;

use self::api::admin::Overrides;
use self::data::running::Running;
use self::data::sessions::Sessions;
use self::data::stats::Counts;
use self::settings::Settings;

/// A Kylin node. Clones are handles to the same node.
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
/// let answer = node.send(request).await.unwrap();
/// assert!(answer.headers().contains_key("set-cookie"));
/// let body = answer.into_body().collect().await.unwrap().to_bytes();
/// assert!(String::from_utf8_lossy(&body).contains(r#""results":[["q1","select 1"]]"#));
/// assert_eq!(node.stats().queries, 1);
/// # });
/// ```
#[derive(Clone)]
pub struct KylinNode {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    settings: RwLock<Arc<Settings>>,
    sessions: Sessions,
    running: Arc<Running>,
    counts: Arc<Counts>,
    faults: Faults,
    overrides: Overrides,
}

impl KylinNode {
    /// A node of Kylin 2.x-4.x in mode *all* with a metastore of its own, that behaves well.
    pub fn new(name: impl Into<String>) -> Self {
        let settings = Settings::default();
        let running = Arc::<Running>::default();
        settings.metastore.join(&running);
        KylinNode {
            inner: Arc::new(Inner {
                name: name.into(),
                settings: RwLock::new(Arc::new(settings)),
                sessions: Sessions::default(),
                running,
                counts: Arc::new(Counts::new()),
                faults: Faults::default(),
                overrides: Overrides::default(),
            }),
        }
    }

    /// The name, which stands in the first cell of every query's result.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What is to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// The counters at this moment.
    pub fn stats(&self) -> Stats {
        self.inner.counts.snapshot()
    }

    /// Waits until the counters pass `test`.
    ///
    /// # Errors
    /// [`StillWaiting`] after 30 s in vain.
    pub async fn wait_until(&self, test: impl FnMut(&Stats) -> bool) -> Result<Stats, StillWaiting> {
        self.inner.counts.wait_until(test).await
    }

    /// How many requests with this `x-request-id` reached the node. The last 100,000 different ids are remembered.
    pub fn seen(&self, id: &str) -> u64 {
        self.inner.counts.times_seen(id)
    }

    /// How often this very SQL text was executed here.
    pub fn executed(&self, sql: &str) -> u64 {
        self.inner.counts.times_ran(sql)
    }

    /// How many sessions the node knows.
    pub fn sessions(&self) -> usize {
        self.session_table(&self.settings()).count()
    }

    /// Ends every session of the node, as a restart does; sessions shared in the metastore stay.
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
