//! An nginx configuration, read.
//!
//! Clusters of Kylin nodes stand behind nginx today, and their manual says how; so the same file must work here. Text
//! becomes a typed model ([`Config`]), and the model a front end ([`Site`]): clusters for its upstreams, proxies for its
//! locations.
//!
//! The rule for directives: what is modelled does what nginx does, what cannot matter here is listed as such by
//! [`Config::report`], and everything else is an error. Nothing that would change behaviour is passed over in silence.
//!
//! # What differs from nginx, on purpose
//!
//! - `Host` is the client's where no `proxy_set_header Host` says otherwise; nginx sends the upstream's name, which Kylin
//!   would then put into its redirects and error messages.
//! - Connections to nodes are HTTP/1.1 and kept, up to 64 per core and for 15 s, where no `keepalive` says otherwise.
//! - `keepalive N` keeps N idle connections for each server of the upstream and core; nginx N for the upstream and worker.
//! - Waits for a node are this crate's where the file does not set them ([`Timeouts`](crate::backend::http1::Timeouts)):
//!   nginx's 60 s would cut queries that Kylin lets run for 300 s.
//! - `X-Forwarded-For`, `-Proto` and `-Host` tell the node of the client where no `proxy_set_header` does.
//! - `max_conns` and `least_conn` count over all threads. nginx counts per worker without a `zone`.
//! - One `backlog`, one `large_client_header_buffers` and one set of client timeouts hold for all addresses: of those that
//!   the default servers of the addresses have, the most generous.
//! - When no server can serve the answer is 503, not 502, and like all of the front end's errors it has Kylin's form.
//! - `Server` and `Date` of a node's answer are dropped as in nginx, but no `Server: nginx` takes their place.
//! - Redirects that the front end makes itself have a relative `Location`, and the type of a `return`ed text is
//!   `default_type` whatever the path ends in.
//! - `sticky cookie` sets a [signed cookie](crate::session::StickyCookie) that tells nobody where a node is, with `Path=/` unless
//!   `path=` says otherwise, and only when the client's is missing, old or names another server; nginx sets the MD5 of an address,
//!   or `route=`, with every answer. It is signed with a secret that no file should hold: see [`SiteBuilder::secret`].
//! - `sticky learn` binds a session to the server that sets its cookie; with a cookie that nobody knows, to the server that accepts
//!   it as a login. It reads `;jsessionid=` in paths too, and forgets a session that its server ends. `zone=` is the size of the
//!   memory, `sync` a store that the host gives: see [`SiteBuilder::sessions`].
//! - `sticky route` compares the first of its variables that has a value, as nginx does, but a server without `route=` has no name
//!   of its own.
//! - `slow_start` begins with a tenth of the weight. A `map` takes no `hostnames`, and its named groups are variables in their own
//!   result only.
//! - One limit covers slow request heads and idle client connections: the longer of `client_header_timeout` and
//!   `keepalive_timeout`.

mod address;
mod config;
mod directives;
mod error;
mod include;
mod level;
mod lexer;
mod listen;
mod location;
mod next_upstream;
mod parser;
mod pass;
mod pattern;
mod reader;
mod real_ip;
mod redirect;
mod reply;
mod report;
mod server;
mod server_name;
mod settings;
mod site;
mod source;
mod sticky;
mod suggest;
mod upstream;
mod uri;
mod values;
mod variables;

pub use config::Config;
pub use error::{ConfigError, ErrorKind};
pub use reader::Notice;
pub use report::Report;
pub use site::{Site, SiteBuilder, SiteError, SiteListener};

#[cfg(test)]
mod tests;
