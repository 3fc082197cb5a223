//! Paths that are closed to clients: the calls that nodes make to each other.
//!
//! Kylin serves most of them without a login (apache/kylin 3.1.3
//! server/src/main/resources/kylinSecurity.xml:234-267), because it expects them only from nodes. A
//! front end makes all of Kylin reachable, so it must close these paths itself.

mod closed;

#[cfg(test)]
use std::net::IpAddr;

#[cfg(test)]
use http::Method;
use http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;
use thiserror::Error;

pub(crate) use self::closed::ClosedPaths;
use super::KylinVersion;
#[cfg(test)]
use super::path::NormalizedPath;

/// The header with which a node of Kylin 5 marks a request that it forwarded (kylin5
/// QueryNodeFilter.java).
pub(crate) const ROUTED: HeaderName = HeaderName::from_static("routed");

/// Removes from a client's request the headers that only nodes may send. `routed` would turn off
/// the routing of writes.
pub(crate) fn strip_internal_headers(headers: &mut HeaderMap) {
    headers.remove(ROUTED);
}

const CACHE: &str = "nodes announce changed metadata here";
const STREAMING: &str = "streaming nodes talk to their coordinator here";
const SPARK: &str = "Spark jobs report to Kylin here";
const USERS: &str = "nodes tell each other about users here";
const BROADCAST: &str = "nodes talk to each other here";
const EPOCH: &str = "nodes agree here on who owns a project";
const METASTORE: &str = "this call rewrites or copies the metastore";
const GUARDIAN: &str = "Kylin's guardian controls nodes here";

/// The default rules. A rule without a version applies to both.
///
/// | path | does a client ever need it? |
/// |---|---|
/// | `cache*` | yes, two calls: the reload buttons of the web interface, see [`KylinRules::reload`](crate::proxy::KylinRules::reload) |
/// | `streaming_coordinator` | no: streaming receivers and the coordinator call each other |
/// | `snapshotLocalCache` | no: nodes make each other build a local copy |
/// | `jobs/spark`, `jobs/stage/status`, `jobs/wait_and_run_time`, `jobs/gluten_cache` | no: running jobs report here |
/// | `user/update_user` | no: users are edited by `PUT /api/user`, which then tells the nodes |
/// | `broadcast` | no |
/// | `epoch` | rarely: an operator moves a project by hand, at the node itself; `maintenance_mode` can be read |
/// | `metastore/cleanup*`, `system/backup`, `system/metadata_backup_tmp_file` | rarely: operators use the tools in `$KYLIN_HOME/bin` |
/// | `kg` | no: Kylin's guardian on the same machine calls it |
///
/// An operator who needs one of these paths from elsewhere opens all of them for a network with
/// [`Guard::trust`].
///
/// 2.x-4.x: CacheController.java:57-88 and kylinSecurity.xml of 3.1.3, 4.0.4 for jobs/spark. 5: the
/// calls that its security permits to all. It is inferred from QueryNodeFilter that only Spark
/// calls `jobs/stage/status` and its neighbours.
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

/// The path below `/kylin` that stays readable although a rule closes it.
const READABLE: &str = "api/epoch/maintenance_mode";

/// Decides which paths are closed to clients.
///
/// By default it closes the calls between nodes of both [versions](KylinVersion) to every client.
/// Paths are normalised before they are checked, so that no spelling of a closed path gets through.
/// A request for a closed path gets status 403.
///
/// ```
/// use kylin_lb::kylin::{Guard, KylinVersion};
/// use kylin_lb::proxy::KylinRules;
///
/// // Nodes may call each other through the front end, and clients may not reach the administration.
/// let guard = Guard::new().version(KylinVersion::V4).trust("10.0.0.0/8".parse()?).close("/api/admin/**")?;
/// let rules = KylinRules::default().guard(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Guard {
    rules: Vec<Rule>,
    trusted: Vec<IpNet>,
}

/// A pattern of closed paths.
#[derive(Debug, Clone)]
struct Rule {
    /// The segments below `/kylin`. `*` is any text within a segment, `**` any number of segments.
    pattern: Vec<String>,
    version: Option<KylinVersion>,
    reason: &'static str,
}

/// The error for a text that is not a pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a pattern below /kylin: expected a path such as /api/admin/**")]
pub struct InvalidPattern(String);

impl InvalidPattern {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}

/// The reason why a request is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: &'static str,
}

impl Default for Guard {
    fn default() -> Self {
        Guard::new()
    }
}

impl Guard {
    /// Returns a guard that closes the calls between nodes of both versions to every client.
    pub fn new() -> Self {
        let rules = RULES.iter().map(|&(pattern, version, reason)| Rule { pattern: split(pattern), version, reason });
        Guard { rules: rules.collect(), trusted: Vec::new() }
    }

    /// Keeps only the rules that a cluster of this `version` needs, and those added with
    /// [`close`](Self::close).
    pub fn version(mut self, version: KylinVersion) -> Self {
        self.rules.retain(|rule| rule.version.is_none_or(|only| only == version));
        self
    }

    /// Closes the paths that match `pattern`, which begins below `/kylin`.
    ///
    /// `*` stands for any text within a segment, `**` for any number of segments. For example,
    /// `/api/admin/**` closes the administration.
    ///
    /// # Errors
    /// [`InvalidPattern`] if the pattern does not begin with a slash, has an empty segment, or has
    /// `**` within a segment.
    pub fn close(mut self, pattern: &str) -> Result<Self, InvalidPattern> {
        let segments = split(pattern);
        let is_valid = |segment: &String| segment == "**" || (!segment.is_empty() && !segment.contains("**"));
        if !pattern.starts_with('/') || !segments.iter().all(is_valid) {
            return Err(InvalidPattern(pattern.chars().take(100).collect()));
        }
        self.rules.push(Rule { pattern: segments, version: None, reason: "the application closes this path" });
        Ok(self)
    }

    /// Opens every path to clients of this network, such as the nodes themselves. Default: none.
    pub fn trust(mut self, network: IpNet) -> Self {
        self.trusted.push(network);
        self
    }
}

fn split(pattern: &str) -> Vec<String> {
    pattern.trim_start_matches('/').split('/').map(str::to_owned).collect()
}

/// Matches a segment against a pattern with any number of `*`.
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
    use proptest::prelude::*;

    use super::*;

    impl Guard {
        /// Checks a request against the list of rules, one after another. [`ClosedPaths`] must give
        /// the same result.
        pub(super) fn check(
            &self,
            client: Option<IpAddr>,
            method: &Method,
            path: &NormalizedPath<'_>,
        ) -> Result<(), Denied> {
            let Some(below) = path.as_str().strip_prefix("/kylin/") else { return Ok(()) };
            let segments: Vec<&str> = below.split('/').filter(|segment| !segment.is_empty()).take(24).collect();
            let Some(rule) = self.rules.iter().find(|rule| matches(&rule.pattern, &segments)) else { return Ok(()) };
            let is_readable =
                matches!(*method, Method::GET | Method::HEAD) && READABLE.split('/').eq(segments.iter().copied());
            let is_trusted = client.is_some_and(|ip| self.trusted.iter().any(|net| net.contains(&ip.to_canonical())));
            if is_readable || is_trusted { Ok(()) } else { Err(Denied { reason: rule.reason }) }
        }
    }

    /// Returns whether the path matches. The last segment also matches with a suffix such as
    /// `.json`, because Spring before 5.3 treats `/spark.json` as `/spark`.
    fn matches(pattern: &[String], path: &[&str]) -> bool {
        let Some((first, pattern)) = pattern.split_first() else { return path.is_empty() };
        if first == "**" {
            return (0..=path.len()).any(|skipped| matches(pattern, &path[skipped..]));
        }
        let Some((segment, rest)) = path.split_first() else { return false };
        let stem = segment.rsplit_once('.').map_or(*segment, |(stem, _)| stem);
        (segment_matches(first, segment) || (rest.is_empty() && segment_matches(first, stem))) && matches(pattern, rest)
    }

    pub(super) const OUTSIDE: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    fn normal(path: &str) -> NormalizedPath<'_> {
        NormalizedPath::parse(path).unwrap()
    }

    fn closed(guard: &Guard, path: &str) -> bool {
        let path = normal(path);
        [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS]
            .iter()
            .all(|method| guard.check(OUTSIDE, method, &path).is_err())
    }

    fn open(guard: &Guard, path: &str) -> bool {
        guard.check(OUTSIDE, &Method::GET, &normal(path)).is_ok()
    }

    #[test]
    fn calls_between_nodes_are_closed() {
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
            // Spellings with which a client may try to get in.
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
        assert!(guard.check(OUTSIDE, &Method::PUT, &normal("/kylin/api/epoch/maintenance_mode")).is_err());
    }

    #[test]
    fn rules_are_added_and_limited_to_a_version() {
        let v4 = Guard::new().version(KylinVersion::V4);
        assert!(closed(&v4, "/kylin/api/cache/x") && open(&v4, "/kylin/api/kg/x"));
        let v5 = Guard::new().version(KylinVersion::V5);
        assert!(
            closed(&v5, "/kylin/api/kg/x")
                && closed(&v5, "/kylin/api/jobs/spark")
                && open(&v5, "/kylin/api/streaming_coordinator/x")
        );
        assert!(closed(&Guard::new().close("/api/admin/**").unwrap(), "/kylin/api/admin/config"));
        let own = Guard::new().close("/api/x*y/*/z").unwrap();
        assert!(closed(&own, "/kylin/api/x12y/a/z") && closed(&own, "/kylin/api/xy/a/z.json"));
        assert!(open(&own, "/kylin/api/xy/z") && open(&own, "/kylin/api/xyz/a/z"));
        for pattern in ["", "api", "/api//x", "/api/**x", "/"] {
            assert!(Guard::new().close(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn clients_of_trusted_networks_get_through() {
        let guard = Guard::new().trust("10.0.0.0/8".parse().unwrap()).trust("2001:db8::/32".parse().unwrap());
        let check = |client: Option<&str>| {
            let client = client.map(|ip| ip.parse().unwrap());
            guard.check(client, &Method::PUT, &normal("/kylin/api/cache/x")).is_ok()
        };
        assert!(check(Some("10.1.2.3")) && check(Some("::ffff:10.1.2.3")) && check(Some("2001:db8::1")));
        assert!(!check(Some("11.1.2.3")) && !check(Some("::1")) && !check(None));
    }

    #[test]
    fn the_header_of_a_forwarded_request_is_removed() {
        let mut headers = HeaderMap::new();
        headers.append("Routed", "true".parse().unwrap());
        headers.append("routed", "false".parse().unwrap());
        headers.append("accept", "x".parse().unwrap());
        strip_internal_headers(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    proptest! {
        /// A path that Tomcat interprets as a closed path is closed in every spelling.
        #[test]
        fn every_spelling_of_a_closed_path_is_closed(noise in prop::collection::vec("|/\\.|;a=b|/|/x/\\.\\.|/%2e", 4), letter in 0..5_usize) {
            let cache = ["cache", "%63ache", "c%61che", "cach%65", "%63%61%63%68%65"][letter];
            let path = format!("/kylin{}/api{}/{cache}{}/x{}/y", noise[0], noise[1], noise[2], noise[3]);
            prop_assert!(closed(&Guard::new(), &path), "{path}");
        }

        #[test]
        fn check_accepts_any_path(path in ".{0,60}") {
            for path in [path.clone(), format!("/kylin/api/{path}")] {
                let _ = NormalizedPath::parse(&path).map(|path| Guard::new().check(OUTSIDE, &Method::GET, &path));
            }
        }
    }
}
