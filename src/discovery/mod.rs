//! Where the nodes of a cluster come from.
//!
//! A [`Discovery`] is a stream of memberships; [`watch`] applies it to a [`Cluster`](crate::Cluster). Whatever happens to a
//! source, the cluster goes on with the last nodes it knew: a source that fails, or that names no node at all, empties no cluster.
//! That the list may be old is said in a warning and in [`DiscoveryHandle::status`]; that a listed node may be dead is found by the
//! health of its endpoint, as always (Kylin's own registrations outlive a node by up to two minutes).
//!
//! | source | feature |
//! |---|---|
//! | [`Static`]: a fixed list | |
//! | [`FileList`]: a list in a file, read again when it changes | |
//! | `KylinFile`: Kylin's own `kylin.properties` | `kylin` |
//! | `KylinServers`: what the nodes themselves know of each other | `kylin` |
//! | `Dns`: A and AAAA, or SRV records | `dns` |
//! | `ZooKeeper`: what Kylin nodes register | `zookeeper` |
//!
//! ```
//! use kylin_lb::discovery::{self, DiscoveredNode, Static};
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
//! let source = Static::new([DiscoveredNode::new("10.0.0.1:7070")?, DiscoveredNode::new("10.0.0.2:7070")?.with_weight(2_u32.try_into()?)]);
//! // Over the network: `discovery::watch(&cluster, source, DiscoveredNode::http)`.
//! let follow = discovery::watch(&cluster, source, |found| found.endpoint(connect_to(found.address())));
//!
//! follow.wait_until(|status| status.endpoints == 2).await;
//! assert_eq!(cluster.status().endpoints[1].weight, 2);
//! # Ok(())
//! # }
//! ```

mod backoff;
#[cfg(feature = "dns")]
mod dns;
mod file;
mod fixed;
mod guard;
mod kylin_file;
mod kylin_servers;
mod node;
mod status;
mod watch;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

use std::future::Future;

pub use backoff::Backoff;
#[cfg(feature = "dns")]
pub use dns::{Dns, InvalidDns};
pub use file::{FileList, InvalidLine};
pub use fixed::Static;
pub use kylin_file::{InvalidSite, KylinFile, KylinSite};
pub use kylin_servers::KylinServers;
pub use node::{DiscoveredNode, InvalidNode};
pub use status::{DiscoveryStatus, SourceState};
#[cfg(feature = "zookeeper")]
#[doc(inline)]
pub use zookeeper::ZooKeeper;

pub use watch::{DiscoveryHandle, watch, watch_with};

use crate::body::BoxError;

/// A source of membership.
///
/// What an implementer may rely on: calls follow one another; after an error the next call comes later each time
/// ([`Backoff`]); a call that panics counts as an error. What is asked of an implementer: the first call yields as soon as the
/// membership is known, each later one when there is news, be it the same nodes again; a future that is dropped loses nothing;
/// after an error, a later call finds a new connection by itself; errors hold no credentials.
pub trait Discovery: Send + 'static {
    /// Waits for the next membership, whole, in the order in which endpoints are to stand in the cluster (hash policies depend
    /// on it, so two front ends must see the same order).
    ///
    /// # Errors
    /// [`DiscoveryError`] when the source cannot tell at present.
    fn next(&mut self) -> impl Future<Output = Result<Vec<DiscoveredNode>, DiscoveryError>> + Send;
}

/// Why a source cannot tell the membership. Holds no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The source cannot be reached, or does not answer.
    #[error("{place} is unavailable")]
    Unavailable {
        /// What cannot be reached.
        place: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The source did not answer in time.
    #[error("{0} did not answer in time")]
    Timeout(String),
    /// The source refuses: wrong credentials, no permission.
    #[error("{place} refuses")]
    Refused {
        /// Who, or what at the source.
        place: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// What the source says makes no sense.
    #[error("{place} makes no sense")]
    Invalid {
        /// Where it stands.
        place: String,
        /// What is wrong there.
        #[source]
        source: BoxError,
    },
    /// The source panicked, which is a fault in it.
    #[error("the source panicked")]
    Panicked,
}

/// An error and all its sources, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // Errors that show their source themselves would say it twice.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}
