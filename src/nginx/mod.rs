//! An nginx configuration, read.
//!
//! Clusters of Kylin nodes stand behind nginx today, and their manual says how; so the same file must work here. This
//! room turns text into a typed model ([`Config`]) and answers the questions that nginx answers for each request: which
//! server ([`Listener::server_for`]), which location ([`Server::locate`]), which client ([`RealIp::client`]), which URI
//! ([`ProxyPass::upstream_uri`]), what a variable is ([`Template`]). It opens no connection and starts nothing.
//!
//! The rule for directives: what is modelled does what nginx does, what cannot matter here is listed as such by
//! [`Config::report`], and everything else is an error. Nothing that would change behaviour is passed over in silence.

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
mod real_ip;
mod redirect;
mod reply;
mod report;
mod server;
mod server_name;
mod settings;
mod source;
mod suggest;
mod upstream;
mod uri;
mod values;
mod variables;

pub use address::Address;
pub use config::{Config, Listener, Notice};
pub use error::{ConfigError, ErrorKind};
pub use listen::{Listen, ListenAddress};
pub use location::{Action, Found, Location, Locations, Matcher, PathPattern};
pub use next_upstream::NextUpstream;
pub use pass::{PassUri, ProxyPass};
pub use real_ip::{RealIp, Trusted};
pub use redirect::{Redirect, RedirectRule};
pub use reply::Reply;
pub use report::Report;
pub use server::Server;
pub use server_name::{ServerName, ServerPattern};
pub use settings::{AddHeader, SetHeader, Settings};
pub use upstream::{Method, Upstream, UpstreamServer};
pub use uri::{InvalidPath, escape, normalise};
pub use variables::{Captures, Scope, Template, Unsendable};

#[cfg(test)]
mod tests;
