use std::fmt;

use crate::discovery::DiscoveredNode;

/// ZooKeeper's default port.
const PORT: u16 = 2181;

/// The servers of an ensemble, and the path of a cluster in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnectString {
    /// `host:port,host:port`.
    servers: String,
    /// `/kylin`, or empty for the root.
    base: String,
    cluster: String,
}

/// The error for a text that does not name a cluster in ZooKeeper. It never shows the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidZooKeeper {
    /// A server is invalid. Servers are counted from 1.
    #[error("server {0} of the ensemble is not valid: expected host:port, host, or [v6]:port")]
    Server(usize),
    /// The path is invalid.
    #[error(
        "the path is not valid: expected /base/cluster, of names without control characters, such as /kylin/kylin_metadata"
    )]
    Path,
    /// The name of the cluster is invalid.
    #[error("the name of the cluster is not valid: expected one part of a path, such as kylin_metadata")]
    Cluster,
}

impl ConnectString {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidZooKeeper> {
        let (servers, path) = text.find('/').map_or((text, ""), |slash| text.split_at(slash));
        let (base, cluster) = ("/kylin".to_owned(), "kylin_metadata".to_owned());
        let mut parsed = ConnectString { servers: ensemble(servers)?, base, cluster };
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() {
            let (base, cluster) = path.rsplit_once('/').ok_or(InvalidZooKeeper::Path)?;
            // `host/kylin` could be a base path, or a cluster in the root; `set_base` accepts the
            // root.
            if base.ends_with('/') || base.is_empty() {
                return Err(InvalidZooKeeper::Path);
            }
            parsed.set_base(base)?;
            parsed.set_cluster(cluster).map_err(|_| InvalidZooKeeper::Path)?;
        }
        Ok(parsed)
    }

    pub(super) fn set_base(&mut self, path: &str) -> Result<(), InvalidZooKeeper> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let valid = match path.strip_prefix('/') {
            Some(names) => names.split('/').all(is_valid_name),
            None => path.is_empty(),
        };
        if !valid || path.len() > 1000 {
            return Err(InvalidZooKeeper::Path);
        }
        self.base = path.to_owned();
        Ok(())
    }

    pub(super) fn set_cluster(&mut self, name: &str) -> Result<(), InvalidZooKeeper> {
        if !is_valid_name(name) {
            return Err(InvalidZooKeeper::Cluster);
        }
        self.cluster = name.to_owned();
        Ok(())
    }

    pub(super) fn servers(&self) -> &str {
        &self.servers
    }

    /// Returns the path of the cluster's own znode.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.base, self.cluster)
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper {}{}/{}", self.servers, self.base, self.cluster)
    }
}

fn ensemble(text: &str) -> Result<String, InvalidZooKeeper> {
    let server = |(number, text): (usize, &str)| {
        let text = text.trim();
        let node = DiscoveredNode::new(text).or_else(|_| DiscoveredNode::new(&format!("{text}:{PORT}")));
        node.map(|node| node.address().to_owned()).map_err(|_| InvalidZooKeeper::Server(number))
    };
    let servers: Vec<String> = (1..).zip(text.split(',')).map(server).collect::<Result<_, _>>()?;
    Ok(servers.join(","))
}

/// Returns whether ZooKeeper accepts `name` for a znode: no control characters, no `.` and `..`.
fn is_valid_name(name: &str) -> bool {
    let invalid = |c: char| c == '/' || c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || c >= '\u{fff0}';
    !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn servers_and_path_are_read() {
        let read = |text: &str| ConnectString::parse(text).unwrap().to_string();
        assert_eq!(read("zk"), "ZooKeeper zk:2181/kylin/kylin_metadata");
        assert_eq!(read("zk:2181/kylin/prod"), "ZooKeeper zk:2181/kylin/prod");
        assert_eq!(read("a:1, b:2,[::1]:3/chroot/kylin/prod/"), "ZooKeeper a:1,b:2,[::1]:3/chroot/kylin/prod");
        let mut parsed = ConnectString::parse("zk").unwrap();
        parsed.set_base("/").unwrap();
        assert_eq!(parsed.path(), "/kylin_metadata");
    }

    #[test]
    fn an_error_names_the_invalid_part_and_never_shows_it() {
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
            assert_eq!(ConnectString::parse(text).unwrap_err(), error, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        assert_eq!(ConnectString::parse("zk").unwrap().set_cluster("a/b"), Err(InvalidZooKeeper::Cluster));
        assert_eq!(ConnectString::parse("zk").unwrap().set_base("kylin"), Err(InvalidZooKeeper::Path));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_rejected(text in "\\PC{0,80}|[a-z0-9:,/.\\[\\]]{0,30}") {
            if let Ok(parsed) = ConnectString::parse(&text) {
                prop_assert!(parsed.path().starts_with('/') && !parsed.path().contains("//"));
            }
        }
    }
}
