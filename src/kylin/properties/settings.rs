//! The properties that concern a front end, with Kylin's defaults.

use std::time::Duration;

use super::{Entry, Properties, PropertyError, ServerAddr};
use crate::kylin::MetadataUrl;
use crate::kylin::node::role::Roles;

/// apache/kylin 3.1.3 KylinConfigBase.java:377.
const ZOOKEEPER_BASE: &str = "/kylin";

const ENSEMBLE: [&str; 2] = ["kylin.env.zookeeper-connect-string", "kylin.env.zookeeper.connect-string"];

impl Properties {
    /// `kylin.metadata.url`; none when the file leaves it to Kylin's default, which differs between versions.
    ///
    /// # Errors
    /// [`PropertyError::Value`] when it still has a variable in it.
    pub fn metadata_url(&self) -> Result<Option<MetadataUrl>, PropertyError> {
        let Some(entry) = self.first(&["kylin.metadata.url"]) else { return Ok(None) };
        Ok(Some(MetadataUrl::parse(resolved(entry)?)))
    }

    /// `kylin.server.mode`; `all` by default.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for a mode that is not known.
    pub fn server_mode(&self) -> Result<Roles, PropertyError> {
        match self.first(&["kylin.server.mode"]) {
            None => Ok(Roles::ALL),
            Some(entry) => {
                Roles::parse(entry.value()).map_err(|_| entry.fault("all, query or job, or a list of modes"))
            }
        }
    }

    /// `kylin.server.self-discovery-enabled`: do nodes find each other in ZooKeeper? Off by default; since 3.1.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for anything but `true` and `false`.
    pub fn self_discovery(&self) -> Result<bool, PropertyError> {
        let Some(entry) = self.first(&["kylin.server.self-discovery-enabled"]) else { return Ok(false) };
        entry.value().to_ascii_lowercase().parse().map_err(|_| entry.fault("true or false"))
    }

    /// `kylin.server.cluster-name`; by default the identifier of the metadata URL.
    ///
    /// # Errors
    /// [`PropertyError::Value`] where it follows from a metadata URL with a variable in it.
    pub fn cluster_name(&self) -> Result<String, PropertyError> {
        match self.first(&["kylin.server.cluster-name"]) {
            Some(entry) => resolved(entry).map(str::to_owned),
            None => Ok(self.metadata_url()?.unwrap_or_else(|| MetadataUrl::parse("")).identifier().to_owned()),
        }
    }

    /// `kylin.server.host-address`, as which the node announces itself.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for what is no address.
    pub fn host_address(&self) -> Result<Option<ServerAddr>, PropertyError> {
        let Some(entry) = self.first(&["kylin.server.host-address"]) else { return Ok(None) };
        ServerAddr::parse(entry.value()).map(Some).ok_or_else(|| entry.fault("host:port"))
    }

    /// The port of Kylin 5: `server.port`, 7070 by default. That of 2.x-4.x is in `tomcat/conf/server.xml`, 7070 as well.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for what is no port.
    pub fn server_port(&self) -> Result<u16, PropertyError> {
        let Some(entry) = self.first(&["server.port"]) else { return Ok(7070) };
        entry.value().parse().ok().filter(|&port| port != 0).ok_or_else(|| entry.fault("a port, 1 to 65535"))
    }

    /// `kylin.env.zookeeper-connect-string`, without a path at its end, which is the [chroot](Properties::zookeeper_chroot): none
    /// when Kylin takes the ZooKeeper of its HBase.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for an entry that is no address.
    pub fn zookeeper_servers(&self) -> Result<Option<Vec<String>>, PropertyError> {
        let Some(entry) = self.first(&ENSEMBLE) else { return Ok(None) };
        let text = resolved(entry)?.split('/').next().unwrap_or_default();
        let servers: Vec<String> =
            text.split(',').map(|server| server.trim().to_owned()).filter(|server| !server.is_empty()).collect();
        let sound = |server: &String| {
            let (host, port) = server.rsplit_once(':').unwrap_or((server, "2181"));
            !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        if servers.is_empty() || !servers.iter().all(sound) {
            return Err(entry.fault("host:port, …"));
        }
        Ok(Some(servers))
    }

    /// The path at the end of `kylin.env.zookeeper-connect-string`, below which ZooKeeper's client puts all of Kylin's nodes; empty
    /// where there is none.
    ///
    /// # Errors
    /// [`PropertyError::Value`] when it still has a variable in it.
    pub fn zookeeper_chroot(&self) -> Result<String, PropertyError> {
        let Some(entry) = self.first(&ENSEMBLE) else { return Ok(String::new()) };
        let path = resolved(entry)?.find('/').map_or("", |slash| &entry.value()[slash..]);
        Ok(path.trim_end_matches('/').to_owned())
    }

    /// `kylin.job.scheduler.default`: which scheduler runs the jobs. 100 is the one of 3.x and 4.x that elects a leader in
    /// ZooKeeper, for which nodes register there.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for what is no number.
    pub fn job_scheduler(&self) -> Result<Option<u32>, PropertyError> {
        let Some(entry) = self.first(&["kylin.job.scheduler.default"]) else { return Ok(None) };
        entry.value().parse().map(Some).map_err(|_| entry.fault("a number, such as 0, 2 or 100"))
    }

    /// The node of ZooKeeper below which this cluster's are: `kylin.env.zookeeper-base-path`, `/kylin` by default, and the
    /// [cluster's name](Properties::cluster_name) (2.x-4.x: apache/kylin 3.1.3 ZKUtil.java:56-57). It is itself below the
    /// [chroot](Properties::zookeeper_chroot), if there is one.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for a path that does not begin with a slash, and as `cluster_name`.
    pub fn zookeeper_root(&self) -> Result<String, PropertyError> {
        let base = match self.first(&["kylin.env.zookeeper-base-path"]) {
            None => ZOOKEEPER_BASE,
            Some(entry) if entry.value().starts_with('/') => entry.value().trim_end_matches('/'),
            Some(entry) => return Err(entry.fault("a path that begins with /")),
        };
        Ok(format!("{base}/{}", self.cluster_name()?))
    }

    /// `kylin.query.timeout-seconds`: none when it is not set, zero for no limit. Kylin up to 4 has none by default and raises
    /// what is under a minute to it, Kylin 5 has 300 s and a least of 5 s.
    ///
    /// # Errors
    /// [`PropertyError::Value`] for what is no whole number of seconds.
    pub fn query_timeout(&self) -> Result<Option<Duration>, PropertyError> {
        let Some(entry) = self.first(&["kylin.query.timeout-seconds"]) else { return Ok(None) };
        let seconds = entry.value().parse::<u32>().map_err(|_| entry.fault("a whole number of seconds"))?;
        Ok(Some(Duration::from_secs(seconds.into())))
    }
}

/// The value, unless it has a variable such as `${HOST}` in it, which Kylin would take from its environment.
fn resolved(entry: &Entry) -> Result<&str, PropertyError> {
    if entry.value().contains("${") {
        Err(entry.fault("a value without variables: write out ${…}"))
    } else {
        Ok(entry.value())
    }
}
