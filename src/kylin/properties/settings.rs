//! The properties that concern a front end.

use std::time::Duration;

use super::{Entry, Properties, PropertyError, ServerAddr};
use crate::kylin::MetadataUrl;
use crate::kylin::node::role::Roles;

/// apache/kylin 3.1.3 KylinConfigBase.java:377.
const ZOOKEEPER_BASE: &str = "/kylin";

const ENSEMBLE: [&str; 2] = ["kylin.env.zookeeper-connect-string", "kylin.env.zookeeper.connect-string"];

impl Properties {
    /// Returns `kylin.metadata.url`, or `None` if it is not set, because Kylin's default differs
    /// between versions.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it contains a variable.
    pub fn metadata_url(&self) -> Result<Option<MetadataUrl>, PropertyError> {
        let Some(entry) = self.first(&["kylin.metadata.url"]) else { return Ok(None) };
        Ok(Some(MetadataUrl::parse(resolved(entry)?)))
    }

    /// Returns `kylin.server.mode`. Default: all roles.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for an unknown mode.
    pub fn server_mode(&self) -> Result<Roles, PropertyError> {
        match self.first(&["kylin.server.mode"]) {
            None => Ok(Roles::ALL),
            Some(entry) => {
                Roles::parse(entry.value()).map_err(|_| entry.invalid("all, query or job, or a list of modes"))
            }
        }
    }

    /// Returns `kylin.server.self-discovery-enabled`, which says whether nodes find each other in
    /// ZooKeeper (since 3.1). Default: false.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for any value except `true` and `false`.
    pub fn self_discovery(&self) -> Result<bool, PropertyError> {
        let Some(entry) = self.first(&["kylin.server.self-discovery-enabled"]) else { return Ok(false) };
        entry.value().to_ascii_lowercase().parse().map_err(|_| entry.invalid("true or false"))
    }

    /// Returns `kylin.server.cluster-name`. Default: the identifier of the metadata URL.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it or the metadata URL contains a variable.
    pub fn cluster_name(&self) -> Result<String, PropertyError> {
        match self.first(&["kylin.server.cluster-name"]) {
            Some(entry) => resolved(entry).map(str::to_owned),
            None => Ok(self.metadata_url()?.unwrap_or_else(|| MetadataUrl::parse("")).identifier().to_owned()),
        }
    }

    /// Returns `kylin.server.host-address`, under which the node registers.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it is not an address.
    pub fn host_address(&self) -> Result<Option<ServerAddr>, PropertyError> {
        let Some(entry) = self.first(&["kylin.server.host-address"]) else { return Ok(None) };
        ServerAddr::parse(entry.value()).map(Some).ok_or_else(|| entry.invalid("host:port"))
    }

    /// Returns the servers of `kylin.env.zookeeper-connect-string`, or `None` if Kylin uses the
    /// ZooKeeper of its HBase.
    ///
    /// The path at the end is the [chroot](Properties::zookeeper_chroot).
    ///
    /// # Errors
    /// [`PropertyError::Value`] if an entry is not an address.
    pub fn zookeeper_servers(&self) -> Result<Option<Vec<String>>, PropertyError> {
        let Some(entry) = self.first(&ENSEMBLE) else { return Ok(None) };
        let text = resolved(entry)?.split('/').next().unwrap_or_default();
        let servers: Vec<String> =
            text.split(',').map(|server| server.trim().to_owned()).filter(|server| !server.is_empty()).collect();
        let is_valid = |server: &String| {
            let (host, port) = server.rsplit_once(':').unwrap_or((server, "2181"));
            !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        if servers.is_empty() || !servers.iter().all(is_valid) {
            return Err(entry.invalid("host:port, …"));
        }
        Ok(Some(servers))
    }

    /// Returns the path at the end of `kylin.env.zookeeper-connect-string`, below which all of
    /// Kylin's znodes are. Default: empty.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it contains a variable.
    pub fn zookeeper_chroot(&self) -> Result<String, PropertyError> {
        let Some(entry) = self.first(&ENSEMBLE) else { return Ok(String::new()) };
        let path = resolved(entry)?.find('/').map_or("", |slash| &entry.value()[slash..]);
        Ok(path.trim_end_matches('/').to_owned())
    }

    /// Returns `kylin.job.scheduler.default`: the number of the scheduler that runs the jobs.
    ///
    /// Scheduler 100 of 3.x and 4.x elects a leader in ZooKeeper, so its nodes register there.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it is not a number.
    pub fn job_scheduler(&self) -> Result<Option<u32>, PropertyError> {
        let Some(entry) = self.first(&["kylin.job.scheduler.default"]) else { return Ok(None) };
        entry.value().parse().map(Some).map_err(|_| entry.invalid("a number, such as 0, 2 or 100"))
    }

    /// Returns the znode of this cluster: `kylin.env.zookeeper-base-path`, by default `/kylin`,
    /// followed by the [cluster's name](Properties::cluster_name) (2.x-4.x: apache/kylin 3.1.3
    /// ZKUtil.java:56-57).
    ///
    /// The znode is below the [chroot](Properties::zookeeper_chroot).
    ///
    /// # Errors
    /// [`PropertyError::Value`] if the path does not begin with a slash, or the cluster's name
    /// contains a variable.
    pub fn zookeeper_root(&self) -> Result<String, PropertyError> {
        let base = match self.first(&["kylin.env.zookeeper-base-path"]) {
            None => ZOOKEEPER_BASE,
            Some(entry) if entry.value().starts_with('/') => entry.value().trim_end_matches('/'),
            Some(entry) => return Err(entry.invalid("a path that begins with /")),
        };
        Ok(format!("{base}/{}", self.cluster_name()?))
    }

    /// Returns `kylin.query.timeout-seconds`, or `None` if it is not set. Zero means no limit.
    ///
    /// Kylin up to 4 has no limit by default, and raises a limit below a minute to a minute. Kylin
    /// 5 has a default of 300 s and a minimum of 5 s.
    ///
    /// # Errors
    /// [`PropertyError::Value`] if it is not a whole number of seconds.
    pub fn query_timeout(&self) -> Result<Option<Duration>, PropertyError> {
        let Some(entry) = self.first(&["kylin.query.timeout-seconds"]) else { return Ok(None) };
        let seconds = entry.value().parse::<u32>().map_err(|_| entry.invalid("a whole number of seconds"))?;
        Ok(Some(Duration::from_secs(seconds.into())))
    }
}

/// Returns the value, or an error if it contains a variable such as `${HOST}`, which Kylin takes
/// from its environment.
fn resolved(entry: &Entry) -> Result<&str, PropertyError> {
    if entry.value().contains("${") {
        Err(entry.invalid("a value without variables: write out ${…}"))
    } else {
        Ok(entry.value())
    }
}
