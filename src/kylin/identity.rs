//! Do two nodes have the same metastore? Nodes of another cluster behind one address would show other projects, and lose logins.
//!
//! No Kylin says it plainly. There are three signs, from the strongest: the metadata URL, which 2.x-4.x show to an administrator;
//! the name of the session cookie of Kylin 5; and the ids of projects.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::metadata_url::MetadataUrl;
use crate::cookie::{self, SetCookie};

/// What is known of a node's metastore; more can be learned at any time.
///
/// ```
/// use kylin_lb::kylin::identity::{Evidence, Identity};
///
/// let mut one = Evidence::default();
/// one.learn_projects(br#"[{"name": "learn_kylin", "uuid": "2fbca32a-a33e-4b69-83dd-0bb8b1f8c91b"}]"#)?;
/// let mut other = Evidence::default();
/// assert_eq!(one.compare(&other), Identity::Unknown);
/// other.learn_projects(br#"[{"name": "learn_kylin", "uuid": "1eaca32a-a33e-4b69-83dd-0bb8b1f8c91b"}]"#)?;
/// assert_eq!(one.compare(&other).to_string(), "different: project learn_kylin is another one");
/// # Ok::<(), kylin_lb::kylin::identity::NotUnderstood>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    url: Option<MetadataUrl>,
    cookie: Option<String>,
    projects: BTreeMap<String, String>,
}

/// What a comparison comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// The same metastore.
    Same,
    /// Another one.
    Different(Difference),
    /// There is nothing to compare.
    Unknown,
}

/// Why two metastores are not the same. Holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The metadata URLs, shown without passwords.
    Url {
        /// Of the one.
        one: MetadataUrl,
        /// Of the other.
        other: MetadataUrl,
    },
    /// The cookies of Kylin 5.
    Cookie,
    /// A project with the same name and another id.
    Project(String),
}

/// An answer that is not what Kylin gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("answer is not {0}")]
pub struct NotUnderstood(&'static str);

impl Evidence {
    /// Learns from the cookies that an answer sets. Kylin 5 sets one with its first answer, login or not.
    pub fn learn_cookies(&mut self, headers: &HeaderMap) {
        let mut names =
            headers.get_all(header::SET_COOKIE).iter().filter_map(|line| Some(SetCookie::parse(line)?.name));
        if let Some(name) = names.find(|name| cookie::is_metastore_digest(name)) {
            self.cookie = String::from_utf8(name.to_vec()).ok();
        }
    }

    /// Learns from the body of `GET /api/admin/config` (2.x-4.x, role ADMIN): `{"config": "key=value\n…"}`. Only the metadata URL
    /// is kept.
    ///
    /// # Errors
    /// [`NotUnderstood`] for another body, or one without the URL.
    pub fn learn_config(&mut self, body: &[u8]) -> Result<(), NotUnderstood> {
        #[derive(Deserialize)]
        struct Config {
            config: String,
        }
        let wrong = NotUnderstood("the configuration of a node");
        let Config { config } = serde_json::from_slice(body).map_err(|_| wrong)?;
        // Kylin writes the pairs as they are, without the escapes of a file. Of one that comes twice, the last counts.
        let mut pairs = config.lines().rev().filter_map(|line| line.split_once('='));
        let (_, url) = pairs.find(|(key, _)| key.trim() == "kylin.metadata.url").ok_or(wrong)?;
        self.url = Some(MetadataUrl::parse(url));
        Ok(())
    }

    /// Learns the metadata URL itself, as from a file of properties.
    pub fn learn_url(&mut self, url: MetadataUrl) {
        self.url = Some(url);
    }

    /// Learns from the body of `GET /api/projects`, in any of its forms: the list itself, or in an envelope. Replaces what was
    /// known of projects.
    ///
    /// # Errors
    /// [`NotUnderstood`] for another body.
    pub fn learn_projects(&mut self, body: &[u8]) -> Result<(), NotUnderstood> {
        let wrong = NotUnderstood("a list of projects");
        let answer: Value = serde_json::from_slice(body).map_err(|_| wrong)?;
        let data = answer.get("data").unwrap_or(&answer);
        let list =
            [Some(data), data.get("projects"), data.get("value")].into_iter().flatten().find_map(Value::as_array);
        let text = |project: &Value, key: &str| project.get(key).and_then(Value::as_str).map(str::to_owned);
        let projects = list.ok_or(wrong)?.iter().map(|project| Some((text(project, "name")?, text(project, "uuid")?)));
        self.projects = projects.collect::<Option<_>>().ok_or(wrong)?;
        Ok(())
    }

    /// Takes in what was learned now, of which a part may be missing because an answer was. What was known and is not said
    /// again still holds, unless something else is not what it was: then the node was set up anew, and all of it is old.
    pub(crate) fn renew(&mut self, now: Self) {
        let moved = matches!(now.compare(self), Identity::Different(_))
            || now.url.as_ref().zip(self.url.as_ref()).is_some_and(|(now, old)| !now.is_same_store(old))
            || now.cookie.as_ref().zip(self.cookie.as_ref()).is_some_and(|(now, old)| now != old);
        if moved {
            *self = now;
        } else {
            self.url = now.url.or(self.url.take());
            self.cookie = now.cookie.or(self.cookie.take());
            if !now.projects.is_empty() {
                self.projects = now.projects;
            }
        }
    }

    /// Takes in what `other`, which is of the same metastore, shows beyond this. Projects come and go: its are the newer ones.
    pub(crate) fn add(&mut self, other: &Self) {
        self.renew(other.clone());
    }

    /// Is anything known?
    pub fn is_empty(&self) -> bool {
        *self == Evidence::default()
    }

    /// Compares what is known of two nodes; the strongest sign that both have decides.
    ///
    /// That the ids of projects tell metastores apart is inferred. A metastore that was copied has the same ids.
    pub fn compare(&self, other: &Self) -> Identity {
        let of = |same, difference| if same { Identity::Same } else { Identity::Different(difference) };
        let digest = |evidence: &Self| {
            evidence.cookie.clone().or_else(|| evidence.url.as_ref().map(MetadataUrl::session_cookie))
        };
        match (&self.url, &other.url) {
            (Some(one), Some(two)) => {
                return of(one.is_same_store(two), Difference::Url { one: one.clone(), other: two.clone() });
            }
            // A URL gives the cookie that it would lead to.
            _ if self.cookie.is_some() || other.cookie.is_some() => {
                if let (Some(one), Some(two)) = (digest(self), digest(other)) {
                    return of(one == two, Difference::Cookie);
                }
            }
            _ => {}
        }
        let mut shared =
            self.projects.iter().filter_map(|(name, uuid)| Some((name, uuid, other.projects.get(name)?))).peekable();
        if shared.peek().is_none() {
            return Identity::Unknown;
        }
        match shared.find(|(_, one, two)| one != two) {
            Some((name, ..)) => Identity::Different(Difference::Project(name.clone())),
            None => Identity::Same,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Same => f.write_str("same"),
            Identity::Unknown => f.write_str("unknown"),
            Identity::Different(difference) => write!(f, "different: {difference}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Url { one, other } => write!(f, "metadata is at {one} here and at {other} there"),
            Difference::Cookie => f.write_str("session cookies are named after another metastore"),
            // A name from another machine may hold anything.
            Difference::Project(name) => write!(f, "project {} is another one", name.escape_debug()),
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

    fn cookies(fields: &[&'static str]) -> Evidence {
        let mut evidence = Evidence::default();
        let headers = fields.iter().map(|field| (header::SET_COOKIE, http::HeaderValue::from_static(field))).collect();
        evidence.learn_cookies(&headers);
        evidence
    }

    fn projects(body: &str) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.learn_projects(body.as_bytes()).unwrap();
        evidence
    }

    #[test]
    fn the_metadata_url_decides() {
        assert_eq!(config(URL).compare(&config(&URL.replace("s3cret", "other"))), Identity::Same);
        let different = config(URL).compare(&config(&URL.replace("3306", "3307")));
        assert!(matches!(different, Identity::Different(Difference::Url { .. })));
        assert!(!format!("{different} {different:?}").contains("s3cret"), "{different}");
        assert!(format!("{different}").contains("3307"));
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
        assert_eq!(digest().compare(&digest()), Identity::Same);
        assert_eq!(digest().compare(&other), Identity::Different(Difference::Cookie));
        assert_eq!(digest().compare(&cookies(&["JSESSIONID=a"])), Identity::Unknown);
        assert_eq!(digest().compare(&config(URL)), Identity::Same);
        assert_eq!(other.compare(&config(URL)), Identity::Different(Difference::Cookie));
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
            assert_eq!(bare.compare(&projects(body)), Identity::Same, "{body}");
        }
        assert_eq!(
            bare.compare(&projects(r#"[{"name":"b","uuid":"3"}]"#)),
            Identity::Different(Difference::Project("b".into()))
        );
        // Two users may see different projects of one metastore.
        assert_eq!(bare.compare(&projects(r#"[{"name":"c","uuid":"3"}]"#)), Identity::Unknown);
        assert_eq!(bare.compare(&projects("[]")), Identity::Unknown);
    }

    #[test]
    fn other_answers_are_not_understood_and_change_nothing() {
        let mut evidence = config(URL);
        for body in [&b"<html>"[..], b"{}", b"[]", b"{\"config\":1}", b"{\"config\":\"a=b\"}"] {
            assert!(evidence.learn_config(body).is_err());
        }
        for body in [&b"<html>"[..], b"{}", b"1", b"[{}]", b"[{\"name\":\"a\"}]", b"{\"data\":{}}"] {
            assert!(evidence.learn_projects(body).is_err());
        }
        assert_eq!(evidence, config(URL));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..60), json in "[{}\\[\\]\":,a-z]{0,40}") {
            let mut evidence = Evidence::default();
            for body in [&*body, json.as_bytes()] {
                let _ = evidence.learn_config(body);
                let _ = evidence.learn_projects(body);
            }
        }
    }
}
