//! Stores of our own beside those of Tomcat's session managers, which want their Redis database for themselves: one of them empties
//! it whole.

use std::sync::Arc;

use super::{InvalidStore, SessionStore, open};
use crate::kylin::tomcat::SessionManager;

/// The store at an address, as [`open`], unless Tomcat keeps its sessions there: the same server and database, the same master of
/// the same Sentinels, or a node of the same cluster. Clearing tomcat-redis-session-manager is `FLUSHDB`
/// (RedisSessionManager.java, tag 1.2), which would take our records with it.
///
/// ```
/// use kylin_lb::kylin::tomcat::SessionManager;
/// use kylin_lb::session::open_beside;
///
/// let xml = r#"<Context><Manager className="com.radiadesign.catalina.session.RedisSessionManager" host="redis" port="6379"/></Context>"#;
/// let tomcat = SessionManager::from_context("context.xml", xml)?.expect("a manager");
/// # #[cfg(feature = "redis")]
/// assert!(open_beside("redis://redis:6379/0", &tomcat).is_err());
/// # #[cfg(feature = "redis")]
/// assert!(open_beside("redis://redis:6379/1", &tomcat).is_ok());
/// # Ok::<(), kylin_lb::kylin::tomcat::TomcatError>(())
/// ```
///
/// # Errors
/// [`InvalidStore::Tomcat`] for the place of Tomcat's sessions, and the errors of [`open`].
pub fn open_beside(address: &str, tomcat: &SessionManager) -> Result<Arc<dyn SessionStore>, InvalidStore> {
    refuse_conflict(address, tomcat)?;
    open(address)
}

#[cfg(feature = "redis")]
fn refuse_conflict(address: &str, tomcat: &SessionManager) -> Result<(), InvalidStore> {
    // Case as `open` takes it.
    let scheme = address.split("://").next().unwrap_or_default().to_ascii_lowercase();
    match scheme.split('+').next() {
        Some("redis" | "rediss") => super::RedisStore::builder(address)?.refuse_conflict(tomcat),
        _ => Ok(()),
    }
}

/// Without the feature there is no store that could be in the way.
#[cfg(not(feature = "redis"))]
fn refuse_conflict(_: &str, _: &SessionManager) -> Result<(), InvalidStore> {
    Ok(())
}

#[cfg(test)]
#[cfg(feature = "redis")]
mod tests {
    use super::*;
    use crate::kylin::properties::Properties;
    use crate::session::RedisBuilder;

    fn manager(attributes: &str) -> SessionManager {
        let class = "com.orangefunction.tomcat.redissessions.RedisSessionManager";
        let xml = format!(r#"<Context><Manager className="{class}" {attributes}/></Context>"#);
        SessionManager::from_context("context.xml", &xml).unwrap().unwrap()
    }

    fn is_refused(address: &str, tomcat: &SessionManager) -> bool {
        match open_beside(address, tomcat) {
            Ok(_) => false,
            Err(InvalidStore::Tomcat(_)) => true,
            Err(error) => panic!("{address}: {error}"),
        }
    }

    #[test]
    fn tomcats_own_database_is_refused_however_it_is_written() {
        let tomcat = manager(r#"host="Redis" port="6379" database="2""#);
        for address in ["redis://redis/2", "REDIS://u:p@REDIS:6379/2", "rediss://redis:6379/2?prefix=x"] {
            assert!(is_refused(address, &tomcat), "{address}");
        }
        for address in ["redis://redis/1", "redis://redis", "redis://redis:6380/2", "redis://other/2", "memory://"] {
            assert!(!is_refused(address, &tomcat), "{address}");
        }
        let local = manager(r#"host="localhost""#);
        assert!(is_refused("redis://127.0.0.1", &local) && is_refused("redis://[::1]/0", &local));
        assert!(is_refused("redis+cluster://node1,localhost:6379", &local));
    }

    #[test]
    fn sentinels_are_the_same_where_their_master_is() {
        let tomcat = manager(r#"sentinels="s1:26379,s2:26379" sentinelMaster="main" database="0""#);
        assert!(is_refused("redis+sentinel://s2,s3/main", &tomcat));
        assert!(!is_refused("redis+sentinel://s2,s3/other", &tomcat));
        assert!(!is_refused("redis+sentinel://s2,s3/main/1", &tomcat));
        assert!(!is_refused("redis+sentinel://s9/main", &tomcat));
    }

    #[test]
    fn a_refusal_shows_no_password() {
        let error = open_beside("redis://u:s3cret@redis/0", &manager(r#"host="redis" password="s3cret""#)).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("database 0 of redis:6379") && !said.contains("s3cret"), "{said}");
    }

    #[test]
    fn a_store_beside_tomcats_has_its_servers_and_another_database() {
        let shown =
            |tomcat: &SessionManager, database| format!("{:?}", RedisBuilder::beside(tomcat, database).unwrap());
        let single = shown(&manager(r#"host="redis" port="7000" database="2""#), 3);
        assert!(single.contains(r#"Single(("redis", 7000))"#) && single.contains("database: 3"), "{single}");
        let sentinel = shown(&manager(r#"sentinels="s1,s2:1" sentinelMaster="main""#), 1);
        assert!(
            sentinel.contains(r#"("s1", 26379), ("s2", 1)"#) && sentinel.contains(r#"master: "main""#),
            "{sentinel}"
        );
        let conflict = RedisBuilder::beside(&manager(r#"host="redis" database="2""#), 2);
        assert!(matches!(conflict, Err(InvalidStore::Tomcat(_))));
        let ranjit = Properties::parse("p", "redis.hosts=a:1,b:1").unwrap();
        let cluster = RedisBuilder::beside(&SessionManager::from_redis_data_cache(&ranjit).unwrap(), 0);
        assert!(matches!(cluster, Err(InvalidStore::Tomcat(_))), "a cluster has one database only");
        let memcached = r#"<Context><Manager className="de.javakaffee.web.msm.MemcachedBackupSessionManager" memcachedNodes="n1:m:11211"/></Context>"#;
        let memcached = SessionManager::from_context("c", memcached).unwrap().unwrap();
        assert!(matches!(RedisBuilder::beside(&memcached, 1), Err(InvalidStore::Setting { .. })));
    }
}
