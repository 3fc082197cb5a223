//! Locations, and which of them a path belongs to: `ngx_http_core_find_location`.

mod read;

use std::collections::HashMap;
use std::fmt;

use super::pass::ProxyPass;
use super::pattern::Pattern;
use super::reply::Reply;
use super::settings::Settings;
use super::variables::Captures;

pub(super) use read::read_all;

/// One `location` block.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    /// Its place among all locations of the configuration, in the order in which their blocks begin.
    pub(crate) number: usize,
    /// Which paths it is for.
    pub(crate) matcher: Matcher,
    /// What becomes of a request.
    pub(crate) action: Action,
    /// What holds in it.
    pub(crate) settings: Settings,
    /// The locations inside it.
    pub(crate) nested: Locations,
}

/// Which paths a location is for.
#[derive(Debug, Clone)]
pub(crate) enum Matcher {
    /// `location = PATH`.
    Exact(String),
    /// `location PATH`, or with `^~`, which keeps regular expressions from being asked.
    Prefix {
        /// The beginning of the path.
        path: String,
        /// Whether it was written with `^~`.
        no_regex: bool,
    },
    /// `location ~ EXPRESSION` or `~*`.
    Regex(PathPattern),
}

/// A regular expression over paths.
#[derive(Debug, Clone)]
pub(crate) struct PathPattern {
    pattern: Pattern,
    any_case: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// It is sent to a node.
    Proxy(ProxyPass),
    /// It is answered here.
    Return(Reply),
}

/// The outcome of a search.
#[derive(Debug, Clone)]
pub(crate) enum Found<'c, 'r> {
    /// A location.
    Location {
        /// The location.
        location: &'c Location,
        /// What its regular expression found; `None` when it has none and those of the server name hold.
        captures: Option<Captures<'r>>,
    },
    /// The path lacks the slash at the end of this location's: to be answered with 301 and that path, escaped, and the
    /// query as `Location`.
    Redirect(&'c Location),
}

/// The locations of one block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locations {
    all: Vec<Location>,
    exact: HashMap<Vec<u8>, usize>,
    /// Longest first.
    prefixes: Vec<usize>,
    /// In the order of the file.
    patterns: Vec<usize>,
    /// By path without the slash at its end, where nginx sends a client that left it off.
    completed: HashMap<Vec<u8>, usize>,
}

impl Locations {
    /// In the order of the file.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Location> {
        self.all.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    fn new(all: Vec<Location>) -> Locations {
        let mut locations = Locations::default();
        for (index, location) in all.iter().enumerate() {
            match &location.matcher {
                Matcher::Exact(path) => {
                    locations.exact.insert(path.clone().into_bytes(), index);
                }
                Matcher::Prefix { .. } => locations.prefixes.push(index),
                Matcher::Regex(_) => locations.patterns.push(index),
            }
            if let Some(path) = location.without_slash() {
                locations.completed.entry(path.to_vec()).or_insert(index);
            }
        }
        locations.prefixes.sort_by_key(|&index| std::cmp::Reverse(all[index].matcher.text().len()));
        locations.all = all;
        locations
    }

    /// The location for a [normalised](super::normalise) path: the exact one, else the longest prefix, unless a regular
    /// expression matches, the first of them winning.
    pub(crate) fn find<'r>(&self, path: &'r [u8]) -> Option<Found<'_, 'r>> {
        self.search(path).0
    }

    /// Also says whether the search is over: nginx's `NGX_OK` or `NGX_DONE` against `NGX_AGAIN` and `NGX_DECLINED`.
    fn search<'r>(&self, path: &'r [u8]) -> (Option<Found<'_, 'r>>, bool) {
        if let Some(&index) = self.exact.get(path) {
            return (Some(Found::Location { location: &self.all[index], captures: None }), true);
        }
        let longest = self
            .prefixes
            .iter()
            .map(|&index| &self.all[index])
            .find(|location| path.starts_with(location.matcher.text().as_bytes()));
        let same = longest.is_some_and(|location| location.matcher.text().len() == path.len());
        if let Some(&index) = self.completed.get(path).filter(|_| !same) {
            return (Some(Found::Redirect(&self.all[index])), true);
        }
        let mut found = None;
        let mut no_regex = false;
        if let Some(location) = longest {
            let (nested, over) = location.nested.search(path);
            if over {
                return (nested, true);
            }
            found = nested.or(Some(Found::Location { location, captures: None }));
            no_regex = matches!(location.matcher, Matcher::Prefix { no_regex: true, .. });
        }
        if no_regex {
            return (found, false);
        }
        for location in self.patterns.iter().map(|&index| &self.all[index]) {
            let Matcher::Regex(pattern) = &location.matcher else { continue };
            if let Some(captures) = pattern.pattern.captures(path) {
                let inside = location.nested.search(path).0;
                let inside = inside.map(|found| match found {
                    Found::Location { location, captures: None } => {
                        Found::Location { location, captures: Some(captures) }
                    }
                    found => found,
                });
                return (inside.or(Some(Found::Location { location, captures: Some(captures) })), true);
            }
        }
        (found, false)
    }
}

impl Location {
    /// The path without the slash at its end. nginx redirects there only what would be proxied.
    fn without_slash(&self) -> Option<&[u8]> {
        match (&self.action, &self.matcher) {
            (Action::Proxy(_), Matcher::Exact(path) | Matcher::Prefix { path, .. }) => {
                path.as_bytes().strip_suffix(b"/")
            }
            _ => None,
        }
    }
}

impl Matcher {
    /// The path or expression.
    pub(crate) fn text(&self) -> &str {
        match self {
            Matcher::Exact(path) | Matcher::Prefix { path, .. } => path,
            Matcher::Regex(pattern) => pattern.pattern.as_str(),
        }
    }

    /// True for `location /`.
    pub(super) fn is_catch_all(&self) -> bool {
        matches!(self, Matcher::Prefix { path, .. } if path == "/")
    }

    /// `=`, `^~`, `~`, `~*` or nothing.
    fn modifier(&self) -> &'static str {
        match self {
            Matcher::Exact(_) => "=",
            Matcher::Prefix { no_regex: false, .. } => "",
            Matcher::Prefix { no_regex: true, .. } => "^~",
            Matcher::Regex(PathPattern { any_case: false, .. }) => "~",
            Matcher::Regex(PathPattern { any_case: true, .. }) => "~*",
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.modifier() {
            "" => f.write_str(self.text()),
            modifier => write!(f, "{modifier} {}", self.text()),
        }
    }
}

#[cfg(test)]
mod tests;
