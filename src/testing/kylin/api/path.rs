//! Paths and parameters as Tomcat understands them.
//!
//! A front end that closes `/kylin/api/cache/` protects nothing if the node treats
//! `/kylin//api;x=1/cach%65/` as the same path. The node normalises as Tomcat does, with its own
//! code, so that tests find where the two disagree.

/// Returns the path that Tomcat would serve, or `None` if Tomcat returns 400. It does so for a
/// broken escape, for an escaped slash, backslash or NUL, and for a path that climbs above the
/// root.
pub(crate) fn normalise(raw: &str) -> Option<String> {
    // Parameters are removed before decoding, as in CoyoteAdapter.parsePathParameters, so `%3B` is
    // a character of a name.
    let bare: Vec<&str> = raw.split('/').map(|segment| segment.split(';').next().unwrap_or("")).collect();
    let mut kept: Vec<String> = Vec::with_capacity(bare.len());
    for segment in &bare {
        let decoded = decode(segment)?;
        if decoded.contains(['/', '\\', '\0']) {
            return None;
        }
        match decoded.as_str() {
            "" | "." => {}
            ".." => drop(kept.pop()?),
            _ => kept.push(decoded),
        }
    }
    let mut path = String::with_capacity(raw.len());
    for segment in &kept {
        path.push('/');
        path.push_str(segment);
    }
    if kept.is_empty() || matches!(bare.last(), Some(&("" | "." | ".."))) {
        path.push('/');
    }
    Some(path)
}

/// The parameters of a query string or of a form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(text: &str) -> Self {
        Params(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_tomcat_does() {
        for (raw, served) in [
            ("/kylin//api;x=1/cach%65/", "/kylin/api/cache/"),
            ("/kylin/./a/../api/query;jsessionid=1", "/kylin/api/query"),
            ("/", "/"),
            ("/kylin/..", "/"),
            ("/a/%2e%2e/b", "/b"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Some(served), "{raw}");
        }
        for raw in ["/../kylin", "/a%2fb", "/a%5cb", "/a%00", "/a%4", "/a%zz", "/%ff"] {
            assert_eq!(normalise(raw), None, "{raw}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_the_first_of_a_name_counts() {
        let params = Params::parse("sql=select+1%2B1&project=p&project=q&flag");
        assert_eq!(params.value("sql"), Some("select 1+1"));
        assert_eq!(params.value("project"), Some("p"));
        assert_eq!(params.value("flag"), Some(""));
        assert_eq!(params.value("none"), None);
    }
}
