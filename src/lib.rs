//! Embeddable load balancing for clusters of Apache Kylin and Kyligence (KAP) nodes.
//!
//! A host application builds a [`Cluster`] of [`Endpoint`]s under a [policy](balance), puts a [`Proxy`] in front of it, and
//! calls [`Proxy::forward`] from its HTTP server. Four traits are open: a [`Backend`] sends a request to a node, a
//! [`Balancer`](balance::Balancer) picks the node, a [`SessionStore`](session::SessionStore) remembers who is logged in where, and
//! a [`Discovery`](discovery::Discovery) says which nodes there are; with feature `server` a `Handler` answers a request.
//!
//! ```
//! use http::{Request, Response};
//! use kylin_lb::balance::LeastConn;
//! use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};
//!
//! /// A node that answers in process; `Endpoint::http("q1", "10.0.0.1:7070")` is one over the network.
//! struct Node(&'static str);
//!
//! impl Backend for Node {
//!     async fn send(&self, _request: Request<Body>) -> Result<Response<Body>, SendError> {
//!         Ok(Response::new(Body::from(self.0)))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder()
//!     .endpoint(Endpoint::new("q1", Node("one"))?)
//!     .endpoint(Endpoint::new("q2", Node("two"))?)
//!     .balancer(LeastConn::new())
//!     .build()?;
//! let proxy = Proxy::builder(cluster).build()?;
//!
//! let request = Request::get("/kylin/api/projects").header("host", "kylin.example").body(Body::empty())?;
//! let client: std::net::SocketAddr = "192.0.2.7:51000".parse()?;
//! let answer = proxy.forward(client, request).await;
//! assert_eq!(answer.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does not do
//!
//! TLS, compression, caching, static files, HTTP/2 to nodes, upgrades such as WebSocket.
//!
//! # Rooms
//!
//! | room | what is there | feature |
//! |---|---|---|
//! | [`cluster`] | endpoints behind a policy, membership, status | |
//! | [`endpoint`] | an endpoint's identity and settings, the lease of a request in flight | |
//! | [`balance`] | the policies and the trait for one's own | |
//! | [`health`] | probes, ejections, slow start: is an endpoint fit to serve? | |
//! | [`proxy`] | a request in, an answer out: headers, retries, errors | |
//! | [`backend`] | the trait that sends, and HTTP/1.1 | `client` for the latter |
//! | [`body`] | the one body type | |
//! | [`clock`] | where time comes from | |
//! | [`discovery`] | where the nodes of a cluster come from: a list, a file, DNS, ZooKeeper | `dns`, `zookeeper` for these |
//! | [`session`] | shared memory of who is logged in where | |
//! | `kylin` | what is known of Kylin: requests, answers, SQL, its files | `kylin` |
//! | `server` | an HTTP server for hosts without one | `server` |
//! | `nginx` | an nginx configuration, read and served | `nginx` |
//! | `testing` | a Kylin node in process, scripted backends | `test-util` |

pub mod backend;
mod background;
pub mod balance;
mod basic_auth;
pub mod body;
pub mod clock;
pub mod cluster;
mod cookie;
pub mod discovery;
mod drop_guard;
pub mod endpoint;
mod hash;
pub mod health;
#[cfg(any(feature = "client", feature = "server"))]
mod http1;
pub mod kylin;
mod maybe_ready;
#[cfg(feature = "nginx")]
pub mod nginx;
pub mod probe;
pub mod proxy;
mod request;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
mod shard;
#[cfg(feature = "test-util")]
pub mod testing;
mod view;

#[doc(inline)]
pub use backend::{Backend, HttpBackend, SendError};
#[doc(inline)]
pub use body::Body;
#[doc(inline)]
pub use cluster::Cluster;
#[doc(inline)]
pub use endpoint::{Endpoint, EndpointId, Lease, Outcome};
#[doc(inline)]
pub use proxy::Proxy;
pub use request::{ClientAddr, QueryKeys, RequestView};

#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
struct Readme;
