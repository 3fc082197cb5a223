use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;

use super::{NormalizedPath, normalise};

/// The target of a request. Decisions use only its normalised path; error messages show it as
/// written.
#[derive(Debug)]
pub(crate) struct RequestTarget {
    raw: Option<PathAndQuery>,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    Unread,
    /// The path is already in normal form.
    AsWritten,
    Resolved(Box<str>),
    Ambiguous,
}

impl RequestTarget {
    pub(crate) fn new(raw: Option<PathAndQuery>) -> Self {
        RequestTarget { raw, reading: Reading::Unread }
    }

    /// Reads the target of a URI, with its path.
    pub(crate) fn of(uri: &Uri) -> Self {
        let mut target = Self::new(uri.path_and_query().cloned());
        target.read_path();
        target
    }

    /// Normalises the path. Before this call, the target has no path.
    pub(crate) fn read_path(&mut self) {
        self.reading = match normalise(self.as_written()) {
            Ok(Cow::Borrowed(_)) => Reading::AsWritten,
            Ok(Cow::Owned(path)) => Reading::Resolved(path.into_boxed_str()),
            Err(_) => Reading::Ambiguous,
        };
    }

    /// Returns the normalised path; `None` if it was not read or is ambiguous.
    pub(crate) fn path(&self) -> Option<NormalizedPath<'_>> {
        match &self.reading {
            Reading::AsWritten => Some(NormalizedPath(Cow::Borrowed(self.as_written()))),
            Reading::Resolved(path) => Some(NormalizedPath(Cow::Borrowed(path))),
            Reading::Unread | Reading::Ambiguous => None,
        }
    }

    /// Returns the session id that the path carries as `;jsessionid=` (Servlet specification,
    /// 7.1.3), which servers write for a client without cookies. If there are several, the last one
    /// counts, as in Tomcat. The id is as secret as the cookie. An ambiguous path has none.
    ///
    /// It is unverified that Kylin's Tomcat writes such ids. That it accepts them is Tomcat's
    /// default.
    pub(crate) fn session_id(&self) -> Option<&str> {
        match self.reading {
            Reading::Resolved(_) => session_id(self.as_written()),
            Reading::AsWritten | Reading::Unread | Reading::Ambiguous => None,
        }
    }

    /// Returns the query without its question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.raw.as_ref().and_then(PathAndQuery::query)
    }

    /// Returns the path as the client wrote it, for messages to the client.
    pub(crate) fn as_written(&self) -> &str {
        self.raw.as_ref().map_or("", PathAndQuery::path)
    }
}

fn session_id(path: &str) -> Option<&str> {
    if !path.contains(';') {
        return None;
    }
    let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
    parameters.filter_map(|parameter| parameter.strip_prefix("jsessionid=")).filter(|id| !id.is_empty()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_id_is_found_in_any_segment() {
        for (path, expected) in [
            ("/kylin/api/query;jsessionid=AB.r1?x=1", Some("AB.r1")),
            ("/kylin;jsessionid=A/api;x=1;jsessionid=B/", Some("B")),
            ("/kylin?;jsessionid=A", None),
            ("/kylin;jsessionid=", None),
            ("/jsessionid=A", None),
            ("/a;JSESSIONID=A", None),
            // A path that Tomcat may interpret differently decides nothing.
            ("/a%2f;jsessionid=A", None),
        ] {
            let mut target = RequestTarget::new(Some(path.parse().unwrap()));
            assert_eq!(target.session_id(), None, "the path was not read yet");
            target.read_path();
            assert_eq!(target.session_id(), expected, "{path}");
        }
    }

    #[test]
    fn an_ambiguous_path_is_none() {
        let mut target = RequestTarget::new(Some("/a%2fb?x".parse().unwrap()));
        target.read_path();
        assert_eq!(target.path(), None);
        assert_eq!((target.as_written(), target.query()), ("/a%2fb", Some("x")));
    }
}
