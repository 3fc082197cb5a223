//! Reads directives into a typed model.

mod access;
mod address;
mod balancer;
mod catalogue;
mod headers;
mod member;
mod pass;
mod reader;
mod remarks;
mod rewrite;
mod section;
mod server;

pub use self::access::Access;
pub use self::address::Listen;
pub use self::balancer::{Balancer, Method, Sticky};
pub use self::catalogue::is_known;
pub use self::headers::{Scope, names_client};
pub use self::member::Member;
pub use self::pass::{From, Pass, Paths, Target, is_path, reversed, sent_path};
pub use self::reader::Reader;
pub use self::remarks::Remarks;
pub use self::rewrite::{Asked, Rewritten};
pub use self::section::{Matcher, Section, Settings};
pub use self::server::Server;
