//! Which cookies are Kylin's sessions.

/// The session cookie of Kylin 2.x-4.x and of every servlet container by default.
pub const JSESSIONID: &str = "JSESSIONID";

/// Is a cookie of this name a Kylin session? `JSESSIONID` for 2.x-4.x; 64 lower-case hexadecimal digits for 5, which
/// names the cookie by a digest of its metastore (apache/kylin kylin5 BootstrapServer.java:102-110).
///
/// ```
/// use kylin_lb::kylin::cookie::is_session;
///
/// assert!(is_session("JSESSIONID"));
/// assert!(is_session("ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804"));
/// assert!(!is_session("ROUTE"));
/// ```
pub fn is_session(name: &str) -> bool {
    name == JSESSIONID || is_metastore_digest(name)
}

/// Is this the name that Kylin 5 gives the cookie? Two nodes with different names have different metastores.
pub fn is_metastore_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name and the value of a `Set-Cookie` field, attributes left off.
pub fn set_cookie(field: &str) -> Option<(&str, &str)> {
    let pair = field.split(';').next().unwrap_or_default();
    let (name, value) = pair.split_once('=')?;
    let name = name.trim();
    (!name.is_empty()).then(|| (name, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_of_the_right_length_and_case_are_sessions() {
        let digest = "ce8a5bd5b23fe84d1894dce1bd9399364ba5af3c7a25f025442c92244c729804";
        assert!(is_session(digest) && is_metastore_digest(digest));
        assert!(!is_session(&digest[1..]));
        assert!(!is_session(&digest.to_uppercase()));
        assert!(!is_session(&digest.replace('c', "g")));
        assert!(!is_session("jsessionid") && !is_session(""));
        assert!(!is_metastore_digest(JSESSIONID));
    }

    #[test]
    fn a_set_cookie_is_cut_at_its_attributes() {
        assert_eq!(set_cookie("JSESSIONID=A=B; Path=/kylin/; HttpOnly"), Some(("JSESSIONID", "A=B")));
        assert_eq!(set_cookie(" x = y "), Some(("x", "y")));
        assert_eq!(set_cookie("=y"), None);
        assert_eq!(set_cookie("; x=y"), None);
    }
}
