use std::sync::Arc;

use super::{InvalidStore, MemoryStore, SessionStore};

/// Opens the store at `address`. Does not connect yet.
///
/// | scheme | store | feature |
/// |---|---|---|
/// | `memory`, alone or as `memory://` | [`MemoryStore`] with its default limits | |
/// | `redis`, `redis+sentinel`, `redis+cluster`, and each with `rediss` | `RedisStore` | `redis` |
/// | `mysql`, `mysqls` | `MysqlStore` | `mysql` |
/// | `memcached` | `MemcachedStore` | `memcached` |
///
/// The `builder` of each store documents the rest of its addresses.
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
/// [`InvalidStore`] if the address is invalid, or names a store whose feature is off.
pub fn open(address: &str) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    let address_lower = address.to_ascii_lowercase();
    if matches!(&*address_lower, "memory" | "memory://") {
        return Ok(Arc::new(MemoryStore::new()));
    }
    let scheme = address_lower.split_once("://").map_or("", |(scheme, _)| scheme);
    match scheme.split('+').next() {
        #[cfg(feature = "redis")]
        Some("redis" | "rediss") => Ok(Arc::new(super::RedisStore::builder(address)?.build()?)),
        #[cfg(not(feature = "redis"))]
        Some("redis" | "rediss") => Err(InvalidStore::Feature("redis")),
        #[cfg(feature = "mysql")]
        Some("mysql" | "mysqls") => Ok(Arc::new(super::MysqlStore::builder(address)?.build()?)),
        #[cfg(not(feature = "mysql"))]
        Some("mysql" | "mysqls") => Err(InvalidStore::Feature("mysql")),
        #[cfg(feature = "memcached")]
        Some("memcached") => Ok(Arc::new(super::MemcachedStore::builder(address)?.build()?)),
        #[cfg(not(feature = "memcached"))]
        Some("memcached") => Err(InvalidStore::Feature("memcached")),
        _ => Err(InvalidStore::Scheme("memory, redis, rediss, mysql, mysqls or memcached")),
    }
}
