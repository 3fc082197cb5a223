//! A Redis store beside Tomcat's.

use super::builder::RedisBuilder;
use super::dialer::Topology;
use crate::kylin::tomcat::{ManagerKind, SessionManager};
use crate::session::InvalidStore;

impl RedisBuilder {
    /// A store on the servers where `tomcat` keeps its sessions, in another database of theirs. The manager's password is not known
    /// here: where [it has one](SessionManager::has_password), set it with [`password`](Self::password). `localhost` in the
    /// manager's configuration is this machine for this store.
    ///
    /// # Errors
    /// [`InvalidStore::Tomcat`] when `database` is Tomcat's, and for a cluster, which has no other;
    /// [`InvalidStore::Setting`] when the manager keeps its sessions elsewhere than in Redis.
    pub fn beside(tomcat: &SessionManager, database: u32) -> Result<Self, InvalidStore> {
        if tomcat.kind() == ManagerKind::Memcached {
            return Err(InvalidStore::Setting {
                setting: "Tomcat's session manager",
                expected: "one that keeps its sessions in Redis",
            });
        }
        let address = |host: &str, port: u16| match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let servers: Vec<String> = tomcat.stores().iter().map(|store| address(store.host(), store.port())).collect();
        let all = servers.iter().map(String::as_str);
        let builder = match (tomcat.sentinel_master(), servers.as_slice()) {
            (Some(master), _) => RedisBuilder::sentinel(all, master)?,
            (None, [server]) => RedisBuilder::single(server)?,
            (None, _) => RedisBuilder::cluster(all)?,
        };
        let builder = builder.database(database);
        builder.refuse_conflict(tomcat)?;
        Ok(builder)
    }

    /// That Tomcat does not keep its sessions where this store would be.
    ///
    /// # Errors
    /// [`InvalidStore::Tomcat`] when it does.
    pub fn refuse_conflict(&self, tomcat: &SessionManager) -> Result<(), InvalidStore> {
        let (servers, database) = match &self.topology {
            Topology::Single(server) => (std::slice::from_ref(server), self.database),
            Topology::Sentinel { master, .. } if tomcat.sentinel_master() != Some(master.as_str()) => return Ok(()),
            Topology::Sentinel { sentinels, .. } => (sentinels.as_slice(), self.database),
            Topology::Cluster(nodes) => (nodes.as_slice(), 0),
        };
        match servers.iter().find_map(|(host, port)| tomcat.conflict(host, *port, database)) {
            Some(conflict) => Err(conflict.into()),
            None => Ok(()),
        }
    }
}
