//! Whether two nodes have the same metastore. A node of another cluster behind the same address
//! would show other projects and lose logins.
//!
//! No version of Kylin states this directly. There are three kinds of evidence, from the strongest
//! to the weakest:
//!
//! - the metadata URL, which 2.x-4.x show to an administrator;
//! - the name of the session cookie of Kylin 5;
//! - the ids of projects.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::metadata_url::MetadataUrl;
use crate::cookie::{self, SetCookie};

/// The facts that a node has shown about its metastore so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    url: Option<MetadataUrl>,
    cookie: Option<String>,
    /// Ids by names.
    projects: BTreeMap<String, String>,
}

/// The result of comparing the evidence of two nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Comparison {
    Same,
    Different(Difference),
    /// The two have no kind of evidence in common.
    Unknown,
}

/// The difference between two metastores. It contains no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Difference {
    /// `Display` masks passwords.
    Url {
        one: MetadataUrl,
        other: MetadataUrl,
    },
    Cookie,
    /// A project of this name has another id.
    Project(String),
}

impl Evidence {
    pub(crate) fn of_url(url: MetadataUrl) -> Self {
        Evidence { url: Some(url), ..Evidence::default() }
    }

    /// Learns from the cookies of a response. Kylin 5 sets one with its first response, with or
    /// without a login.
    pub(crate) fn learn_cookies(&mut self, headers: &HeaderMap) {
        let mut names =
            headers.get_all(header::SET_COOKIE).iter().filter_map(|line| Some(SetCookie::parse(line)?.name));
        if let Some(name) = names.find(|name| cookie::is_metastore_digest(name)) {
            self.cookie = String::from_utf8(name.to_vec()).ok();
        }
    }

    /// Learns the metadata URL from the body of `GET /api/admin/config` (2.x-4.x, role ADMIN):
    /// `{"config": "key=value
    ///
    /// …"}`. For any other body, returns `None` and changes nothing.
    pub(crate) fn learn_config(&mut self, body: &[u8]) -> Option<()> {
        #[derive(Deserialize)]
        struct Config {
            config: String,
        }
        let Config { config } = serde_json::from_slice(body).ok()?;
        // Kylin writes the pairs without the escapes of a file. The last pair of a key wins.
        let mut pairs = config.lines().rev().filter_map(|line| line.split_once('='));
        let (_, url) = pairs.find(|(key, _)| key.trim() == "kylin.metadata.url")?;
        self.url = Some(MetadataUrl::parse(url));
        Some(())
    }

    /// Learns the projects from the body of `GET /api/projects`, which is a list, bare or in an
    /// envelope. For any other body, returns `None` and changes nothing.
    pub(crate) fn learn_projects(&mut self, body: &[u8]) -> Option<()> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let data = body.get("data").unwrap_or(&body);
        let mut lists = [Some(data), data.get("projects"), data.get("value")].into_iter().flatten();
        let list = lists.find_map(Value::as_array)?;
        let text = |project: &Value, key: &str| project.get(key).and_then(Value::as_str).map(str::to_owned);
        let projects = list.iter().map(|project| Some((text(project, "name")?, text(project, "uuid")?)));
        self.projects = projects.collect::<Option<_>>()?;
        Some(())
    }

    /// Adds newer evidence, which may be incomplete because a response was missing. Older evidence
    /// stays valid unless the newer evidence contradicts it, which means that the node was
    /// reinstalled.
    pub(crate) fn merge(&mut self, newer: Self) {
        if matches!(newer.compare(self), Comparison::Different(_)) {
            *self = newer;
            return;
        }
        self.url = newer.url.or(self.url.take());
        self.cookie = newer.cookie.or(self.cookie.take());
        if !newer.projects.is_empty() {
            self.projects = newer.projects;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Evidence::default()
    }

    /// Compares the evidence of two nodes; the strongest kind that both have decides.
    ///
    /// It is inferred that the ids of projects tell metastores apart. A copy of a metastore has the
    /// same ids.
    pub(crate) fn compare(&self, other: &Self) -> Comparison {
        let of = |same, difference| if same { Comparison::Same } else { Comparison::Different(difference) };
        if let (Some(one), Some(other)) = (&self.url, &other.url) {
            return of(one.is_same_store(other), Difference::Url { one: one.clone(), other: other.clone() });
        }
        // A URL determines the name of the cookie.
        let digest = |evidence: &Self| {
            evidence.cookie.clone().or_else(|| evidence.url.as_ref().map(MetadataUrl::session_cookie))
        };
        if (self.cookie.is_some() || other.cookie.is_some())
            && let (Some(one), Some(other)) = (digest(self), digest(other))
        {
            return of(one == other, Difference::Cookie);
        }
        let mut result = Comparison::Unknown;
        for (name, id) in &self.projects {
            match other.projects.get(name) {
                Some(other) if other == id => result = Comparison::Same,
                Some(_) => return Comparison::Different(Difference::Project(name.clone())),
                None => {}
            }
        }
        result
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Url { one, other } => write!(f, "the metadata URL is {one} instead of {other}"),
            Difference::Cookie => f.write_str("the session cookie is named after another metastore"),
            // The name comes from another machine.
            Difference::Project(name) => write!(f, "the project {} has another id", name.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";
    const URL: &str = "test_docker@jdbc,url=jdbc:mysql://mysql:3306/kylin?useSSL=false,password=s3cret";

    fn config(url: &str) -> Evidence {
        let mut evidence = Evidence::default();
        let text = format!("kylin.env=PROD\nkylin.metadata.url=old@hbase\nkylin.metadata.url={url}\nkylin.x=y=z\n");
        evidence.learn_config(serde_json::json!({ "config": text }).to_string().as_bytes()).unwrap();
        evidence
    }

    fn cookies(lines: &[&'static str]) -> Evidence {
        let mut evidence = Evidence::default();
        let headers = lines.iter().map(|line| (header::SET_COOKIE, http::HeaderValue::from_static(line))).collect();
        evidence.learn_cookies(&headers);
        evidence
    }

    fn projects(body: &str) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.learn_projects(body.as_bytes()).unwrap();
        evidence
    }

    #[test]
    fn evidence_is_compared_once_both_have_it() {
        let one = projects(r#"[{"name": "learn_kylin", "uuid": "2fbca32a-a33e-4b69-83dd-0bb8b1f8c91b"}]"#);
        assert_eq!(one.compare(&Evidence::default()), Comparison::Unknown);
        let other = projects(r#"[{"name": "learn_kylin", "uuid": "1eaca32a-a33e-4b69-83dd-0bb8b1f8c91b"}]"#);
        assert_eq!(one.compare(&other), Comparison::Different(Difference::Project("learn_kylin".into())));
    }

    #[test]
    fn the_metadata_url_decides() {
        assert_eq!(config(URL).compare(&config(&URL.replace("s3cret", "other"))), Comparison::Same);
        let different = config(URL).compare(&config(&URL.replace("3306", "3307")));
        assert!(matches!(different, Comparison::Different(Difference::Url { .. })));
        let Comparison::Different(different) = different else { panic!("{different:?}") };
        assert!(!format!("{different} {different:?}").contains("s3cret"), "{different}");
        assert!(different.to_string().contains("3307"));
    }

    #[test]
    fn the_cookie_of_kylin_5_decides_where_there_is_no_url() {
        let digest = || {
            cookies(&[
                "x=y",
                "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804=abc; Path=/kylin; HttpOnly",
            ])
        };
        let other = cookies(&["aaaa5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804=abc"]);
        assert_eq!(digest().compare(&digest()), Comparison::Same);
        assert_eq!(digest().compare(&other), Comparison::Different(Difference::Cookie));
        assert_eq!(digest().compare(&cookies(&["JSESSIONID=a"])), Comparison::Unknown);
        assert_eq!(digest().compare(&config(URL)), Comparison::Same);
        assert_eq!(other.compare(&config(URL)), Comparison::Different(Difference::Cookie));
        assert_eq!(digest().cookie.as_deref(), Some(DIGEST));
    }

    #[test]
    fn projects_are_read_in_every_form() {
        let bare = projects(r#"[{"name":"a","uuid":"1","version":"3"},{"name":"b","uuid":"2"}]"#);
        for body in [
            r#"{"code":"000","data":[{"name":"a","uuid":"1"}],"msg":""}"#,
            r#"{"code":"000","data":{"projects":[{"name":"a","uuid":"1"},{"name":"c","uuid":"9"}],"size":2},"msg":""}"#,
            r#"{"code":"000","data":{"value":[{"name":"a","uuid":"1"}],"offset":0},"msg":""}"#,
        ] {
            assert_eq!(bare.compare(&projects(body)), Comparison::Same, "{body}");
        }
        assert_eq!(
            bare.compare(&projects(r#"[{"name":"b","uuid":"3"}]"#)),
            Comparison::Different(Difference::Project("b".into()))
        );
        // Two users may see different projects of one metastore.
        assert_eq!(bare.compare(&projects(r#"[{"name":"c","uuid":"3"}]"#)), Comparison::Unknown);
        assert_eq!(bare.compare(&projects("[]")), Comparison::Unknown);
    }

    #[test]
    fn other_bodies_are_no_evidence_and_change_nothing() {
        let mut evidence = config(URL);
        for body in [&b"<html>"[..], b"{}", b"[]", b"{\"config\":1}", b"{\"config\":\"a=b\"}"] {
            assert!(evidence.learn_config(body).is_none());
        }
        for body in [&b"<html>"[..], b"{}", b"1", b"[{}]", b"[{\"name\":\"a\"}]", b"{\"data\":{}}"] {
            assert!(evidence.learn_projects(body).is_none());
        }
        assert_eq!(evidence, config(URL));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60), json in "[{}\\[\\]\":,a-z]{0,40}") {
            let mut evidence = Evidence::default();
            for body in [&*body, json.as_bytes()] {
                let _ = evidence.learn_config(body);
                let _ = evidence.learn_projects(body);
            }
        }
    }
}
