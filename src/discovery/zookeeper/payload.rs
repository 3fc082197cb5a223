//! What stands in a znode. Pure, bounded, and suspicious: anybody who may write to ZooKeeper may have written it.

use serde_json::Value;

use super::folders::Kind;
use crate::discovery::DiscoveredNode;
use crate::endpoint::{InvalidRoles, Roles};

/// The longest registration that is read; real ones have some 500 bytes.
const MOST_BYTES: usize = 64 * 1024;

/// A registration of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) found: DiscoveredNode,
    /// The roles are in the registration, not only assumed.
    pub(super) roles_are_told: bool,
    /// When it was made, in milliseconds since 1970; 0 where that is not told.
    pub(super) at: i64,
}

/// Why a znode is skipped. Shows nothing of it but what could not be read as an address or a mode.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0} bytes are too many for a registration")]
    TooLong(usize),
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    #[error("not text")]
    Text(#[from] std::str::Utf8Error),
    #[error("no {0}")]
    Missing(&'static str),
    #[error(transparent)]
    Address(#[from] crate::discovery::InvalidNode),
    #[error(transparent)]
    Mode(#[from] InvalidRoles),
}

/// Reads the registration of a node in a folder of this kind, which is none of leaders.
pub(super) fn registration(kind: Kind, data: &[u8]) -> Result<Registration, Unusable> {
    let json: Value = serde_json::from_slice(bounded(data)?)?;
    let payload = &json["payload"];
    let (address, roles) = match kind {
        Kind::Of(roles) => (fields(&json)?, Some(roles)),
        Kind::Described | Kind::Leader => described(&json, payload["description"].as_str().unwrap_or_default())?,
    };
    let disabled = json["enabled"] == Value::Bool(false);
    // Spring's status; a node that tells none serves.
    let up = payload["metadata"]["instance_status"].as_str().is_none_or(|status| status.eq_ignore_ascii_case("up"));
    let found = DiscoveredNode::new(&address)?.with_roles(roles.unwrap_or(Roles::ALL)).draining(disabled || !up);
    Ok(Registration { found, roles_are_told: roles.is_some(), at: json["registrationTimeUTC"].as_i64().unwrap_or(0) })
}

/// Reads the address of a candidate for the lead.
pub(super) fn leader(data: &[u8]) -> Result<String, Unusable> {
    let text = std::str::from_utf8(bounded(data)?)?;
    Ok(DiscoveredNode::new(text.trim())?.address().to_owned())
}

/// The place of a candidate in the order of the lead: the number at the end of `_c_<guid>-lock-<number>`, the lowest leads.
pub(super) fn sequence(name: &str) -> Option<u64> {
    let (lock, number) = name.rsplit_once('-')?;
    (lock.ends_with("-lock") || lock == "lock").then(|| number.parse().ok()).flatten()
}

fn bounded(data: &[u8]) -> Result<&[u8], Unusable> {
    if data.len() > MOST_BYTES { Err(Unusable::TooLong(data.len())) } else { Ok(data) }
}

/// Address and roles where the description tells one or both: `host:port`, `host:port:mode` or `mode`. An address in it goes
/// before the fields, because there Kylin 3.0 put it.
fn described(json: &Value, description: &str) -> Result<(String, Option<Roles>), Unusable> {
    if !description.contains(':') {
        let roles = if description.is_empty() { None } else { Some(Roles::parse(description)?) };
        return Ok((fields(json)?, roles));
    }
    if DiscoveredNode::new(description).is_ok() {
        return Ok((description.to_owned(), None));
    }
    match description.rsplit_once(':') {
        Some((address, mode)) if DiscoveredNode::new(address).is_ok() => {
            Ok((address.to_owned(), Some(Roles::parse(mode)?)))
        }
        _ => Err(DiscoveredNode::new(description).err().map_or(Unusable::Missing("address"), Unusable::Address)),
    }
}

/// The address in the fields `address` and `port`.
fn fields(json: &Value) -> Result<String, Unusable> {
    let host = json["address"].as_str().filter(|host| !host.is_empty()).ok_or(Unusable::Missing("address"))?;
    let port = json["port"].as_u64().ok_or(Unusable::Missing("port"))?;
    let is_v6 = host.contains(':') && !host.starts_with('[');
    Ok(if is_v6 { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::endpoint::Role;

    fn read(kind: Kind, json: Value) -> Result<(String, String, bool), String> {
        let registration = registration(kind, json.to_string().as_bytes()).map_err(|error| error.to_string())?;
        let found = registration.found;
        Ok((found.address().to_owned(), found.roles().to_string(), found.is_draining()))
    }

    fn ok(address: &str, roles: &str, drain: bool) -> Result<(String, String, bool), String> {
        Ok((address.to_owned(), roles.to_owned(), drain))
    }

    /// Kylin 3.1 and 4.0: as the serializer of Curator 2.12 writes it.
    #[test]
    fn kylin_3_1_tells_the_mode_in_the_description() {
        let node = |description: &str| {
            json!({"name": "cluster_servers", "id": "8f5b", "address": "Host1", "port": 7070, "sslPort": null,
                "payload": {"description": description}, "registrationTimeUTC": 1_600_000_000_000_i64,
                "serviceType": "DYNAMIC", "uriSpec": null, "enabled": true})
        };
        assert_eq!(read(Kind::Described, node("query")), ok("host1:7070", "query", false));
        assert_eq!(read(Kind::Described, node("query,stream_coordinator")), ok("host1:7070", "query", false));
        assert_eq!(read(Kind::Described, node("all")), ok("host1:7070", "all", false));
        assert!(read(Kind::Described, node("querry")).unwrap_err().contains("is not a server mode"));
        let at = registration(Kind::Described, node("job").to_string().as_bytes()).unwrap().at;
        assert_eq!(at, 1_600_000_000_000);
    }

    #[test]
    fn kylin_3_0_tells_the_address_in_the_description() {
        let node = |description: &str| json!({"name": "kylin", "id": "8f5b", "address": "wrong", "port": 1, "payload": {"description": description}});
        assert_eq!(read(Kind::Described, node("host1:7070")), ok("host1:7070", "all", false));
        assert_eq!(read(Kind::Described, node("host1:7070:job")), ok("host1:7070", "job", false));
        assert_eq!(read(Kind::Described, node("[::1]:7070:query")), ok("[::1]:7070", "query", false));
        assert!(read(Kind::Described, node("host1:port")).unwrap_err().contains("expected host:port"));
        assert!(read(Kind::Described, node("host1:7070:what")).unwrap_err().contains("is not a server mode"));
    }

    /// As public samples of Spring Cloud Zookeeper show it.
    #[test]
    fn kylin_5_tells_its_status_in_the_metadata_and_its_role_by_the_folder() {
        let node = |metadata: Value| {
            json!({"name": "query", "id": "8f5b", "address": "10.0.0.7", "port": 7070, "sslPort": null,
                "payload": {"@class": "org.springframework.cloud.zookeeper.discovery.ZookeeperInstance",
                    "id": "application-1", "name": "query", "metadata": metadata},
                "registrationTimeUTC": 1, "serviceType": "DYNAMIC",
                "uriSpec": {"parts": [{"value": "scheme", "variable": true}]}})
        };
        let query = Kind::Of(Role::Query.into());
        assert_eq!(read(query, node(json!({"instance_status": "UP"}))), ok("10.0.0.7:7070", "query", false));
        assert_eq!(read(query, node(json!({"instance_status": "OUT_OF_SERVICE"}))), ok("10.0.0.7:7070", "query", true));
        assert_eq!(read(query, node(json!({"what": ["is", "this"]}))), ok("10.0.0.7:7070", "query", false));
        assert_eq!(read(query, node(Value::Null)), ok("10.0.0.7:7070", "query", false));
    }

    #[test]
    fn what_cannot_be_a_node_says_why_and_shows_nothing() {
        let reason = |json: Value| read(Kind::Of(Roles::ALL), json).unwrap_err();
        assert_eq!(reason(json!({"address": "a"})), "no port");
        assert_eq!(reason(json!({"address": "a", "port": -1, "secret": "x"})), "no port");
        assert_eq!(reason(json!({"address": "", "port": 1})), "no address");
        assert_eq!(reason(json!(["a", 1])), "no address");
        assert!(reason(json!({"address": "a/b", "port": 1})).contains("expected host:port"));
        assert!(reason(json!({"address": "a", "port": 70_000})).contains("expected host:port"));
        let error = registration(Kind::Described, b"{\"password\": \"secret\"").unwrap_err();
        assert_eq!(error.to_string(), "not JSON");
        assert!(!super::super::super::chain(&error).contains("secret"));
    }

    #[test]
    fn deep_and_long_json_is_refused() {
        let deep = "[".repeat(60_000);
        assert!(matches!(registration(Kind::Described, deep.as_bytes()), Err(Unusable::Json(_))));
        let long = format!("{{\"address\":\"{}\"", "a".repeat(MOST_BYTES));
        assert!(matches!(registration(Kind::Described, long.as_bytes()), Err(Unusable::TooLong(_))));
        assert!(matches!(leader(&[b'1'; MOST_BYTES + 1]), Err(Unusable::TooLong(_))));
    }

    #[test]
    fn the_order_of_the_lead_is_the_number_at_the_end() {
        assert_eq!(sequence("_c_8f5b-11-lock-0000000007"), Some(7));
        assert_eq!(sequence("lock-0000000011"), Some(11));
        assert_eq!(sequence("_c_8f5b-lock--2147483648"), None);
        assert_eq!(sequence("_c_8f5b"), None);
        assert_eq!(leader(b"Host1:7070\n").unwrap(), "host1:7070");
        assert!(leader(b"\xff").is_err() && leader(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(data in proptest::collection::vec(any::<u8>(), 0..300), name in "\\PC{0,30}") {
            let _ = registration(Kind::Described, &data);
            let _ = registration(Kind::Of(Roles::ALL), &data);
            let _ = leader(&data);
            let _ = sequence(&name);
        }

        #[test]
        fn no_json_makes_it_panic(
            address in "\\PC{0,20}|[a-z0-9.:\\[\\]]{0,12}", port in any::<i64>(), description in "\\PC{0,20}|[a-z0-9.:]{0,12}",
            status in "\\PC{0,8}", other in "[{}\\[\\]\",:a1]{0,20}",
        ) {
            let json = json!({"address": address, "port": port, "payload":
                {"description": description, "metadata": {"instance_status": status}}}).to_string();
            for text in [json.clone(), json.replacen(':', &other, 1)] {
                for kind in [Kind::Described, Kind::Of(Roles::ALL)] {
                    if let Ok(registration) = registration(kind, text.as_bytes()) {
                        prop_assert!(DiscoveredNode::new(registration.found.address()).is_ok());
                    }
                }
            }
        }
    }
}
