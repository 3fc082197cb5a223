use std::sync::Arc;

use super::{InvalidStore, MemoryStore, SessionStore};

/// The store at an address, whatever kind it is. Nothing is connected yet.
///
/// | scheme | store | feature |
/// |---|---|---|
/// | `memory`, alone or as `memory://` | [`MemoryStore`] with its default bounds | |
/// | `redis`, `redis+sentinel`, `redis+cluster`, and each with `rediss` | `RedisStore` | `redis` |
/// | `mysql`, `mysqls` | `MysqlStore` | `mysql` |
/// | `memcached` | `MemcachedStore` | `memcached` |
///
/// What else an address says is told by each store's `builder`.
///
/// ```
/// let error = kylin_lb::session::open("gopher://:s3cret@example").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "unknown scheme of a session store: expected memory, redis, rediss, mysql, mysqls or memcached"
/// );
/// ```
///
/// # Errors
/// [`InvalidStore`] when the address is wrong, or names a store that this build does not hold.
pub fn open(address: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    let scheme = address.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    if address.trim_end_matches("://").eq_ignore_ascii_case("memory") {
        return Ok(Arc::new(MemoryStore::new()));
    }
    match scheme.split('+').next() {
        Some("redis" | "rediss") => redis(address),
        Some("mysql" | "mysqls") => mysql(address),
        Some("memcached") => memcached(address),
        _ => Err(InvalidStore::Scheme("memory, redis, rediss, mysql, mysqls or memcached")),
    }
}

#[cfg(feature = "redis")]
fn redis(address: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Ok(Arc::new(super::RedisStore::builder(address)?.build()?))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Err(InvalidStore::Feature("redis"))
}

#[cfg(feature = "mysql")]
fn mysql(address: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Ok(Arc::new(super::MysqlStore::builder(address)?.build()?))
}

#[cfg(not(feature = "mysql"))]
fn mysql(_: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Err(InvalidStore::Feature("mysql"))
}

#[cfg(feature = "memcached")]
fn memcached(address: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Ok(Arc::new(super::MemcachedStore::builder(address)?.build()?))
}

#[cfg(not(feature = "memcached"))]
fn memcached(_: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    Err(InvalidStore::Feature("memcached"))
}
