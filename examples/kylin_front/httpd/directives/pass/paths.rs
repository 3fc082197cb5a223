//! The path of a request in two forms: as Tomcat reads it, and with its parameters
//! (`;jsessionid=...`).

use std::borrow::Cow;

use kylin_lb::kylin::NormalizedPath;
use percent_encoding::percent_decode_str;

use super::escape;

/// A decoded path in two forms. Tomcat's form selects directives. Nodes and redirects get the other
/// form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The path as Tomcat reads it, without parameters.
    pub read: String,
    /// The path as httpd reads it, with parameters.
    pub full: String,
}

impl Paths {
    /// Returns the forms of a path. `raw` is the path as the client wrote it, without its query;
    /// `read` is that path as Tomcat reads it.
    pub fn of(raw: &str, read: &str) -> Self {
        let full = if raw.contains(';') { with_parameters(raw) } else { None };
        Paths { read: read.to_owned(), full: full.unwrap_or_else(|| read.to_owned()) }
    }

    /// Returns the path as httpd compares it, if that differs. It has parameters, with any escapes,
    /// and nodes do not get it.
    pub fn compared(raw: &str) -> Option<String> {
        raw.contains(';')
            .then(|| joined(raw, |text| Some(percent_decode_str(text).decode_utf8_lossy().into_owned())))?
    }

    /// Returns both forms of the text that `fill` makes of a path. If it makes none of the path
    /// with parameters, both forms are the same.
    pub fn filled(&self, fill: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let read = fill(&self.read)?;
        let full = if self.full == self.read { None } else { fill(&self.full) };
        Some(Paths { full: full.unwrap_or_else(|| read.clone()), read })
    }

    /// Returns the form with parameters if it differs only by them, else the form without.
    pub fn agreed(&self) -> &str {
        match without_parameters(&self.full) == without_parameters(&self.read) {
            true => &self.full,
            false => &self.read,
        }
    }

    /// Returns the path after a prefix, escaped for the node.
    ///
    /// # Errors
    /// The node would read another path, for example because of dots.
    pub fn escaped(&self, prefix: &str) -> Result<String, ()> {
        let behind = |path: &str| match format!("{prefix}{path}") {
            path if path.starts_with('/') => path,
            path => format!("/{path}"),
        };
        let read = behind(&self.read);
        let wanted = without_parameters(&read);
        let sent = [behind(self.agreed()), read.clone()].map(|path| escape(&path));
        let is_wanted = |sent: &String| NormalizedPath::parse(sent).is_ok_and(|path| path.as_str() == wanted);
        sent.into_iter().find(is_wanted).ok_or(())
    }
}

/// Decodes a path and resolves its dots, as Tomcat does, but keeps its parameters. Returns `None`
/// if a parameter has an escape that could be read differently once it is decoded.
fn with_parameters(raw: &str) -> Option<String> {
    joined(raw, |segment| {
        let (name, parameters) = segment.split_at(segment.find(';').unwrap_or(segment.len()));
        let decode = |text| percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned);
        let (name, decoded) = (decode(name)?, decode(parameters)?);
        let count = |text: &str| text.matches(';').count();
        let is_special = |c: char| matches!(c, '/' | '\\' | '%' | '?' | '#') || c.is_control();
        let is_readable = !decoded.contains(is_special) && count(&decoded) == count(parameters);
        is_readable.then(|| name + &decoded)
    })
}

/// Decodes the segments of a path and resolves its dots.
fn joined(raw: &str, decode: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut segments = raw.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        let decoded = decode(segment)?;
        match decoded.split(';').next().unwrap_or_default() {
            "" | "." if segments.peek().is_some() => {}
            ".." => _ = kept.pop(),
            _ => kept.push(decoded),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stay_where_the_node_reads_the_same_path() {
        for (raw, wanted) in [
            ("/kylin/login;jsessionid=1.n2", "/kylin/login;jsessionid=1.n2"),
            ("/kylin/;jsessionid=1.n2", "/kylin/;jsessionid=1.n2"),
            ("/a;x=1/b;y=2/", "/a;x=1/b;y=2/"),
            ("/a;x=%41/b%20c", "/a;x=A/b%20c"),
            ("/a;x/../b;y", "/b;y"),
            ("/a/..;x/b;y", "/b;y"),
            ("/;x/./b", "/b"),
            ("/a;x=%2F..%2Fb", "/a"),
            ("/a;x=%3By", "/a"),
            ("/a;x=%3Fy", "/a"),
            ("/a;x=%0Ay", "/a"),
            ("/a;x=%25y", "/a"),
            ("/a;x=%FFy", "/a"),
        ] {
            let read = NormalizedPath::parse(raw).unwrap();
            assert_eq!(Paths::of(raw, read.as_str()).escaped("").as_deref(), Ok(wanted), "{raw}");
        }
    }

    #[test]
    fn a_path_with_dots_or_empty_segments_is_an_error() {
        for path in ["/a/../b", "/a//b", "/a/..;x/b", "/a/.;x", "/..;x"] {
            assert_eq!(Paths { read: path.to_owned(), full: path.to_owned() }.escaped(""), Err(()), "{path}");
        }
    }
}
