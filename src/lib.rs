//! Embeddable load balancing for clusters of Apache Kylin and Kyligence (KAP) nodes.
//!
//! An application builds a [`Cluster`] of [`Endpoint`]s with a [policy](balance), builds a
//! [`Proxy`] for it, and calls [`Proxy::forward`] from its HTTP server. The proxy knows Kylin: it
//! keeps logins, retries a request where that is safe, and classifies responses. [`Proxy::plain`]
//! builds a proxy for any other HTTP service.
//!
//! A *node* is a Kylin server, an *endpoint* is its entry in a cluster, and a *front end* is a
//! process that embeds this crate. The guide [`docs::architecture`] describes the steps of a
//! request.
//!
//! An application can implement these traits:
//!
//! - a [`Backend`] sends a request to a node;
//! - a [`Balancer`](balance::Balancer) picks an endpoint;
//! - a [`SessionStore`](session::SessionStore) stores the sessions that front ends share;
//! - a [`Discovery`](discovery::Discovery) lists the nodes;
//! - an [`Observer`](observe::Observer) receives events;
//! - a [`HashKey`](balance::HashKey) computes the key of a hash policy;
//! - a [`Clock`](clock::Clock) tells the time;
//! - a [`Handler`](server::Handler) responds to the requests of the crate's own server.
//!
//! ```
//! use http::{Request, Response};
//! use kylin_lb::balance::LeastConn;
//! use kylin_lb::{Backend, Body, Cluster, Endpoint, Proxy, SendError};
//!
//! /// A node in this process; `Endpoint::http("q1", "10.0.0.1:7070")` is one over the network.
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
//! let response = proxy.forward(client, request).await;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! | module | contents | feature |
//! |---|---|---|
//! | [`docs`] | guides: choosing a policy, keeping logins, retries, health, operations | |
//! | [`admission`] | identical queries executed once, and queues of queries for endpoints with a limit | |
//! | [`proxy`] | the proxy, its retries, error responses, and the rules of Kylin | `tower` |
//! | [`cluster`] | endpoints and their policy: membership, picks, status | |
//! | [`endpoint`] | identity and settings of an endpoint, admin states, roles | |
//! | [`balance`] | the policies, and the trait for a custom one | |
//! | [`session`] | affinity of sessions, session stores | `redis`, `mysql`, `memcached`, `login-relay` |
//! | [`health`] | ejection, slow start, the health states | |
//! | [`probe`] | active checks of nodes | |
//! | [`discovery`] | sources of nodes: list, file, DNS, ZooKeeper, `kylin.properties` | `dns`, `zookeeper` |
//! | [`backend`] | the trait that sends a request to a node, HTTP/1.1, any tower service | `client`, `tower` |
//! | [`observe`] | events of requests and endpoints, for logs, metrics and traces | `metrics` |
//! | [`admin`] | a status page for operators, and actions such as drain | `admin` |
//! | [`body`] | the body type of requests and responses | |
//! | [`buffer`] | the budget of all bytes that are buffered in memory | |
//! | [`clock`] | the clock trait, and a manual clock for tests | |
//! | [`kylin`] | knowledge of Kylin: the guard for internal calls, versions, configuration files | |
//! | [`server`] | an HTTP server for applications without one | `server` |
//! | [`tls`] | TLS with clients and with nodes | `tls` |
//! | [`nginx`] | a reader of nginx configuration files | `nginx`, `htpasswd` |
//! | [`testing`] | an in-process Kylin node, scripted backends, conformance suites | `test-util` |
//!
//! # Settings
//!
//! - `None` means no limit, or turns a feature off. A number that cannot sensibly be zero is a
//!   [`NonZero`](std::num::NonZero); where a plain number may be zero, zero means none.
//! - The setter of a whole feature, such as
//!   [`ProxyBuilder::affinity`](proxy::ProxyBuilder::affinity), takes the feature itself or `None`.
//! - A setter that parses text, such as a name or an address, returns its error. A duration or a
//!   number that is out of range is an error of `build` or `start`. A type that has neither, such
//!   as [`RetryBudget`](proxy::RetryBudget), returns the error from the setter, so every value of
//!   that type is valid.
//! - No setter silently replaces one value with another. Errors carry the invalid value or the name
//!   of the setting as a field or a method, unless the value may be secret.
//!
//! # What it does not do
//!
//! The crate does not compress responses, serve static files, speak HTTP/2 to nodes, or support
//! WebSocket. The only responses that it caches are results of queries (feature `cache`).

#![cfg_attr(docsrs, feature(doc_cfg))]
// The table above links modules of every feature.
#![cfg_attr(
    not(all(feature = "admin", feature = "server", feature = "nginx", feature = "test-util", feature = "tls")),
    allow(rustdoc::broken_intra_doc_links, reason = "links to modules whose feature is off")
)]

#[cfg(not(unix))]
compile_error!("kylin-lb runs on Unix only");

#[cfg(feature = "admin")]
#[cfg_attr(docsrs, doc(cfg(feature = "admin")))]
pub mod admin;
pub mod admission;
pub mod backend;
mod background;
pub mod balance;
mod basic_auth;
pub mod body;
pub mod buffer;
mod client_key;
pub mod clock;
pub mod cluster;
mod cookie;
pub mod discovery;
#[cfg(any(doc, doctest))]
pub mod docs;
mod drop_guard;
pub mod endpoint;
mod error_chain;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod header_walk;
pub mod health;
#[cfg(any(feature = "client", feature = "server"))]
mod http1;
pub mod kylin;
mod log_limit;
mod maybe_ready;
#[cfg(feature = "nginx")]
pub mod nginx;
pub mod observe;
mod percent;
pub mod probe;
pub mod proxy;
#[cfg(feature = "server")]
mod refusals;
mod request;
#[cfg(feature = "server")]
pub mod server;
pub mod session;
mod setting;
mod shard;
mod shortage;
mod sync;
#[cfg(feature = "test-util")]
pub mod testing;
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls;
mod unwind;
mod view;

#[doc(inline)]
pub use backend::{Backend, HttpBackend, SendError};
#[doc(inline)]
pub use body::Body;
#[doc(inline)]
pub use buffer::BufferBudget;
#[doc(inline)]
pub use cluster::Cluster;
#[doc(inline)]
pub use endpoint::{Endpoint, EndpointId, Lease, Outcome};
#[doc(inline)]
pub use proxy::Proxy;
pub use request::{ClientAddr, LocalAddr, QueryKeys, RequestView};
pub use setting::InvalidSetting;

#[cfg(all(doctest, feature = "client"))]
#[doc = include_str!("../README.md")]
struct Readme;
