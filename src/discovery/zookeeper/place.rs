use std::fmt;

use crate::discovery::DiscoveredNode;

/// The port of ZooKeeper where none is written.
const PORT: u16 = 2181;

/// An ensemble, and where in it a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// As the client takes them: `host:port,host:port`.
    servers: String,
    /// `/kylin`, or empty for the root.
    base: String,
    cluster: String,
}

/// Why a text does not say where in ZooKeeper a cluster is. Never shows the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidZooKeeper {
    /// A server, counted from 1.
    #[error("server {0} of the ensemble is not valid: expected host:port, host, or [v6]:port")]
    Server(usize),
    /// The path.
    #[error(
        "the path is not valid: expected /base/cluster, of names without control characters, such as /kylin/kylin_metadata"
    )]
    Path,
    /// The name of the cluster.
    #[error("the name of the cluster is not valid: expected one part of a path, such as kylin_metadata")]
    Cluster,
}

impl Place {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidZooKeeper> {
        let (servers, path) = text.find('/').map_or((text, ""), |slash| text.split_at(slash));
        let mut place =
            Place { servers: ensemble(servers)?, base: "/kylin".to_owned(), cluster: "kylin_metadata".to_owned() };
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() {
            let (base, cluster) = path.rsplit_once('/').ok_or(InvalidZooKeeper::Path)?;
            // `host/kylin` may mean a base path or a cluster in the root; who means the latter says so with `base_path`.
            if base.ends_with('/') || base.is_empty() {
                return Err(InvalidZooKeeper::Path);
            }
            place.set_base(base)?;
            place.set_cluster(cluster).map_err(|_| InvalidZooKeeper::Path)?;
        }
        Ok(place)
    }

    pub(super) fn set_base(&mut self, path: &str) -> Result<(), InvalidZooKeeper> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let names = match path.strip_prefix('/') {
            Some(names) => names.split('/').all(is_name),
            None => path.is_empty(),
        };
        if !names || path.len() > 1000 {
            return Err(InvalidZooKeeper::Path);
        }
        self.base = path.to_owned();
        Ok(())
    }

    pub(super) fn set_cluster(&mut self, name: &str) -> Result<(), InvalidZooKeeper> {
        if !is_name(name) {
            return Err(InvalidZooKeeper::Cluster);
        }
        self.cluster = name.to_owned();
        Ok(())
    }

    pub(super) fn servers(&self) -> &str {
        &self.servers
    }

    /// The path of the cluster's own folder.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.base, self.cluster)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper {}{}/{}", self.servers, self.base, self.cluster)
    }
}

fn ensemble(text: &str) -> Result<String, InvalidZooKeeper> {
    let server = |(index, text): (usize, &str)| {
        let text = text.trim();
        let found = DiscoveredNode::new(text).or_else(|_| DiscoveredNode::new(&format!("{text}:{PORT}")));
        found.map(|found| found.address().to_owned()).map_err(|_| InvalidZooKeeper::Server(index + 1))
    };
    let servers: Vec<String> = text.split(',').enumerate().map(server).collect::<Result<_, _>>()?;
    Ok(servers.join(","))
}

/// What ZooKeeper takes as a name: no control characters, no `.` and `..`.
fn is_name(name: &str) -> bool {
    let unfit = |c: char| c == '/' || c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || c >= '\u{fff0}';
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(unfit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_servers_and_path() {
        let read = |text: &str| Place::parse(text).unwrap().to_string();
        assert_eq!(read("zk"), "ZooKeeper zk:2181/kylin/kylin_metadata");
        assert_eq!(read("zk:2181/kylin/prod"), "ZooKeeper zk:2181/kylin/prod");
        assert_eq!(read("a:1, b:2,[::1]:3/chroot/kylin/prod/"), "ZooKeeper a:1,b:2,[::1]:3/chroot/kylin/prod");
        let mut place = Place::parse("zk").unwrap();
        place.set_base("/").unwrap();
        assert_eq!(place.path(), "/kylin_metadata");
    }

    #[test]
    fn says_which_part_is_wrong_and_never_shows_it() {
        for (text, error) in [
            ("", InvalidZooKeeper::Server(1)),
            ("zk,,zk2", InvalidZooKeeper::Server(2)),
            ("zk:0", InvalidZooKeeper::Server(1)),
            ("user:secret@zk:2181", InvalidZooKeeper::Server(1)),
            ("tcp+tls://zk:2181", InvalidZooKeeper::Server(1)),
            ("zk/kylin", InvalidZooKeeper::Path),
            ("zk//kylin", InvalidZooKeeper::Path),
            ("zk/kylin/..", InvalidZooKeeper::Path),
            ("zk/kylin//prod", InvalidZooKeeper::Path),
            ("zk/kylin/a\u{0}", InvalidZooKeeper::Path),
        ] {
            assert_eq!(Place::parse(text).unwrap_err(), error, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        assert_eq!(Place::parse("zk").unwrap().set_cluster("a/b"), Err(InvalidZooKeeper::Cluster));
        assert_eq!(Place::parse("zk").unwrap().set_base("kylin"), Err(InvalidZooKeeper::Path));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}|[a-z0-9:,/.\\[\\]]{0,30}") {
            if let Ok(place) = Place::parse(&text) {
                prop_assert!(place.path().starts_with('/') && !place.path().contains("//"));
            }
        }
    }
}
