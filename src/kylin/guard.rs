//! What outsiders must not reach: the calls by which nodes talk to each other.
//!
//! Kylin's security lets most of them in without a login (apache/kylin 3.1.3 server/src/main/resources/kylinSecurity.xml:234-267),
//! because they come from nodes. A front end puts all of Kylin on the network, so it has to close this door itself.

use std::net::IpAddr;

use http::HeaderName;
use http::header::HeaderMap;
use ipnet::IpNet;
use thiserror::Error;

use super::class::KylinVersion;

/// The header by which a node of Kylin 5 says that a request was sent on already (kylin5 QueryNodeFilter.java). From a client it
/// would switch off the routing of writes, so a front end takes it away.
pub const ROUTED: HeaderName = HeaderName::from_static("routed");

/// Takes from a request's headers what only nodes may send.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(ROUTED);
}

/// A path that outsiders may not use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Below `/kylin`. `*` is any text within a segment, `**` any number of segments.
    pattern: Vec<String>,
    version: Option<KylinVersion>,
    reason: &'static str,
}

const CACHE: &str = "nodes announce changed metadata here";
const STREAMING: &str = "streaming nodes talk to their coordinator here";
const SPARK: &str = "Spark jobs report to Kylin here";
const USERS: &str = "nodes tell each other about users here";
const BROADCAST: &str = "nodes talk to each other here";
const EPOCH: &str = "nodes settle here who is responsible";
const METASTORE: &str = "it rewrites or copies the metastore";
const GUARDIAN: &str = "Kylin's guardian controls nodes here";

/// The rules that every guard has; those without a version are for both.
///
/// 2.x-4.x: CacheController.java:57-88 and kylinSecurity.xml of 3.1.3, 4.0.4 for jobs/spark. 5: what its security permits to all.
/// That `jobs/stage/status` and its neighbours come from Spark alone is inferred from QueryNodeFilter.
const RULES: [(&str, Option<KylinVersion>, &str); 14] = [
    ("/api/cache*/**", None, CACHE),
    ("/api/streaming_coordinator/**", Some(KylinVersion::V4), STREAMING),
    ("/api/**/snapshotLocalCache/**", Some(KylinVersion::V4), CACHE),
    ("/api/jobs/spark/**", None, SPARK),
    ("/api/jobs/stage/status/**", Some(KylinVersion::V5), SPARK),
    ("/api/jobs/wait_and_run_time/**", Some(KylinVersion::V5), SPARK),
    ("/api/jobs/gluten_cache/**", Some(KylinVersion::V5), SPARK),
    ("/api/user/update_user/**", Some(KylinVersion::V5), USERS),
    ("/api/broadcast/**", Some(KylinVersion::V5), BROADCAST),
    ("/api/epoch/**", Some(KylinVersion::V5), EPOCH),
    ("/api/metastore/cleanup*/**", Some(KylinVersion::V5), METASTORE),
    ("/api/system/backup/**", Some(KylinVersion::V5), METASTORE),
    ("/api/system/metadata_backup_tmp_file/**", Some(KylinVersion::V5), METASTORE),
    ("/api/kg/**", Some(KylinVersion::V5), GUARDIAN),
];

/// What anybody may see of what the rules close.
const OPEN: [&str; 1] = ["/api/epoch/maintenance_mode"];

/// Decides which requests of outsiders are refused.
///
/// Paths must be [normalised](super::path::normalise) first.
///
/// ```
/// use http::Method;
/// use kylin_lb::kylin::guard::Guard;
///
/// let guard = Guard::new().trust("10.0.0.0/8".parse()?);
/// let outside = Some("192.0.2.7".parse()?);
/// assert!(guard.check(outside, &Method::PUT, "/kylin/api/cache/cube/sales/update").is_err());
/// assert!(guard.check(outside, &Method::POST, "/kylin/api/query").is_ok());
/// assert!(guard.check(Some("10.1.2.3".parse()?), &Method::PUT, "/kylin/api/cache/cube/sales/update").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Guard {
    rules: Vec<Rule>,
    trusted: Vec<IpNet>,
}

/// Why a request is refused, to be answered with 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not open to clients: {reason}")]
pub struct Denied {
    reason: &'static str,
}

impl Denied {
    /// What the path is for.
    pub fn reason(&self) -> &'static str {
        self.reason
    }
}

/// A text that is no pattern of a path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a pattern below /kylin: expected a path such as /api/admin/**")]
pub struct InvalidPattern(String);

impl Default for Guard {
    fn default() -> Self {
        Guard::new()
    }
}

impl Guard {
    /// Closes the paths of both dialects to everybody.
    pub fn new() -> Self {
        let rules = RULES.iter().map(|&(pattern, version, reason)| Rule { pattern: split(pattern), version, reason });
        Guard { rules: rules.collect(), trusted: Vec::new() }
    }

    /// Only the rules that a cluster of this `version` needs, and those added by hand.
    pub fn version(mut self, version: KylinVersion) -> Self {
        self.rules.retain(|rule| rule.version.is_none_or(|of| of == version));
        self
    }

    /// Closes `/kylin/api/admin/**` as well. It asks for an administrator's login, but is seldom needed from outside.
    /// `/api/admin/version` and `/api/admin/public_config` are closed with it. Default: open.
    pub fn close_admin(mut self) -> Self {
        self.rules.push(Rule {
            pattern: split("/api/admin/**"),
            version: None,
            reason: "administration is closed here",
        });
        self
    }

    /// Closes the paths of `pattern`, which begins below `/kylin`; `*` stands for any text in a segment, `**` for any number of
    /// segments.
    ///
    /// # Errors
    /// [`InvalidPattern`] when it does not begin with a slash, or has an empty segment or `**` within one.
    pub fn close(mut self, pattern: &str) -> Result<Self, InvalidPattern> {
        let segments = split(pattern);
        let sound = |segment: &String| segment == "**" || (!segment.is_empty() && !segment.contains("**"));
        if !pattern.starts_with('/') || !segments.iter().all(sound) {
            return Err(InvalidPattern(pattern.chars().take(100).collect()));
        }
        self.rules.push(Rule { pattern: segments, version: None, reason: "this path is closed here" });
        Ok(self)
    }

    /// Opens everything to clients of this network: the nodes themselves. Default: nobody.
    pub fn trust(mut self, network: IpNet) -> Self {
        self.trusted.push(network);
        self
    }

    /// May a client do this? One without an IP address, at a unix socket, is an outsider.
    ///
    /// # Errors
    /// [`Denied`], to be answered with 403.
    pub fn check(&self, client: Option<IpAddr>, method: &http::Method, path: &str) -> Result<(), Denied> {
        let Some(below) = path.strip_prefix("/kylin/") else { return Ok(()) };
        let mut all = below.split('/').filter(|segment| !segment.is_empty());
        // No path of Kylin's own has more segments than this; what is longer is looked at as far as it goes.
        let mut segments = [""; 24];
        let mut len = 0;
        for (slot, segment) in segments.iter_mut().zip(all.by_ref()) {
            *slot = segment;
            len += 1;
        }
        let segments = &segments[..len];
        let Some(rule) = self.rules.iter().find(|rule| matches(&rule.pattern, segments)) else { return Ok(()) };
        let open = matches!(*method, http::Method::GET | http::Method::HEAD)
            && OPEN.iter().any(|open| open[1..].split('/').eq(segments.iter().copied()));
        let trusted = client.is_some_and(|ip| self.trusted.iter().any(|net| net.contains(&ip.to_canonical())));
        if open || trusted { Ok(()) } else { Err(Denied { reason: rule.reason }) }
    }
}

fn split(pattern: &str) -> Vec<String> {
    pattern.trim_start_matches('/').split('/').map(str::to_owned).collect()
}

/// Does the path match? Its last segment also matches with a suffix such as `.json`: Spring before 5.3 takes `/spark.json` for
/// `/spark`.
fn matches(pattern: &[String], path: &[&str]) -> bool {
    let Some((first, pattern)) = pattern.split_first() else { return path.is_empty() };
    if first == "**" {
        return (0..=path.len()).any(|skipped| matches(pattern, &path[skipped..]));
    }
    let Some((segment, rest)) = path.split_first() else { return false };
    let stem = segment.rsplit_once('.').map_or(*segment, |(stem, _)| stem);
    (segment_matches(first, segment) || (rest.is_empty() && segment_matches(first, stem))) && matches(pattern, rest)
}

/// A segment against a pattern with any number of `*`.
fn segment_matches(pattern: &str, segment: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = segment.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::super::path::normalise;
    use super::*;

    const OUTSIDE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    fn closed(guard: &Guard, path: &str) -> bool {
        let path = normalise(path).unwrap();
        [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS]
            .iter()
            .all(|method| guard.check(OUTSIDE, method, &path).is_err())
    }

    fn open(guard: &Guard, path: &str) -> bool {
        guard.check(OUTSIDE, &Method::GET, &normalise(path).unwrap()).is_ok()
    }

    #[test]
    fn what_nodes_say_to_each_other_is_closed() {
        let guard = Guard::new();
        for path in [
            "/kylin/api/cache/cube/c/update",
            "/kylin/api/cache/announce/config",
            "/kylin/api/cache",
            "/kylin/api/cache/",
            "/kylin/api/cache_x/y",
            "/kylin/api/cache.json",
            "/kylin/api/streaming_coordinator/x",
            "/kylin/api/tables/a/snapshotLocalCache/b",
            "/kylin/api/snapshotLocalCache",
            "/kylin/api/jobs/spark",
            "/kylin/api/jobs/spark.json",
            "/kylin/api/jobs/spark/",
            "/kylin/api/jobs/stage/status",
            "/kylin/api/user/update_user",
            "/kylin/api/broadcast/x",
            "/kylin/api/epoch",
            "/kylin/api/epoch/all",
            "/kylin/api/metastore/cleanup_storage/tenant_node",
            "/kylin/api/system/backup",
            "/kylin/api/system/metadata_backup_tmp_file",
            "/kylin/api/kg/health/instance_info",
            // What a path looks like to somebody who wants in.
            "/kylin//api/./cache;x=1/a",
            "/kylin/web/..;/api/%63ache/a",
            "//kylin/api/x/%2e%2e/cache/a",
        ] {
            assert!(closed(&guard, path), "{path}");
        }
        for path in [
            "/kylin/api/query",
            "/kylin/api/jobs",
            "/kylin/api/jobs/sparkle",
            "/kylin/api/jobs/1/spark",
            "/kylin/api/projects/cache",
            "/kylin/api/epoch/maintenance_mode",
            "/kylin/api/admin/config",
            "/kylin/api/metastore/backup/models",
            "/kylin/cache/x",
            "/kylin",
            "/",
        ] {
            assert!(open(&guard, path), "{path}");
        }
        assert!(guard.check(OUTSIDE, &Method::PUT, "/kylin/api/epoch/maintenance_mode").is_err());
    }

    #[test]
    fn a_guard_can_be_widened_and_narrowed() {
        let v4 = Guard::new().version(KylinVersion::V4);
        assert!(closed(&v4, "/kylin/api/cache/x") && open(&v4, "/kylin/api/kg/x"));
        let v5 = Guard::new().version(KylinVersion::V5);
        assert!(
            closed(&v5, "/kylin/api/kg/x")
                && closed(&v5, "/kylin/api/jobs/spark")
                && open(&v5, "/kylin/api/streaming_coordinator/x")
        );
        assert!(closed(&Guard::new().close_admin(), "/kylin/api/admin/config"));
        let own = Guard::new().close("/api/x*y/*/z").unwrap();
        assert!(closed(&own, "/kylin/api/x12y/a/z") && closed(&own, "/kylin/api/xy/a/z.json"));
        assert!(open(&own, "/kylin/api/xy/z") && open(&own, "/kylin/api/xyz/a/z"));
        for pattern in ["", "api", "/api//x", "/api/**x", "/"] {
            assert!(Guard::new().close(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn the_nodes_themselves_get_through() {
        let guard = Guard::new().trust("10.0.0.0/8".parse().unwrap()).trust("2001:db8::/32".parse().unwrap());
        let check = |client: Option<&str>| {
            let client = client.map(|ip| ip.parse().unwrap());
            guard.check(client, &Method::PUT, "/kylin/api/cache/x").is_ok()
        };
        assert!(check(Some("10.1.2.3")) && check(Some("::ffff:10.1.2.3")) && check(Some("2001:db8::1")));
        assert!(!check(Some("11.1.2.3")) && !check(Some("::1")) && !check(None));
    }

    #[test]
    fn the_mark_of_a_routed_request_is_taken_away() {
        let mut headers = HeaderMap::new();
        headers.append("Routed", "true".parse().unwrap());
        headers.append("routed", "false".parse().unwrap());
        headers.append("accept", "x".parse().unwrap());
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    proptest! {
        /// However it is written, what Tomcat sees as a closed path is closed.
        #[test]
        fn spelling_does_not_matter(noise in prop::collection::vec("|/\\.|;a=b|/|/x/\\.\\.|/%2e", 4), letter in 0..5_usize) {
            let cache = ["cache", "%63ache", "c%61che", "cach%65", "%63%61%63%68%65"][letter];
            let path = format!("/kylin{}/api{}/{cache}{}/x{}", noise[0], noise[1], noise[2], noise[3]);
            prop_assert!(closed(&Guard::new(), &path), "{path}");
        }

        #[test]
        fn any_path_can_be_checked(path in ".{0,60}") {
            let _ = Guard::new().check(OUTSIDE, &Method::GET, &path);
            let _ = Guard::new().check(OUTSIDE, &Method::GET, &format!("/kylin/api/{path}"));
        }
    }
}
