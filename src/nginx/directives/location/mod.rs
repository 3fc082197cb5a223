//! `location`: finds the location of a path (`ngx_http_core_find_location`), and its action.

mod limit_except;
mod matcher;
mod pass_uri;
mod proxy_pass;
mod read;

use std::cmp::Reverse;
use std::collections::HashMap;

use limit_except::LimitExcept;
pub(crate) use matcher::Matcher;
pub(crate) use pass_uri::{PassUri, is_plain};
pub(crate) use proxy_pass::{ProxyPass, Redirects};
pub(crate) use read::{matches_an_expression, read_all};

use super::reply::Reply;
use super::rewrite::Step;
use super::settings::BlockSettings;
use crate::nginx::syntax::{Captures, NamedGroup};
use crate::nginx::variables::Template;

/// A `location` block.
#[derive(Debug, Clone)]
pub(crate) struct Location {
    /// The position among all locations of the configuration, in the order in which their blocks
    /// begin.
    pub(crate) number: usize,
    pub(crate) matcher: Matcher,
    pub(crate) action: Action,
    pub(crate) settings: BlockSettings,
    /// The steps before the action.
    pub(crate) script: Vec<Step>,
    /// The variants of the location for its `if` blocks.
    pub(crate) variants: Vec<Location>,
    /// The locations for the values of variables in the host of `proxy_pass`.
    pub(crate) by_host: Option<ByHost>,
    /// `limit_except`.
    limit_except: Option<LimitExcept>,
    /// Whether the block has `proxy_pass` or a similar directive, even if a `return` or `try_files`
    /// takes precedence.
    adds_slash: bool,
    /// The inner locations.
    pub(crate) nested: Locations,
}

/// `proxy_pass http://$NAME`: the variant of the location for each value.
#[derive(Debug, Clone)]
pub(crate) struct ByHost {
    pub(crate) host: Template,
    /// The locations, each with its value and an upstream.
    pub(crate) locations: Vec<(String, Location)>,
}

/// The action of a location.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// The location sends the request to a node.
    Proxy(ProxyPass),
    /// The location responds itself.
    Return(Reply),
    /// The named location of `try_files` serves the request, because no file exists here.
    Named(String),
    /// The location is left out for this reason, and responds with 404: nginx serves something
    /// other than nodes there.
    LeftOut(String),
}

/// The result of a search.
#[derive(Debug, Clone)]
pub(crate) enum LocationMatch<'c, 'r> {
    Location {
        location: &'c Location,
        /// The groups of its regular expression; `None` if there is no expression, so that those of
        /// the server name stay.
        captures: Option<Captures<'r>>,
        /// The groups that are bound to variables.
        groups: &'c [NamedGroup],
    },
    /// The path lacks the trailing slash of this location. The response is a redirect with 301.
    Redirect(&'c Location),
}

/// The locations of one block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Locations {
    all: Vec<Location>,
    exact: HashMap<Vec<u8>, usize>,
    /// The prefix locations, longest first.
    prefixes: Vec<usize>,
    /// The regular expressions in the order of the file.
    patterns: Vec<usize>,
    /// The locations by their path without its trailing slash. A request without the slash is
    /// redirected.
    without_slash: HashMap<Vec<u8>, usize>,
}

impl Locations {
    fn new(all: Vec<Location>) -> Locations {
        let mut locations = Locations::default();
        for (index, location) in all.iter().enumerate() {
            match &location.matcher {
                Matcher::Exact(path) => _ = locations.exact.insert(path.clone().into_bytes(), index),
                Matcher::Prefix { .. } => locations.prefixes.push(index),
                Matcher::Regex(_) => locations.patterns.push(index),
                // No path leads to a named location.
                Matcher::Named(_) => {}
            }
            if let Some(path) = location.without_slash() {
                locations.without_slash.entry(path.to_vec()).or_insert(index);
            }
        }
        locations.prefixes.sort_by_key(|&index| Reverse(all[index].matcher.text().len()));
        locations.all = all;
        locations
    }

    /// Returns the locations in the order of the file.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Location> {
        self.all.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns a named location; `None` if it does not exist or is left out.
    pub(crate) fn named(&self, name: &str) -> Option<&Location> {
        let is_named = |location: &&Location| matches!(&location.matcher, Matcher::Named(known) if known == name);
        self.all.iter().find(is_named).filter(|location| location.responds())
    }

    /// Returns whether a named location exists. It may be left out.
    pub(crate) fn has_named(&self, name: &str) -> bool {
        self.all.iter().any(|location| matches!(&location.matcher, Matcher::Named(known) if known == name))
    }

    /// Returns all locations, including inner ones.
    pub(crate) fn deep(&self) -> Vec<&Location> {
        self.all.iter().flat_map(|location| [vec![location], location.nested.deep()].concat()).collect()
    }

    /// Returns whether a location has a script, or an expression with groups that are bound to
    /// variables.
    pub(crate) fn has_scripts(&self) -> bool {
        let has_script = |location: &Location| {
            !location.script.is_empty() || !location.matcher.named_groups().is_empty() || location.nested.has_scripts()
        };
        self.all.iter().any(has_script)
    }

    /// Returns whether no location is served.
    pub(crate) fn all_left_out(&self) -> bool {
        let is_left_out = |location: &Location| !location.is_served() || matches!(location.matcher, Matcher::Named(_));
        self.all.iter().all(|location| is_left_out(location) && location.nested.all_left_out())
    }

    /// Finds the location for a path as nodes read it. nginx matches its own reading, in which
    /// `;parameters` stay. A node that reads `/bi/..;/x` as `/x` would then serve a path outside of
    /// the location.
    ///
    /// An exact location wins, else the first regular expression that matches, else the longest
    /// prefix.
    pub(crate) fn find<'r>(&self, path: &'r [u8]) -> Option<LocationMatch<'_, 'r>> {
        self.search(path).0
    }

    /// Searches one level. Also returns whether the search has ended: `NGX_OK` or `NGX_DONE` in
    /// nginx, rather than `NGX_AGAIN` or `NGX_DECLINED`.
    fn search<'r>(&self, path: &'r [u8]) -> (Option<LocationMatch<'_, 'r>>, bool) {
        if let Some(&index) = self.exact.get(path) {
            return (Some(LocationMatch::Location { location: &self.all[index], captures: None, groups: &[] }), true);
        }
        let mut prefixes = self.prefixes.iter().map(|&index| &self.all[index]);
        let longest = prefixes.find(|location| path.starts_with(location.matcher.text().as_bytes()));
        let is_whole_path = longest.is_some_and(|location| location.matcher.text().len() == path.len());
        if let Some(&index) = self.without_slash.get(path).filter(|_| !is_whole_path) {
            return (Some(LocationMatch::Redirect(&self.all[index])), true);
        }
        let mut found = None;
        if let Some(location) = longest {
            let (nested, over) = location.nested.search(path);
            if over {
                return (nested, true);
            }
            found = nested.or(Some(LocationMatch::Location { location, captures: None, groups: &[] }));
            if matches!(location.matcher, Matcher::Prefix { no_regex: true, .. }) {
                return (found, false);
            }
        }
        for location in self.patterns.iter().map(|&index| &self.all[index]) {
            let Matcher::Regex(pattern) = &location.matcher else { continue };
            if let Some(captures) = pattern.captures(path) {
                let (captures, groups) = (Some(captures), pattern.named_groups());
                let found = match location.nested.search(path).0 {
                    Some(LocationMatch::Location { location, captures: None, .. }) => {
                        LocationMatch::Location { location, captures, groups }
                    }
                    Some(found) => found,
                    None => LocationMatch::Location { location, captures, groups },
                };
                return (Some(found), true);
            }
        }
        (found, false)
    }
}

impl<'c> LocationMatch<'c, '_> {
    pub(crate) fn location(&self) -> &'c Location {
        match self {
            LocationMatch::Location { location, .. } | LocationMatch::Redirect(location) => location,
        }
    }
}

impl Location {
    /// Returns whether the location keeps some requests away from the nodes.
    pub(crate) fn protects(&self) -> bool {
        let settings = &self.settings;
        let responds_itself = match &self.action {
            Action::Proxy(_) | Action::Named(_) => false,
            Action::Return(reply) => reply.status >= 400,
            Action::LeftOut(_) => self.script.is_empty(),
        };
        responds_itself
            || !settings.access.is_empty()
            || settings.auth.may_ask()
            || settings.internal
            || self.limit_except.is_some()
            || self.script.iter().any(Step::may_refuse)
    }

    /// Returns whether the location responds: it is not left out, or its steps lead to another
    /// location.
    pub(crate) fn responds(&self) -> bool {
        !matches!(self.action, Action::LeftOut(_)) || !self.script.iter().all(Step::ends_here)
    }

    /// Returns whether a response other than 404 is possible, from the location or from its error
    /// page for 404.
    pub(crate) fn is_served(&self) -> bool {
        let mut pages = self.settings.error_pages.iter();
        self.responds() || pages.any(|page| page.is_of(404) && page.named().is_some())
    }

    /// Returns the location and its variants: for `if` blocks, variables of `proxy_pass`, and
    /// `limit_except`.
    pub(crate) fn forms(&self) -> Vec<&Location> {
        let by_host = self.by_host.iter().flat_map(|by_host| by_host.locations.iter().map(|(_, location)| location));
        let limited = self.limit_except.iter().map(|limit| &*limit.location);
        let mut forms = vec![self];
        forms.extend(self.variants.iter().chain(by_host).chain(limited).flat_map(Location::forms));
        forms
    }

    /// Returns the path without its trailing slash, if requests for it are redirected. As in nginx,
    /// that needs `proxy_pass` or a similar directive.
    fn without_slash(&self) -> Option<&[u8]> {
        match &self.matcher {
            Matcher::Exact(path) | Matcher::Prefix { path, .. } if self.adds_slash => {
                path.as_bytes().strip_suffix(b"/")
            }
            Matcher::Exact(_) | Matcher::Prefix { .. } | Matcher::Regex(_) | Matcher::Named(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
