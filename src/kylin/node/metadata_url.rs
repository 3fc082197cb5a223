//! `kylin.metadata.url`: the address of a metastore. Nodes with the same metastore form one
//! cluster.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The default identifier (apache/kylin 3.1.3 StorageURL.java:58-100).
const DEFAULT_IDENTIFIER: &str = "kylin_metadata";

/// Replaces a secret in output.
const MASK: &str = "***";

/// A metadata URL: `IDENTIFIER@SCHEME[,name=value]…`.
///
/// The grammar is Kylin's (StorageURL.java:58-100). Every comma separates, so a value cannot
/// contain one. The first part is split at its last `@`, every other part at its first `=`, and
/// blanks are trimmed. Every text is a valid URL.
///
/// `Display` and `Debug` mask passwords.
///
/// ```
/// use kylin_lb::kylin::MetadataUrl;
///
/// let url: MetadataUrl = "prod@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=secret".parse()?;
/// assert_eq!((url.identifier(), url.scheme(), url.parameter("username")), ("prod", "jdbc", Some("kylin")));
/// assert_eq!(url.to_string(), "prod@jdbc,url=jdbc:mysql://db:3306/kylin,username=kylin,password=***");
/// # Ok::<(), std::convert::Infallible>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct MetadataUrl {
    identifier: String,
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl MetadataUrl {
    /// Parses a URL.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(',').map(str::trim);
        let first = parts.next().unwrap_or_default();
        let (identifier, scheme) = first.rsplit_once('@').unwrap_or((first, ""));
        let identifier = match identifier.trim() {
            "" => DEFAULT_IDENTIFIER,
            identifier => identifier,
        };
        let mut parameters: Vec<(String, String)> = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim().to_owned());
            // Kylin puts parameters into a map, so the last one of a name wins.
            match parameters.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => parameters.push((name.to_owned(), value)),
            }
        }
        MetadataUrl { identifier: identifier.to_owned(), scheme: scheme.trim().to_owned(), parameters }
    }

    /// Returns the identifier of the metastore in its store, which is the prefix of its tables.
    ///
    /// It is also the name of the cluster, unless `kylin.server.cluster-name` is set.
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Returns the kind of store, such as `hbase`, `jdbc` or `hdfs`. Empty if the URL has none.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns a parameter by its name. The value may be a password.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns whether both URLs name the same metastore: identifier, scheme and the parameter
    /// `url` are equal.
    ///
    /// Passwords and pool sizes may differ. Only the text is compared, so two names of one database
    /// server count as two metastores.
    pub fn is_same_store(&self, other: &Self) -> bool {
        let store = |url: &Self| url.parameter("url").map(str::to_owned);
        self.identifier == other.identifier
            && self.scheme.eq_ignore_ascii_case(&other.scheme)
            && store(self) == store(other)
    }

    /// Returns the name of Kylin 5's session cookie: the SHA-256, in hexadecimal, of identifier,
    /// `_` and the parameter `url`.
    ///
    /// `_` replaces each character that is not a letter, digit or `_` (kylin5
    /// BootstrapServer.java:102-110). It is inferred that a URL without the parameter counts as an
    /// empty one.
    pub fn session_cookie(&self) -> String {
        let name = self.unique(self.parameter("url").unwrap_or_default());
        let mut hex = String::with_capacity(64);
        for byte in Sha256::digest(name.as_bytes()) {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// Returns the name of the znode below `/kylin` under which Kylin 5 registers.
    ///
    /// It consists of the identifier, `_`, and the parameter `url` up to its `?`. `_` replaces each
    /// character that is not a letter, digit or `_` (kylin5 KylinConfigBase.java:601-612).
    pub fn unique_id(&self) -> String {
        let url = self.parameter("url").unwrap_or_default();
        self.unique(url.split('?').next().unwrap_or_default())
    }

    fn unique(&self, url: &str) -> String {
        let text = format!("{}_{url}", self.identifier);
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect()
    }
}

impl FromStr for MetadataUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(MetadataUrl::parse(text))
    }
}

impl fmt::Display for MetadataUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All text before the last `@` of the first part is the identifier, even
        // `user:password@host`.
        match self.identifier.rsplit_once('@') {
            Some((_, identifier)) => write!(f, "{MASK}@{identifier}")?,
            None => f.write_str(&self.identifier)?,
        }
        if !self.scheme.is_empty() {
            write!(f, "@{}", self.scheme)?;
        }
        for (name, value) in &self.parameters {
            match value.as_str() {
                // A parameter without a value could be the second half of a password that contains
                // a comma.
                "" if !is_plain(name) => write!(f, ",{MASK}")?,
                "" => write!(f, ",{name}=")?,
                _ if is_secret(name) => write!(f, ",{name}={MASK}")?,
                value => write!(f, ",{name}={}", Masked(value))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for MetadataUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetadataUrl({self})")
    }
}

/// Returns whether a property or parameter of this name is secret.
pub(in crate::kylin) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["password", "passwd", "pwd", "secret", "token", "credential", "private", "access-key", "accesskey", "passphrase"]
        .iter()
        .any(|word| name.contains(word))
}

/// Returns whether this is the name of a parameter that may have no value.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphabetic())
        && !is_secret(name)
        && ["url", "username", "password", "driverClassName", "maxActive", "maxIdle", "maxWait", "zookeeper"]
            .contains(&name)
}

/// Shows the URL of a database with its secrets masked: `user:password@`, and `password=` among its
/// parameters.
struct Masked<'u>(&'u str);

impl fmt::Display for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        // This includes `jdbc:oracle:thin:user/password@host`. If the `@` is in a parameter, too
        // much is masked, never too little.
        if let Some(at) = rest.rfind('@') {
            let kept = rest[..at].find("//").map_or("", |slashes| &rest[..slashes + 2]);
            write!(f, "{kept}{MASK}")?;
            rest = &rest[at..];
        }
        let mut begin = 0;
        for (at, separator) in rest.match_indices(['?', '&', ';']).chain([(rest.len(), "")]) {
            let parameter = &rest[begin..at];
            match parameter.split_once('=') {
                Some((name, _)) if is_secret(name) => write!(f, "{name}={MASK}")?,
                _ => f.write_str(parameter)?,
            }
            f.write_str(separator)?;
            begin = at + separator.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_urls_as_kylin_does() {
        for (text, identifier, scheme, url) in [
            ("kylin_metadata@hbase", "kylin_metadata", "hbase", None),
            ("", "kylin_metadata", "", None),
            ("@hdfs", "kylin_metadata", "hdfs", None),
            ("a", "a", "", None),
            ("a@b@jdbc", "a@b", "jdbc", None),
            (" k @ jdbc , url = jdbc:postgresql://h/k?a=b , x", "k", "jdbc", Some("jdbc:postgresql://h/k?a=b")),
            ("k@jdbc,url=a,url=b", "k", "jdbc", Some("b")),
            ("k@jdbc,url=jdbc:mysql://h1,h2/kylin", "k", "jdbc", Some("jdbc:mysql://h1")),
        ] {
            let read = MetadataUrl::parse(text);
            assert_eq!((read.identifier(), read.scheme(), read.parameter("url")), (identifier, scheme, url), "{text}");
        }
        assert_eq!(MetadataUrl::parse("k@jdbc,x").parameter("x"), Some(""));
    }

    /// The test vector of kylin5's test of BootstrapServer.
    #[test]
    fn the_cookie_of_kylin_5_is_named_by_the_store() {
        let url = MetadataUrl::parse(
            "test_docker@jdbc,driverClassName=com.mysql.jdbc.Driver,url=jdbc:mysql://mysql:3306/kylin?useSSL=false,username=root,password=x",
        );
        assert_eq!(url.session_cookie(), "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804");
        assert_eq!(url.unique_id(), "test_docker_jdbc_mysql___mysql_3306_kylin");
    }

    #[test]
    fn passwords_and_pool_sizes_do_not_matter() {
        let base = MetadataUrl::parse("k@jdbc,url=jdbc:mysql://h/k,username=a,password=b,maxActive=10");
        let same = |text: &str| base.is_same_store(&MetadataUrl::parse(text));
        assert!(same("k@JDBC,password=c,url=jdbc:mysql://h/k,maxActive=5"));
        assert!(!same("other@jdbc,url=jdbc:mysql://h/k") && !same("k@hbase,url=jdbc:mysql://h/k"));
        assert!(!same("k@jdbc,url=jdbc:mysql://h2/k") && !same("k@jdbc"));
    }

    #[test]
    fn secrets_are_never_shown() {
        for text in [
            "k@jdbc,url=jdbc:mysql://h/k,password=s3cret",
            "k@jdbc,url=jdbc:mysql://h/k,password=x,s3cret",
            "k@jdbc,url=jdbc:mysql://root:s3cret@h/k",
            "k@jdbc,url=jdbc:mysql://root:a/s3cret@h/k",
            "k@jdbc,url=jdbc:mysql://h/k?user=a&password=s3cret&b=c",
            "k@jdbc,url=jdbc:sqlserver://h;password=s3cret;x=y",
            "k@jdbc,url=jdbc:oracle:thin:scott/s3cret@h:1521:k",
            "k@jdbc,url=jdbc:oracle:thin:scott/s3cret@//h:1521/k",
            "root:s3cret@k@jdbc",
            "k@jdbc,trustStorePassword=s3cret",
        ] {
            let url = MetadataUrl::parse(text);
            assert!(!format!("{url} {url:?}").contains("s3cret"), "{url}");
        }
        let plain = "k@jdbc,url=jdbc:mysql://h:3306/k?useSSL=false&a=b,username=root,maxActive=10";
        assert_eq!(MetadataUrl::parse(plain).to_string(), plain);
    }

    proptest! {
        #[test]
        fn every_text_is_a_url(text in ".{0,60}") {
            let url = MetadataUrl::parse(&text);
            prop_assert_eq!(url.session_cookie().len(), 64);
            let _ = format!("{url} {url:?}");
        }

        /// A URL without secrets survives formatting and parsing.
        #[test]
        fn output_without_secrets_is_parsed_back(identifier in "[a-z]{1,5}", scheme in "[a-z]{1,5}", values in prop::collection::vec("[a-z:/.0-9]{1,9}", 0..4)) {
            let mut text = format!("{identifier}@{scheme}");
            for (at, value) in values.iter().enumerate() {
                let _ = write!(text, ",p{at}={value}");
            }
            let url = MetadataUrl::parse(&text);
            prop_assert_eq!(MetadataUrl::parse(&url.to_string()), url);
        }
    }
}
