//! The parts that the stores on servers share. This module knows no protocol.

mod backoff;
mod codec;
mod failure;
#[cfg(any(feature = "mysql", feature = "memcached"))]
mod pool;
#[cfg(any(feature = "redis", feature = "mysql"))]
mod tls;
mod url;

#[cfg(feature = "redis")]
pub(super) use backoff::ReconnectBackoff;
#[cfg(feature = "memcached")]
pub(super) use codec::encode_value;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(super) use codec::{MAX_VALUE_LEN, decode_value};
pub(super) use codec::{encode_record, new_version};
pub(super) use failure::Failure;
pub(crate) use failure::is_of_connecting;
#[cfg(any(feature = "mysql", feature = "memcached"))]
pub(super) use pool::{Connect, Pool, RequestError};
#[cfg(any(feature = "redis", feature = "mysql"))]
pub(super) use tls::Tls;
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(super) use url::DEFAULT_PREFIX;
#[cfg(any(feature = "redis", feature = "mysql"))]
pub(super) use url::hosts;
pub(super) use url::{Login, Server, StoreUrl, wrong};
