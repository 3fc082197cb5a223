//! `ProxyPass`, `ProxyPassReverse` and `Redirect`: the balancer for a path, the path at its nodes,
//! and the changes to their responses.

mod paths;

use std::borrow::Cow;

use http::StatusCode;
use kylin_lb::kylin::NormalizedPath;
use kylin_lb::nginx::translate_pcre;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::bytes::{Regex, RegexBuilder};

pub use self::paths::Paths;
use crate::httpd::syntax::{Fault, Place, Word};

/// A `ProxyPass` or `ProxyPassMatch`.
#[derive(Debug, Clone)]
pub struct Pass {
    pub place: Place,
    /// The directive as written, for the report.
    pub written: String,
    pub from: From,
    /// The target; `None` for `!`.
    pub to: Option<Target>,
}

/// The paths of a [`Pass`] or [`Redirect`].
#[derive(Debug, Clone)]
pub enum From {
    Prefix(String),
    Pattern(Regex),
}

/// A balancer, and the path at its nodes, which may contain `$1`.
#[derive(Debug, Clone)]
pub struct Target {
    pub balancer: usize,
    /// The URL as written, without the path.
    pub url: String,
    pub path: String,
}

/// A `ProxyPassReverse`: a URL of a node, and the path that replaces it.
#[derive(Debug, Clone)]
pub struct Reverse {
    pub from: String,
    pub to: String,
}

/// A `Redirect` or `RedirectMatch`.
#[derive(Debug, Clone)]
pub struct Redirect {
    pub status: StatusCode,
    /// The paths; `None` for all paths of a section.
    pub from: Option<From>,
    pub to: String,
}

/// The maximum memory of a compiled expression, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// The reason why a `;` in a path or expression matches nothing.
pub const NO_PARAMETERS: &str = "paths are compared without parameters such as ;jsessionid=, as Tomcat reads them";
const WITHOUT_PARAMETERS: &str = "a path or expression without ;, which applies to the path with any parameters";

/// The bytes that are escaped in a path, as by httpd's `ap_os_escape_path`.
const ESCAPED: &AsciiSet = &{
    let (mut set, kept, mut index) = (NON_ALPHANUMERIC.remove(b'/'), b"$-_.+!*'(),:;@&=~", 0);
    while index < kept.len() {
        set = set.remove(kept[index]);
        index += 1;
    }
    set
};

/// Escapes a path.
pub fn escape(path: &str) -> String {
    utf8_percent_encode(path, ESCAPED).to_string()
}

/// Compiles an expression.
pub fn pattern(word: &Word) -> Result<Regex, Fault> {
    pattern_of(&word.text, false, word)
}

/// Compiles an expression for paths without parameters, where a `;` would have no effect.
pub fn pattern_without_parameters(word: &Word) -> Result<Regex, Fault> {
    check_parameters(word)?;
    pattern(word)
}

/// Checks that a path or expression has no `;`.
pub fn check_parameters(word: &Word) -> Result<(), Fault> {
    match word.text.contains(';') {
        true => Err(word.fault(format!("a ; in \"{}\": {NO_PARAMETERS}", word.text), WITHOUT_PARAMETERS)),
        false => Ok(()),
    }
}

/// Compiles the expression of a word.
pub fn pattern_of(text: &str, ignores_case: bool, word: &Word) -> Result<Regex, Fault> {
    word.defined()?;
    let text = translate_pcre(text).map_err(|error| word.fault(error.to_string(), error.expected()))?;
    let mut builder = RegexBuilder::new(&text);
    builder.case_insensitive(ignores_case).unicode(false).size_limit(MAX_COMPILED_BYTES).build().map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        word.fault(
            format!("regular expression not understood: {reason}"),
            "an expression without look-around and backreferences",
        )
    })
}

/// Converts a replacement of httpd, with `$1` and backslash escapes, to the syntax of the crate
/// `regex`.
pub fn replacement(text: &str) -> String {
    let mut to = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('$') => to.push_str("$$"),
                Some(c) => to.push(c),
                None => to.push('\\'),
            },
            '$' => match chars.next_if(char::is_ascii_digit) {
                Some(digit) => to.extend(["${", &digit.to_string(), "}"]),
                None => to.push_str("$$"),
            },
            c => to.push(c),
        }
    }
    to
}

/// Returns the number of bytes of a path that a prefix covers, as httpd's `alias_match`. A prefix
/// without a trailing slash covers whole segments.
fn covers(prefix: &str, path: &str) -> Option<usize> {
    let mut rest = path;
    let mut segments = prefix.split('/').peekable();
    // Any number of slashes in the prefix matches one or more in the path.
    while let Some(segment) = segments.next() {
        rest = rest.strip_prefix(segment)?;
        if segments.peek().is_some() {
            let bare = rest.trim_start_matches('/');
            if bare.len() == rest.len() {
                return None;
            }
            rest = bare;
            while segments.peek().is_some_and(|next| next.is_empty()) {
                segments.next();
            }
        }
    }
    let is_whole = prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/');
    (is_whole && !prefix.is_empty()).then(|| path.len() - rest.len())
}

/// Returns whether a path is that of a `<Location>`, or below it.
pub fn is_below(location: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(location) else { return false };
    location.ends_with('/') || rest.is_empty() || rest.starts_with('/')
}

impl Pass {
    /// Returns the URL to which a request is sent, up to the slash that begins its path.
    /// `<Proxy URL>` is compared with it.
    pub fn url(&self, path: &str) -> Option<String> {
        let target = self.to.as_ref()?;
        let is_bare = target.path.is_empty()
            && match &self.from {
                From::Prefix(_) => self.from.covers(path) == Some(path.len()),
                From::Pattern(_) => false,
            };
        let is_bare = is_bare
            || target.path.contains('$') && self.from.fill(path, &target.path).is_some_and(|path| path.is_empty());
        Some(if is_bare { target.url.clone() } else { format!("{}/", target.url) })
    }
}

impl From {
    /// Returns the number of bytes of a path that are covered.
    pub fn covers(&self, path: &str) -> Option<usize> {
        match self {
            From::Prefix(prefix) => covers(prefix, path),
            From::Pattern(pattern) => pattern.is_match(path.as_bytes()).then_some(path.len()),
        }
    }

    /// Returns `to` with the groups of an expression filled in.
    fn fill(&self, path: &str, to: &str) -> Option<String> {
        let From::Pattern(pattern) = self else { return None };
        let captures = pattern.captures(path.as_bytes())?;
        let mut filled = Vec::new();
        captures.expand(replacement(to).as_bytes(), &mut filled);
        String::from_utf8(filled).ok()
    }
}

/// Returns the path and query for the node; `None` if they are unchanged. `prefix` is the path of
/// all members.
///
/// # Errors
/// The node would read another path, for example because of dots.
pub fn sent_path(from: &From, target: &Target, prefix: &str, raw: &str, path: &str) -> Result<Option<String>, ()> {
    let (raw, query) = raw.split_once('?').map_or((raw, None), |(raw, query)| (raw, Some(query)));
    let read = |text: &str| NormalizedPath::parse(text).map(|path| path.as_str().to_owned()).map_err(|_| ());
    let new = match from {
        From::Prefix(of) => {
            let covered = from.covers(path).ok_or(())?;
            let to = format!("{prefix}{}", target.path);
            if to == *of || (to.is_empty() && of == "/") {
                return Ok(None);
            }
            let join = |rest: &str| match to.ends_with('/') {
                true => format!("{to}{}", rest.trim_start_matches('/')),
                // A target without a path is the root of its host or balancer.
                false if target.path.is_empty() && !rest.starts_with('/') => format!("{to}/{rest}"),
                false => format!("{to}{rest}"),
            };
            let wanted = read(&join(&escape(&path[covered..])))?;
            // Parameters may contain a session id, and escapes may matter. So the path stays as the
            // client wrote it, if the node reads the same path.
            let as_written = raw.strip_prefix(of.as_str()).filter(|rest| rest.contains([';', '%'])).map(join);
            match as_written.filter(|new| read(new).is_ok_and(|read| read == wanted)) {
                Some(new) => new,
                None => join(&escape(&path[covered..])),
            }
        }
        From::Pattern(_) if target.path.contains('$') => {
            let filled = Paths::of(raw, path).filled(|path| from.fill(path, &target.path)).ok_or(())?;
            if !filled.read.is_empty() && !filled.read.starts_with('/') {
                // The value would continue the host name.
                return Err(());
            }
            filled.escaped(prefix)?
        }
        // Without groups in the expression, the path of the request is appended to that of the
        // target.
        From::Pattern(_) => {
            let to = format!("{prefix}{}", target.path.trim_end_matches('/'));
            if to.is_empty() {
                return Ok(None);
            }
            format!("{to}{raw}")
        }
    };
    let new = if new.starts_with('/') { new } else { format!("/{new}") };
    Ok(Some(match query {
        Some(query) => format!("{new}?{query}"),
        None => new,
    }))
}

/// Escapes the path of a URL.
pub fn escape_url(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (host, path) = url.split_at(url[start..].find('/').map_or(url.len(), |at| start + at));
    format!("{host}{}", escape(path))
}

impl Redirect {
    /// Returns the `Location` for a request, if the directive covers its path.
    pub fn location(&self, path: &Paths, query: Option<&str>) -> Option<String> {
        let mut to = match &self.from {
            None => return Some(self.to.clone()),
            Some(From::Prefix(prefix)) => {
                let rest = path.filled(|path| Some(path[covers(prefix, path)?..].to_owned()))?;
                format!("{}{}", self.to, escape(rest.agreed()))
            }
            Some(from @ From::Pattern(_)) => {
                let filled = path.filled(|path| from.fill(path, &self.to))?;
                let filled = filled.agreed();
                // As in httpd, a query and a fragment are not escaped.
                let (path, rest) = filled.split_at(filled.find(['?', '#']).unwrap_or(filled.len()));
                format!("{}{rest}", escape_url(path))
            }
        };
        if let (Some(query), false) = (query, to.contains('?')) {
            to = format!("{to}?{query}");
        }
        Some(to)
    }
}

/// Returns whether browsers read a redirect to this as a path. `//HOST` is another host, even with
/// `\` or with a tab between the slashes.
pub fn is_path(to: &str) -> bool {
    to.strip_prefix('/')
        .is_some_and(|rest| !rest.starts_with(|c: char| matches!(c, '/' | '\\') || c.is_ascii_control()))
}

/// Replaces the first matching prefix in a URL of a node's `Location`, or in the path of a cookie.
pub fn reversed<'r>(value: &str, rules: impl IntoIterator<Item = (Cow<'r, str>, Cow<'r, str>)>) -> Option<String> {
    rules.into_iter().find_map(|(from, to)| {
        let rest = value.strip_prefix(&*from)?;
        // The prefix must not end within a host name or segment.
        let is_whole = from.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?', '#', ';']);
        let joined = match (to.ends_with('/'), rest.starts_with('/')) {
            (true, true) => format!("{to}{}", &rest[1..]),
            (false, false) if !rest.is_empty() && from.ends_with('/') && !rest.starts_with(['?', '#', ';']) => {
                format!("{to}/{rest}")
            }
            _ => format!("{to}{rest}"),
        };
        is_whole.then_some(joined)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_cover_whole_segments() {
        for (prefix, path, wanted) in [
            ("/kylin", "/kylin", Some(6)),
            ("/kylin", "/kylin/api", Some(6)),
            ("/kylin", "/kylinx", None),
            ("/kylin/", "/kylin", None),
            ("/kylin/", "/kylin/api", Some(7)),
            ("/", "/x", Some(1)),
            ("/a//b", "/a/b/c", Some(4)),
        ] {
            assert_eq!(covers(prefix, path), wanted, "{prefix} {path}");
        }
    }

    #[test]
    fn a_node_gets_the_path_with_its_prefix_replaced() {
        let sent = |from: &str, to: &str, raw: &str| {
            let path = NormalizedPath::parse(raw).unwrap();
            let target = Target { balancer: 0, url: String::new(), path: to.to_owned() };
            sent_path(&From::Prefix(from.to_owned()), &target, "", raw, path.as_str())
        };
        assert_eq!(sent("/", "/", "/kylin/a;x=1?q"), Ok(None));
        assert_eq!(sent("/olap/", "/kylin/", "/olap/api/x%20y?q=1"), Ok(Some("/kylin/api/x%20y?q=1".into())));
        assert_eq!(sent("/olap", "/kylin", "/olap"), Ok(Some("/kylin".into())));
        assert_eq!(sent("/olap", "/kylin", "/olap;jsessionid=1.n2/api"), Ok(Some("/kylin;jsessionid=1.n2/api".into())));
        assert_eq!(sent("/olap", "/", "/%6flap/api"), Ok(Some("/api".into())));
        assert_eq!(sent("/olap", "", "/olap"), Ok(Some("/".into())));
        assert_eq!(sent("/olap", "", "/olap?q"), Ok(Some("/?q".into())));
        assert_eq!(sent("/olap", "", "/olap/x"), Ok(Some("/x".into())));
        assert_eq!(sent("/olap", "", "/olap;jsessionid=1.n2"), Ok(Some("/;jsessionid=1.n2".into())));
        let pattern = From::Pattern(Regex::new("^/m/(.*)$").unwrap());
        let sent = |to: &str, raw: &str| {
            let path = NormalizedPath::parse(raw).unwrap();
            sent_path(&pattern, &Target { balancer: 0, url: String::new(), path: to.into() }, "", raw, path.as_str())
        };
        assert_eq!(sent("/kylin/$1", "/m/a?q"), Ok(Some("/kylin/a?q".into())));
        assert_eq!(sent("/kylin", "/m/a?q"), Ok(Some("/kylin/m/a?q".into())));
        assert_eq!(sent("/kylin/../$1", "/m/a"), Err(()));
        assert_eq!(sent("$1", "/m/a"), Err(()));
        assert_eq!(sent("/kylin/$1", "/m/a%3Fb?q"), Ok(Some("/kylin/a%3Fb?q".into())));
        assert_eq!(sent("/kylin/$1", "/m/a;jsessionid=1.n2?q"), Ok(Some("/kylin/a;jsessionid=1.n2?q".into())));
    }
}
