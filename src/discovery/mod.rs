//! Sources of cluster membership.
//!
//! A [`Discovery`] yields the nodes of a cluster, and [`watch`] applies them to a
//! [`Cluster`](crate::Cluster). A source that fails, or that lists no node, never empties the
//! cluster. The last known endpoints stay, the task logs a warning, and [`DiscoveryHandle::status`]
//! reports the failure. A listed node may be dead, because Kylin's own registrations outlive a node
//! by up to two minutes. The health of its endpoint shows that.
//!
//! | source | nodes come from | feature |
//! |---|---|---|
//! | [`StaticList`] | a fixed list | |
//! | [`FileList`] | a text file, which is read again when it changes | |
//! | [`KylinFile`] | Kylin's own `kylin.properties` | |
//! | [`KylinServers`] | the list that Kylin nodes keep of each other | |
//! | `Dns` | A and AAAA, or SRV records | `dns` |
//! | `ZooKeeper` | the registrations of Kylin nodes | `zookeeper` |
//!
//! ```
//! use kylin_lb::discovery::{self, DiscoveredNode, StaticList};
//! # use kylin_lb::{Backend, Body, Cluster, Endpoint, SendError};
//! # struct Node;
//! # impl Backend for Node {
//! #     async fn send(&self, _: http::Request<Body>) -> Result<http::Response<Body>, SendError> {
//! #         Ok(http::Response::default())
//! #     }
//! # }
//! # fn connect_to(_address: &str) -> Node { Node }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder().build()?;
//! let (one, two) = (DiscoveredNode::new("10.0.0.1:7070")?, DiscoveredNode::new("10.0.0.2:7070")?);
//! let source = StaticList::new([one, two.with_weight(2_u32.try_into()?)]);
//! // Over the network: `discovery::watch(&cluster, source, DiscoveredNode::http)`.
//! let handle = discovery::watch(&cluster, source, |node| node.endpoint(connect_to(node.address())));
//!
//! handle.wait_until(|status| status.endpoints == 2).await;
//! assert_eq!(cluster.status().endpoints[1].weight, 2);
//! # Ok(())
//! # }
//! ```

mod backoff;
#[cfg(feature = "dns")]
mod dns;
mod file;
mod kylin_file;
mod kylin_servers;
mod membership;
mod node;
mod static_list;
mod status;
mod watch;
mod watched_files;

/// Parses `data` as each kind of list and registration.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    zookeeper::fuzz(data);
    if let Ok(text) = std::str::from_utf8(data) {
        file::fuzz(text);
        let _ = DiscoveredNode::new(text);
    }
}
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

use std::future::Future;
use std::time::Duration;

pub use backoff::Backoff;
#[cfg(feature = "dns")]
pub use dns::{Dns, InvalidDns};
pub use file::{FileList, InvalidLine};
pub use kylin_file::{InvalidKylinConfig, KylinConfig, KylinFile};
pub use kylin_servers::KylinServers;
pub use node::{DiscoveredNode, InvalidNode};
pub use static_list::StaticList;
pub use status::{DiscoveryStatus, SourceState};
pub use watch::{DiscoveryHandle, watch, watch_with};
#[cfg(feature = "zookeeper")]
#[doc(inline)]
pub use zookeeper::ZooKeeper;

use crate::body::BoxError;

/// Lists the nodes of a cluster, and their changes.
///
/// ```
/// use kylin_lb::discovery::{DiscoveredNode, Discovery, DiscoveryError};
/// use std::time::Duration;
///
/// /// Reads the addresses of the nodes from an environment variable, once a minute.
/// struct FromEnv {
///     first: bool,
/// }
///
/// impl Discovery for FromEnv {
///     async fn next(&mut self) -> Result<Vec<DiscoveredNode>, DiscoveryError> {
///         if !std::mem::take(&mut self.first) {
///             tokio::time::sleep(Duration::from_secs(60)).await;
///         }
///         let addresses = std::env::var("KYLIN_NODES").map_err(|error| DiscoveryError::Unavailable {
///             location: "KYLIN_NODES".into(),
///             source: error.into(),
///         })?;
///         let nodes = addresses.split(',').map(DiscoveredNode::new).collect::<Result<_, _>>();
///         nodes.map_err(|error| DiscoveryError::Invalid { location: "KYLIN_NODES".into(), source: error.into() })
///     }
/// }
/// ```
///
/// # What the caller guarantees
/// The caller makes one call of [`next`](Self::next) at a time. After each further error in a row,
/// it waits longer before the next call (see [`Backoff`]). It treats a panic as an error.
///
/// # What an implementation guarantees
/// - The first call yields as soon as the membership is known. Each later call yields when the
///   source has an update, even if the nodes are unchanged.
/// - If the future is dropped, the next call yields the update that it would have yielded.
/// - After an error, a later call connects again.
/// - Errors contain no credentials.
pub trait Discovery: Send + 'static {
    /// Waits for the next complete membership.
    ///
    /// The order of the nodes is the order of the endpoints in the cluster. Hash policies depend on
    /// it, so a source must yield the same order to every front end.
    ///
    /// # Errors
    /// [`DiscoveryError`] if the source cannot currently list its nodes.
    fn next(&mut self) -> impl Future<Output = Result<Vec<DiscoveredNode>, DiscoveryError>> + Send;
}

/// The error of a source that cannot list its nodes. It contains no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The source cannot be reached, or does not respond.
    #[error("{location} is unavailable")]
    Unavailable {
        /// The file, node, DNS name or ZooKeeper path that cannot be reached.
        location: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The source did not respond in time.
    #[error("{0} did not respond in time")]
    Timeout(String),
    /// The source denies access: wrong credentials or a missing permission.
    #[error("{location} denies access")]
    Denied {
        /// The resource that denied access.
        location: String,
        /// The cause.
        #[source]
        source: BoxError,
    },
    /// The source responded with invalid data.
    #[error("{location} is invalid")]
    Invalid {
        /// The place of the invalid data.
        location: String,
        /// The fault in the data.
        #[source]
        source: BoxError,
    },
    /// The source panicked, which is a bug in it.
    #[error("the source panicked")]
    Panicked,
}

/// The minimum interval at which a source may be polled.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
