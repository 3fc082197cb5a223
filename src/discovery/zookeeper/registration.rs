//! Parses the data of znodes. Any client that may write to ZooKeeper may have written the data, so
//! it is bounded and validated.

use serde_json::Value;

use super::layout::ChildKind;
use crate::discovery::DiscoveredNode;
use crate::endpoint::{InvalidRoles, Roles};

/// The maximum length of a registration. Real ones have about 500 bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The registration of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) node: DiscoveredNode,
    /// Whether the registration states the roles. Otherwise the node is assumed to have every role.
    pub(super) states_roles: bool,
    /// The time of the registration, in milliseconds since 1970; 0 if it is not stated.
    pub(super) registered_at: i64,
}

/// The error for a znode that is skipped. It shows none of the znode's data except an invalid
/// address or mode.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidRegistration {
    #[error("{0} bytes are too many for a registration")]
    TooLong(usize),
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    #[error("not UTF-8")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("no {0}")]
    Missing(&'static str),
    #[error(transparent)]
    Address(#[from] crate::discovery::InvalidNode),
    #[error(transparent)]
    Mode(#[from] InvalidRoles),
}

/// Parses the registration of a node.
pub(super) fn parse(kind: ChildKind, data: &[u8]) -> Result<Registration, InvalidRegistration> {
    let json: Value = serde_json::from_slice(bounded(data)?)?;
    let payload = &json["payload"];
    let (address, roles) = match kind {
        ChildKind::WithRoles(roles) => (address(&json)?, Some(roles)),
        ChildKind::Described | ChildKind::LeaderCandidate => {
            described(&json, payload["description"].as_str().unwrap_or_default())?
        }
    };
    let disabled = json["enabled"] == Value::Bool(false);
    // Spring's status. A node without one serves.
    let up = payload["metadata"]["instance_status"].as_str().is_none_or(|status| status.eq_ignore_ascii_case("up"));
    let node = DiscoveredNode::new(&address)?.with_roles(roles.unwrap_or(Roles::ALL)).with_drain(disabled || !up);
    let registered_at = json["registrationTimeUTC"].as_i64().unwrap_or(0);
    Ok(Registration { node, states_roles: roles.is_some(), registered_at })
}

/// Parses the address of a candidate for the leader.
pub(super) fn parse_candidate(data: &[u8]) -> Result<String, InvalidRegistration> {
    let text = std::str::from_utf8(bounded(data)?)?;
    Ok(DiscoveredNode::new(text.trim())?.address().to_owned())
}

/// Returns the number of a candidate, at the end of `_c_<guid>-lock-<number>`. The lowest leads.
pub(super) fn candidate_number(name: &str) -> Option<u64> {
    let (lock, number) = name.rsplit_once('-')?;
    (lock.ends_with("-lock") || lock == "lock").then(|| number.parse().ok()).flatten()
}

fn bounded(data: &[u8]) -> Result<&[u8], InvalidRegistration> {
    if data.len() > MAX_BYTES { Err(InvalidRegistration::TooLong(data.len())) } else { Ok(data) }
}

/// Returns the address and the roles if the description is `host:port`, `host:port:mode` or `mode`.
/// An address in it takes precedence over the JSON keys, because Kylin 3.0 writes it there.
fn described(json: &Value, description: &str) -> Result<(String, Option<Roles>), InvalidRegistration> {
    if !description.contains(':') {
        let roles = if description.is_empty() { None } else { Some(Roles::parse(description)?) };
        return Ok((address(json)?, roles));
    }
    let invalid = match DiscoveredNode::new(description) {
        Ok(_) => return Ok((description.to_owned(), None)),
        Err(error) => error,
    };
    match description.rsplit_once(':') {
        Some((address, mode)) if DiscoveredNode::new(address).is_ok() => {
            Ok((address.to_owned(), Some(Roles::parse(mode)?)))
        }
        _ => Err(invalid.into()),
    }
}

/// Returns the address in the JSON keys `address` and `port`.
fn address(json: &Value) -> Result<String, InvalidRegistration> {
    let missing = InvalidRegistration::Missing;
    let host = json["address"].as_str().filter(|host| !host.is_empty()).ok_or(missing("address"))?;
    let port = json["port"].as_u64().ok_or(missing("port"))?;
    let is_v6 = host.contains(':') && !host.starts_with('[');
    Ok(if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Parses `data` as the data of a znode, and as its name.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    for kind in [ChildKind::Described, ChildKind::LeaderCandidate, ChildKind::WithRoles(Roles::ALL)] {
        let _ = parse(kind, data);
    }
    let _ = parse_candidate(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = candidate_number(text);
        let _ = super::connect_string::ConnectString::parse(text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::endpoint::Role;

    fn read(kind: ChildKind, json: Value) -> Result<(String, String, bool), String> {
        let node = parse(kind, json.to_string().as_bytes()).map_err(|error| error.to_string())?.node;
        Ok((node.address().to_owned(), node.roles().to_string(), node.is_draining()))
    }

    fn ok(address: &str, roles: &str, drain: bool) -> Result<(String, String, bool), String> {
        Ok((address.to_owned(), roles.to_owned(), drain))
    }

    /// Kylin 3.1 and 4.0: as the serializer of Curator 2.12 writes it.
    #[test]
    fn kylin_3_1_states_the_mode_in_the_description() {
        let node = |description: &str| {
            json!({"name": "cluster_servers", "id": "8f5b", "address": "Host1", "port": 7070, "sslPort": null,
                "payload": {"description": description}, "registrationTimeUTC": 1_600_000_000_000_i64,
                "serviceType": "DYNAMIC", "uriSpec": null, "enabled": true})
        };
        assert_eq!(read(ChildKind::Described, node("query")), ok("host1:7070", "query", false));
        assert_eq!(read(ChildKind::Described, node("query,stream_coordinator")), ok("host1:7070", "query", false));
        assert_eq!(read(ChildKind::Described, node("all")), ok("host1:7070", "all", false));
        assert!(read(ChildKind::Described, node("querry")).unwrap_err().contains("is not a server mode"));
        let registered_at = parse(ChildKind::Described, node("job").to_string().as_bytes()).unwrap().registered_at;
        assert_eq!(registered_at, 1_600_000_000_000);
    }

    #[test]
    fn kylin_3_0_states_the_address_in_the_description() {
        let node = |description: &str| json!({"name": "kylin", "id": "8f5b", "address": "wrong", "port": 1, "payload": {"description": description}});
        assert_eq!(read(ChildKind::Described, node("host1:7070")), ok("host1:7070", "all", false));
        assert_eq!(read(ChildKind::Described, node("host1:7070:job")), ok("host1:7070", "job", false));
        assert_eq!(read(ChildKind::Described, node("[::1]:7070:query")), ok("[::1]:7070", "query", false));
        assert!(read(ChildKind::Described, node("host1:port")).unwrap_err().contains("expected host:port"));
        assert!(read(ChildKind::Described, node("host1:7070:what")).unwrap_err().contains("is not a server mode"));
    }

    /// As public samples of Spring Cloud Zookeeper show it.
    #[test]
    fn kylin_5_states_its_status_in_the_metadata_and_its_role_by_the_path() {
        let node = |metadata: Value| {
            json!({"name": "query", "id": "8f5b", "address": "10.0.0.7", "port": 7070, "sslPort": null,
                "payload": {"@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                    "id": "application-1", "name": "query", "metadata": metadata},
                "registrationTimeUTC": 1, "serviceType": "DYNAMIC",
                "uriSpec": {"parts": [{"value": "scheme", "variable": true}]}})
        };
        let query = ChildKind::WithRoles(Role::Query.into());
        assert_eq!(read(query, node(json!({"instance_status": "UP"}))), ok("10.0.0.7:7070", "query", false));
        assert_eq!(read(query, node(json!({"instance_status": "OUT_OF_SERVICE"}))), ok("10.0.0.7:7070", "query", true));
        assert_eq!(read(query, node(json!({"what": ["is", "this"]}))), ok("10.0.0.7:7070", "query", false));
        assert_eq!(read(query, node(Value::Null)), ok("10.0.0.7:7070", "query", false));
    }

    #[test]
    fn an_error_gives_the_reason_and_shows_no_data() {
        let reason = |json: Value| read(ChildKind::WithRoles(Roles::ALL), json).unwrap_err();
        assert_eq!(reason(json!({"address": "a"})), "no port");
        assert_eq!(reason(json!({"address": "a", "port": -1, "secret": "x"})), "no port");
        assert_eq!(reason(json!({"address": "", "port": 1})), "no address");
        assert_eq!(reason(json!(["a", 1])), "no address");
        assert!(reason(json!({"address": "a/b", "port": 1})).contains("expected host:port"));
        assert!(reason(json!({"address": "a", "port": 70_000})).contains("expected host:port"));
        let error = parse(ChildKind::Described, b"{\"password\": \"secret\"").unwrap_err();
        assert_eq!(error.to_string(), "not JSON");
        assert!(!crate::error_chain::error_chain(&error).contains("secret"));
    }

    #[test]
    fn deep_and_long_json_is_rejected() {
        let deep = "[".repeat(60_000);
        assert!(matches!(parse(ChildKind::Described, deep.as_bytes()), Err(InvalidRegistration::Json(_))));
        let long = format!("{{\"address\":\"{}\"", "a".repeat(MAX_BYTES));
        assert!(matches!(parse(ChildKind::Described, long.as_bytes()), Err(InvalidRegistration::TooLong(_))));
        assert!(matches!(parse_candidate(&[b'1'; MAX_BYTES + 1]), Err(InvalidRegistration::TooLong(_))));
    }

    #[test]
    fn candidates_are_ordered_by_the_number_at_the_end() {
        assert_eq!(candidate_number("_c_8f5b-11-lock-0000000007"), Some(7));
        assert_eq!(candidate_number("lock-0000000011"), Some(11));
        assert_eq!(candidate_number("_c_8f5b-lock--2147483648"), None);
        assert_eq!(candidate_number("_c_8f5b"), None);
        assert_eq!(parse_candidate(b"Host1:7070\n").unwrap(), "host1:7070");
        assert!(parse_candidate(b"\xff").is_err() && parse_candidate(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(data in proptest::collection::vec(any::<u8>(), 0..300), name in "\\PC{0,30}") {
            let _ = parse(ChildKind::Described, &data);
            let _ = parse(ChildKind::WithRoles(Roles::ALL), &data);
            let _ = parse_candidate(&data);
            let _ = candidate_number(&name);
        }

        #[test]
        fn no_json_causes_a_panic(
            address in "\\PC{0,20}|[a-z0-9.:\\[\\]]{0,12}", port in any::<i64>(), description in "\\PC{0,20}|[a-z0-9.:]{0,12}",
            status in "\\PC{0,8}", other in "[{}\\[\\]\",:a1]{0,20}",
        ) {
            let json = json!({"address": address, "port": port, "payload":
                {"description": description, "metadata": {"instance_status": status}}}).to_string();
            for text in [json.clone(), json.replacen(':', &other, 1)] {
                for kind in [ChildKind::Described, ChildKind::WithRoles(Roles::ALL)] {
                    if let Ok(registration) = parse(kind, text.as_bytes()) {
                        prop_assert!(DiscoveredNode::new(registration.node.address()).is_ok());
                    }
                }
            }
        }
    }
}
