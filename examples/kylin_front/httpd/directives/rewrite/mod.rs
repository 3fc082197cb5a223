//! `RewriteRule` and `RewriteCond` of a server (mod_rewrite): redirects, refusals, and requests to
//! balancers.

mod read;
mod template;

use http::StatusCode;
use regex::bytes::Regex;

pub use self::template::{Asked, Local};
use self::template::{Groups, Template};
use super::pass::{Pass, Paths, escape, escape_url, is_path};
use crate::httpd::syntax::Word;

/// The rules of a server, in the order of the file.
#[derive(Debug, Clone, Default)]
pub struct Rewrites {
    rules: Vec<Rule>,
    /// The conditions of the next rule, while the file is read.
    next: Vec<Condition>,
    /// The first expression of `next` that is for a path and has a `;`.
    with_parameters: Option<Word>,
    /// `DocumentRoot`, for conditions about files.
    pub root: Option<String>,
    /// Whether the rules apply (`RewriteEngine On`).
    pub is_on: bool,
}

#[derive(Debug, Clone)]
struct Rule {
    conditions: Vec<Condition>,
    pattern: Regex,
    negated: bool,
    /// The substitution; `None` for `-`, which leaves the path unchanged.
    to: Option<Template>,
    effect: Effect,
    /// Whether the query of the request is appended to that of the rule (QSA).
    appends_query: bool,
    /// Whether the query of the request is dropped (QSD).
    drops_query: bool,
    /// Whether a redirect is sent as it is written (NE).
    is_escaped: bool,
    /// Whether an escaped `?` of the request may begin the query (UnsafeAllow3F).
    allows_question_mark: bool,
    /// Whether no later rule runs: L, END, or a flag that implies it.
    is_last: bool,
}

#[derive(Debug, Clone)]
enum Effect {
    /// Replaces the path. With PT, `ProxyPass` and sections see the new path.
    Path {
        passes: bool,
    },
    Redirect(StatusCode),
    /// Responds with a status: F, G, or R with a status that is not a redirect.
    Respond(StatusCode),
    /// Passes the request to this balancer (P).
    Proxy(Box<Pass>),
}

#[derive(Debug, Clone)]
struct Condition {
    subject: Template,
    test: Test,
    negated: bool,
    /// Whether this or the next condition suffices (OR).
    or_next: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Matches(Regex),
    Equals {
        text: String,
        ignores_case: bool,
    },
    /// A test of a file of the site, which does not exist here.
    File(File),
}

/// A test of a file.
#[derive(Debug, Clone, Copy)]
enum File {
    /// `-f`: the file exists.
    Exists,
    /// `-s`: the file is not empty.
    HasBytes,
    /// `-d`: the file is a folder.
    IsFolder,
}

/// The result of the rules for a request.
#[derive(Debug)]
pub enum Rewritten<'r> {
    Unchanged,
    /// The new decoded path and query. Without PT, the path names a file.
    Path {
        path: Paths,
        query: Option<String>,
        passes: bool,
    },
    Redirect(StatusCode, String),
    Respond(StatusCode),
    /// The request goes to a balancer: the rule, the decoded path at the balancer, and the query.
    Proxy {
        pass: &'r Pass,
        path: Paths,
        query: Option<String>,
    },
}

impl Rewrites {
    /// Returns the rules that lead to balancers.
    pub fn passes(&self) -> impl Iterator<Item = &Pass> {
        self.rules.iter().filter_map(|rule| if let Effect::Proxy(pass) = &rule.effect { Some(&**pass) } else { None })
    }

    pub fn passes_mut(&mut self) -> impl Iterator<Item = &mut Pass> {
        self.rules.iter_mut().filter_map(|rule| match &mut rule.effect {
            Effect::Proxy(pass) => Some(&mut **pass),
            Effect::Path { .. } | Effect::Redirect(_) | Effect::Respond(_) => None,
        })
    }

    /// Runs the rules in order. They may refuse the path that nodes read, and the path with
    /// parameters that httpd compares.
    pub fn apply(&self, asked: &Asked<'_>) -> Rewritten<'_> {
        let of_compared = asked.compared.as_ref().map(|path| self.run(&asked.with_path(path)));
        match of_compared {
            Some(refused @ Rewritten::Respond(_)) => refused,
            _ => self.run(asked),
        }
    }

    fn run(&self, asked: &Asked<'_>) -> Rewritten<'_> {
        let (mut path, mut query) = (asked.path.clone(), asked.query.map(str::to_owned));
        let (mut is_changed, mut passes, mut status, mut is_escaped) = (false, false, None, false);
        for rule in &self.rules {
            let Some([groups, of_full]) = rule.matches(&path, query.as_deref(), asked) else { continue };
            if let Effect::Respond(status) = rule.effect {
                return Rewritten::Respond(status);
            }
            if let Some(to) = &rule.to {
                let local = Local { path: &path.read, uri: &asked.path.read, query: query.as_deref(), groups: &groups };
                let full = Local { path: &path.full, uri: &asked.path.full, groups: &of_full, ..local };
                // The client would add its own query to the URL (CVE-2024-38474).
                let begins_query = |local: &Local<'_>| to.begins_query_by_value(asked, local);
                if !rule.allows_question_mark && (begins_query(&local) || begins_query(&full)) {
                    return Rewritten::Respond(StatusCode::FORBIDDEN);
                }
                let (read, query_of_read) = split(to.value(asked, &local));
                let (full, query_of_full) = split(to.value(asked, &full));
                let new = Paths { read, full };
                let own_query = if new.agreed() == new.full { query_of_full } else { query_of_read };
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
                Effect::Proxy(_) if !is_query(query.as_deref()) => return Rewritten::Respond(StatusCode::FORBIDDEN),
                Effect::Proxy(pass) => return Rewritten::Proxy { pass, path, query },
                Effect::Redirect(code) => {
                    status = Some(*code);
                    for path in [&mut path.read, &mut path.full] {
                        if path.starts_with('/') {
                            *path = format!("{}{path}", asked.origin());
                        }
                    }
                }
                Effect::Path { passes: with_pass } => passes |= with_pass,
                Effect::Respond(_) => {}
            }
            if rule.is_last {
                break;
            }
        }
        let scheme = path.read.split_once("://").map(|(scheme, _)| scheme);
        let is_url = scheme.is_some_and(|scheme| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
        match (is_changed, is_url) {
            (false, _) if status.is_none() => Rewritten::Unchanged,
            (_, true) => {
                let query = query.map(|new| match is_escaped || asked.query == Some(&new) {
                    true => new,
                    false => escape(&new),
                });
                let url = path.agreed();
                let url = if is_escaped { url.to_owned() } else { escape_url(url) };
                let own = asked.origin();
                let url = url.strip_prefix(&own).filter(|rest| is_path(rest)).unwrap_or(&url).to_owned();
                let url = query.map_or(url.clone(), |query| format!("{url}?{query}"));
                Rewritten::Redirect(status.unwrap_or(StatusCode::FOUND), url)
            }
            (_, false) if !is_query(query.as_deref()) => Rewritten::Respond(StatusCode::FORBIDDEN),
            (_, false) => Rewritten::Path { path, query, passes },
        }
    }
}

impl Rule {
    /// Returns the groups of both forms of the path, if the rule matches the request with its
    /// current path and query.
    fn matches(&self, path: &Paths, query: Option<&str>, asked: &Asked<'_>) -> Option<[Groups; 2]> {
        let captures = self.pattern.captures(path.read.as_bytes());
        if captures.is_some() == self.negated {
            return None;
        }
        let of_full = if self.negated { None } else { self.pattern.captures(path.full.as_bytes()) };
        let of_read = Groups { rule: template::groups(captures), condition: Vec::new() };
        let of_full = match of_full {
            Some(captures) => Groups { rule: template::groups(Some(captures)), condition: Vec::new() },
            None => of_read.clone(),
        };
        let mut groups = [of_read, of_full];
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
    fn holds(&self, path: &Paths, query: Option<&str>, asked: &Asked<'_>, groups: &mut [Groups; 2]) -> bool {
        let [of_read, of_full] = &*groups;
        let local = Local { path: &path.read, uri: &asked.path.read, query, groups: of_read };
        let value = self.subject.value(asked, &local);
        let holds = match &self.test {
            Test::Matches(pattern) => {
                let captures = pattern.captures(value.as_bytes());
                let holds = captures.is_some();
                if holds && !self.negated {
                    let full = Local { path: &path.full, uri: &asked.path.full, query, groups: of_full };
                    let full = self.subject.value(asked, &full);
                    let found = template::groups(captures);
                    let of_full = pattern.captures(full.as_bytes());
                    groups[1].condition = of_full.map_or(found.clone(), |captures| template::groups(Some(captures)));
                    groups[0].condition = found;
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

/// Returns whether a query that a rule made can be sent. A space or a control character would end
/// the request line.
fn is_query(query: Option<&str>) -> bool {
    !query.is_some_and(|query| query.contains(|c: char| c == ' ' || c.is_ascii_control()))
}

/// Splits off the query of a replacement.
fn split(text: String) -> (String, Option<String>) {
    match text.split_once('?') {
        Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
        None => (text, None),
    }
}
