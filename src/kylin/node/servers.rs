//! The nodes that a node lists.

use serde::Deserialize;
use thiserror::Error;

use super::role::{Role, Roles};
use crate::kylin::properties::ServerAddr;

/// The path at which Kylin 5 lists its nodes. It needs a login.
pub(crate) const SERVERS: &str = "/kylin/api/system/servers?ext=true";

/// The path at which Kylin 3 and 4 list their nodes if these discover each other. It needs a login.
pub(crate) const DISCOVERED: &str = "/kylin/api/service_discovery/state/all";

/// The maximum number of nodes that are read from a response.
const MAX_NODES: usize = 1000;

/// The error for a response that is not a list of nodes. It shows nothing of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum InvalidServerList {
    /// The response is not Kylin's.
    #[error("the response is not a list of nodes")]
    NotUnderstood,
    /// An entry is not `host:port`. Entries are counted from 1.
    #[error("entry {0} of the list of nodes is not host:port")]
    Address(usize),
    /// The mode of an entry is unknown.
    #[error("the mode of entry {0} of the list of nodes is unknown")]
    Mode(usize),
    /// The list has more than a thousand entries.
    #[error("the list of nodes has more than {MAX_NODES} entries")]
    TooMany,
}

#[derive(Deserialize)]
struct Envelope<D> {
    data: D,
}

/// Reads the response of Kylin 5 to [`SERVERS`]: `{"data":[{"host":"h:7070","mode":"all",…}]}`, or
/// the list alone.
///
/// # Errors
/// [`InvalidServerList`]. One invalid entry makes the whole list invalid, because a partial list
/// would remove nodes that exist.
pub(crate) fn of_kylin5(body: &[u8]) -> Result<Vec<ServerAddr>, InvalidServerList> {
    #[derive(Deserialize)]
    struct Server {
        host: String,
        mode: String,
    }
    let list: Vec<Server> = match serde_json::from_slice(body) {
        Ok(Envelope { data }) => data,
        Err(_) => serde_json::from_slice(body).map_err(|_| InvalidServerList::NotUnderstood)?,
    };
    if list.len() > MAX_NODES {
        return Err(InvalidServerList::TooMany);
    }
    let mut servers: Vec<ServerAddr> = Vec::new();
    for (at, Server { host, mode }) in (1..).zip(list) {
        let roles = Roles::parse(&mode).map_err(|_| InvalidServerList::Mode(at))?;
        let server = address(&host, at)?;
        match servers.iter_mut().find(|known| known.is_at(&server)) {
            // In later 5.x, a node registers once for each of its services.
            Some(known) => *known = server.serving(known.roles().unwrap_or(Roles::NONE).and(roles)),
            None => servers.push(server.serving(roles)),
        }
    }
    Ok(servers)
}

/// Reads the response of Kylin 3 and 4 to [`DISCOVERED`]:
/// `{"data":{"allNodes":["h:7070"],"queryNodes":[…],"jobNodes":[…],…}}`.
///
/// # Errors
/// [`InvalidServerList`]. One invalid entry makes the whole list invalid.
pub(crate) fn of_kylin3(body: &[u8]) -> Result<Vec<ServerAddr>, InvalidServerList> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct State {
        all_nodes: Vec<String>,
        #[serde(default)]
        query_nodes: Vec<String>,
        #[serde(default)]
        job_nodes: Vec<String>,
    }
    let Envelope { data: State { all_nodes, query_nodes, job_nodes } } =
        serde_json::from_slice(body).map_err(|_| InvalidServerList::NotUnderstood)?;
    if [&all_nodes, &query_nodes, &job_nodes].iter().any(|list| list.len() > MAX_NODES) {
        return Err(InvalidServerList::TooMany);
    }
    let mut servers: Vec<ServerAddr> = Vec::new();
    for (at, text) in (1..).zip(&all_nodes) {
        let serves = |list: &[String], role: Role| if list.contains(text) { role.into() } else { Roles::NONE };
        let roles = serves(&query_nodes, Role::Query).and(serves(&job_nodes, Role::Job));
        let server = address(text, at)?.serving(roles);
        if !servers.iter().any(|known| known.is_at(&server)) {
            servers.push(server);
        }
    }
    Ok(servers)
}

fn address(text: &str, at: usize) -> Result<ServerAddr, InvalidServerList> {
    ServerAddr::parse(text).ok_or(InvalidServerList::Address(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(servers: &[ServerAddr]) -> Vec<String> {
        servers.iter().map(|server| format!("{server}:{}", server.roles().unwrap())).collect()
    }

    #[test]
    fn lists_of_both_versions_are_read() {
        let list =
            br#"[{"host":"a:7070","mode":"all"},{"host":"b","mode":"query"},{"host":"[::1]:1","mode":"job","x":[]}]"#;
        let expected = ["a:7070:all", "b:7070:query", "[::1]:1:job"];
        assert_eq!(shown(&of_kylin5(list).unwrap()), expected);
        let wrapped = [&br#"{"code":"000","data":"#[..], list, br#","msg":""}"#].concat();
        assert_eq!(shown(&of_kylin5(&wrapped).unwrap()), expected);
        let twice =
            br#"[{"host":"a:1","mode":"data-loading"},{"host":"a:1","mode":"query"},{"host":"b:1","mode":"ops"}]"#;
        assert_eq!(shown(&of_kylin5(twice).unwrap()), ["a:1:all", "b:1:none"]);
        let state =
            br#"{"code":"000","data":{"allNodes":["a:7070","b:7070","c:7070","d:7070"],"jobNodes":["a:7070","c:7070"],
            "queryNodes":["a:7070","b:7070"],"selectedLeaders":["a:7070"],"activeJobNodes":[]},"msg":""}"#;
        assert_eq!(shown(&of_kylin3(state).unwrap()), ["a:7070:all", "b:7070:query", "c:7070:job", "d:7070:none"]);
    }

    #[test]
    fn an_invalid_list_is_an_error_that_shows_nothing_of_it() {
        for (body, error) in [
            ("<html>secret</html>", InvalidServerList::NotUnderstood),
            (r#"{"data":{"servers":["a:7070"]}}"#, InvalidServerList::NotUnderstood),
            (r#"[{"host":"a:7070","mode":"all"},{"host":"secret:x","mode":"all"}]"#, InvalidServerList::Address(2)),
            (r#"[{"host":"a:7070","mode":"secret"}]"#, InvalidServerList::Mode(1)),
        ] {
            assert_eq!(of_kylin5(body.as_bytes()), Err(error), "{body}");
            assert!(!error.to_string().contains("secret"));
        }
        let many = format!("[{}]", vec![r#"{"host":"a","mode":"all"}"#; MAX_NODES + 1].join(","));
        assert_eq!(of_kylin5(many.as_bytes()), Err(InvalidServerList::TooMany));
        assert_eq!(of_kylin3(br#"{"data":{"allNodes":["a b"]}}"#), Err(InvalidServerList::Address(1)));
        assert_eq!(of_kylin3(b"[]"), Err(InvalidServerList::NotUnderstood));
        let deep = "[".repeat(100_000);
        assert_eq!(of_kylin5(deep.as_bytes()), Err(InvalidServerList::NotUnderstood));
    }

    proptest! {
        #[test]
        fn no_response_panics(body in "[\\[\\]{}\":,a-z0-9 ]{0,80}") {
            let _ = of_kylin5(body.as_bytes());
            let _ = of_kylin3(body.as_bytes());
        }
    }
}
