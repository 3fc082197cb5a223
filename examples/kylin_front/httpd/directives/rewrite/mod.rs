//! `RewriteRule` and `RewriteCond` of a server (mod_rewrite): redirects, refusals, and requests to balancers.

mod read;
mod template;

use http::StatusCode;
use regex::bytes::Regex;

pub use self::template::{Asked, Local};
use self::template::{Groups, Template};
use super::pass::{Pass, escape, is_path};

/// The rules of a server, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Rewrites {
    rules: Vec<Rule>,
    /// The `RewriteCond` lines of the next rule, while the file is read.
    next: Vec<Condition>,
    /// `RewriteEngine On`.
    pub is_on: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    conditions: Vec<Condition>,
    pattern: Regex,
    negated: bool,
    /// `None` for `-`, which leaves the path as it is.
    to: Option<Template>,
    effect: Effect,
    /// QSA: the query of the request follows that of the rule.
    appends_query: bool,
    /// QSD: the query of the request is dropped.
    drops_query: bool,
    /// NE: a redirect is sent as it is written.
    is_escaped: bool,
    /// L, END, or a flag that implies it.
    is_last: bool,
}

#[derive(Debug, Clone)]
enum Effect {
    /// Replaces the path; with PT, `ProxyPass` and sections see it.
    Path {
        passes: bool,
    },
    Redirect(StatusCode),
    /// F, G, or R with a status that is no redirect.
    Respond(StatusCode),
    /// P: to this balancer.
    Proxy(Box<Pass>),
}

#[derive(Debug, Clone)]
struct Condition {
    subject: Template,
    test: Test,
    negated: bool,
    /// OR: this or the next one.
    or_next: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Matches(Regex),
    Equals {
        text: String,
        ignores_case: bool,
    },
    /// A test for a file of the site, which does not exist here.
    File(File),
}

/// A test of a file.
#[derive(Debug, Clone, Copy)]
enum File {
    /// `-f`: it exists.
    Exists,
    /// `-s`: it is not empty.
    HasBytes,
    /// `-d`: it is a folder.
    IsFolder,
}

/// The result of the rules for a request.
#[derive(Debug)]
pub enum Rewritten<'r> {
    Unchanged,
    /// The decoded path and the query; without PT the path names a file.
    Path {
        path: String,
        query: Option<String>,
        passes: bool,
    },
    Redirect(StatusCode, String),
    Respond(StatusCode),
    /// The line, the decoded path after the balancer, and the query.
    Proxy {
        pass: &'r Pass,
        path: String,
        query: Option<String>,
    },
}

impl Rewrites {
    /// Returns the lines that lead to balancers.
    pub fn passes(&self) -> impl Iterator<Item = &Pass> {
        self.rules.iter().filter_map(|rule| if let Effect::Proxy(pass) = &rule.effect { Some(&**pass) } else { None })
    }

    pub fn passes_mut(&mut self) -> impl Iterator<Item = &mut Pass> {
        self.rules.iter_mut().filter_map(|rule| match &mut rule.effect {
            Effect::Proxy(pass) => Some(&mut **pass),
            Effect::Path { .. } | Effect::Redirect(_) | Effect::Respond(_) => None,
        })
    }

    /// Runs the rules in their order.
    pub fn apply(&self, asked: &Asked<'_>) -> Rewritten<'_> {
        let (mut path, mut query) = (asked.path.to_owned(), asked.query.map(str::to_owned));
        let (mut is_changed, mut passes, mut status, mut is_escaped) = (false, false, None, false);
        for rule in &self.rules {
            let Some(groups) = rule.matches(&path, query.as_deref(), asked) else { continue };
            let local = Local { path: &path, query: query.as_deref(), groups: &groups };
            if let Effect::Respond(status) = rule.effect {
                return Rewritten::Respond(status);
            }
            if let Some(to) = &rule.to {
                let (new, own_query) = split(to.value(asked, &local));
                let kept = query.take().filter(|_| !rule.drops_query);
                query = match own_query {
                    None => kept,
                    Some(own) if rule.appends_query => {
                        Some([own, kept.unwrap_or_default()].join("&").trim_matches('&').to_owned())
                    }
                    Some(own) => Some(own),
                };
                query = query.filter(|query| !query.is_empty());
                (path, is_changed, is_escaped) = (new, true, rule.is_escaped);
            }
            match &rule.effect {
                Effect::Proxy(pass) => return Rewritten::Proxy { pass, path, query },
                Effect::Redirect(code) => {
                    status = Some(*code);
                    if path.starts_with('/') {
                        path = format!("{}{path}", asked.origin());
                    }
                }
                Effect::Path { passes: with_pass } => passes |= with_pass,
                Effect::Respond(_) => {}
            }
            if rule.is_last {
                break;
            }
        }
        let is_url =
            path.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
        match (is_changed, is_url) {
            (false, _) if status.is_none() => Rewritten::Unchanged,
            (_, true) => {
                let query = query.map(|new| match is_escaped || asked.query == Some(&new) {
                    true => new,
                    false => escape(&new),
                });
                let url = if is_escaped { path } else { escape_url(&path) };
                let own = asked.origin();
                let url = url.strip_prefix(&own).filter(|rest| is_path(rest)).unwrap_or(&url).to_owned();
                let url = query.map_or(url.clone(), |query| format!("{url}?{query}"));
                Rewritten::Redirect(status.unwrap_or(StatusCode::FOUND), url)
            }
            (_, false) => Rewritten::Path { path, query, passes },
        }
    }
}

impl Rule {
    /// Returns the groups if the rule matches the request with its present path and query.
    fn matches(&self, path: &str, query: Option<&str>, asked: &Asked<'_>) -> Option<Groups> {
        let captures = self.pattern.captures(path.as_bytes());
        if captures.is_some() == self.negated {
            return None;
        }
        let mut groups = Groups { rule: template::groups(captures), condition: Vec::new() };
        let mut conditions = self.conditions.iter();
        while let Some(condition) = conditions.next() {
            let holds = condition.holds(path, query, asked, &mut groups);
            match (holds, condition.or_next) {
                (false, true) | (true, false) => {}
                (false, false) => return None,
                // The other conditions of the `OR` chain do not count.
                (true, true) => while conditions.next().is_some_and(|other| other.or_next) {},
            }
        }
        Some(groups)
    }
}

impl Condition {
    fn holds(&self, path: &str, query: Option<&str>, asked: &Asked<'_>, groups: &mut Groups) -> bool {
        let value = self.subject.value(asked, &Local { path, query, groups });
        let holds = match &self.test {
            Test::Matches(pattern) => {
                let captures = pattern.captures(value.as_bytes());
                let holds = captures.is_some();
                if holds && !self.negated {
                    groups.condition = template::groups(captures);
                }
                holds
            }
            Test::Equals { text, ignores_case: true } => value.eq_ignore_ascii_case(text),
            Test::Equals { text, ignores_case: false } => value == *text,
            Test::File(test) => {
                self.subject.as_literal().and_then(|file| std::fs::metadata(file).ok()).is_some_and(|file| match test {
                    File::Exists => file.is_file(),
                    File::HasBytes => file.is_file() && file.len() > 0,
                    File::IsFolder => file.is_dir(),
                })
            }
        };
        holds != self.negated
    }
}

/// Splits off the query of a replacement.
fn split(text: String) -> (String, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (text, None),
    }
}

/// Escapes the path of a URL.
fn escape_url(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (host, path) = url.split_at(url[start..].find('/').map_or(url.len(), |at| start + at));
    format!("{host}{}", escape(path))
}
