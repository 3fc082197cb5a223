//! Traces variables to the values that they come from, so that no log shows a secret under another
//! name.

use super::logged::{may_be_rewritten, may_hold_target, secret};
use super::map::{Maps, subject};
use super::{Piece, Template, Variable};
use crate::nginx::syntax::{Directive, Fault, Span, Word};

/// The values that directives compute from requests and responses.
#[derive(Debug, Default)]
pub(crate) struct ValueSources {
    /// The values that the `if` blocks match with an expression.
    subjects: Vec<Template>,
    /// The replacement of each `rewrite`.
    rewrites: Vec<Template>,
    /// The names in lower case and the values of `add_header`.
    headers: Vec<(String, Template)>,
    /// The targets of redirects.
    redirects: Vec<Template>,
}

/// How a value reaches a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    /// The log names the variable itself, and masks secrets of the target.
    Itself,
    /// A `rewrite` puts the value into the path or the arguments. If the target has a secret, the
    /// log shows neither.
    Rewrite,
    /// The log shows the value under another name, or a part of it, and so cannot recognise the
    /// secrets of a target.
    Another,
}

/// The directives in the blocks of a server that give variables their values.
const VALUES: [&str; 9] =
    ["add_header", "if", "location", "more_set_headers", "proxy_redirect", "return", "rewrite", "server_name", "set"];

impl ValueSources {
    /// Finds the directives that give variables their values, in a block at any depth, with the
    /// block of each.
    pub(crate) fn collect<'d>(block: &'d Directive, values: &mut Vec<(&'d Directive, &'d Directive)>) {
        for inner in block.block.iter().flatten() {
            if VALUES.contains(&inner.name.text.as_str()) {
                values.push((inner, block));
            }
            ValueSources::collect(inner, values);
        }
    }

    /// Reads the directives. The readers of their blocks report mistakes in them.
    pub(crate) fn read(directives: &[(&Directive, &Directive)], maps: &Maps) -> Self {
        let mut sources = ValueSources::default();
        let template = |word: &Word| Template::new(word, maps).ok();
        for (directive, _) in directives {
            match (directive.name.text.as_str(), &directive.args[..]) {
                ("if", _) => sources.subjects.extend(subject(directive).and_then(|(word, _)| template(&word))),
                ("rewrite", [_, to, ..]) => {
                    sources.rewrites.extend(template(to));
                    sources.redirects.extend(template(to));
                }
                ("return" | "proxy_redirect", [.., to]) => sources.redirects.extend(template(to)),
                ("more_set_headers", words) => {
                    for word in words {
                        let (name, value) = word.text.split_once(':').unwrap_or_default();
                        let value = template(&Word { text: value.to_owned(), span: word.span });
                        sources.headers.extend(value.map(|value| (name.trim().to_ascii_lowercase(), value)));
                    }
                }
                ("add_header", [name, value, ..]) => {
                    sources.headers.extend(template(value).map(|value| (name.text.to_ascii_lowercase(), value)));
                }
                _ => {}
            }
        }
        sources
    }
}

impl Template {
    /// Checks that no variable holds a secret, also by way of `map`, `set`, `rewrite` and groups of
    /// expressions.
    pub(super) fn check_loggable(&self, span: Span, maps: &Maps, sources: &ValueSources) -> Result<(), Fault> {
        let mut trace = Trace { maps, sources, seen: Vec::new() };
        for (variable, name) in self.variables() {
            let Some((source, why)) = trace.variable(variable, name, None, Through::Itself) else { continue };
            // The error points at the dollar sign, with or without braces.
            let at = self.text.to_ascii_lowercase();
            let at = at.find(&format!("${name}")).or_else(|| at.find(&format!("${{{name}"))).unwrap_or(0);
            let from = if source == name { String::new() } else { format!("its value may come from ${source}: ") };
            let message = format!("\"${name}\" must not be in a log: {from}{why}");
            let expected = "$remote_user, $request_id or $upstream_addr, which tell of a request without them";
            return Err(span.right(at).unsupported(message, expected));
        }
        Ok(())
    }
}

/// The variable that holds a secret, and why no log may show it.
type Origin = (String, &'static str);

/// Represents the groups of all expressions, instead of a slot of `set`.
const ANY_GROUP: usize = usize::MAX;

struct Trace<'m> {
    maps: &'m Maps,
    sources: &'m ValueSources,
    /// The slots of `set`, or [`ANY_GROUP`], that were already followed, and how their values reach
    /// the log.
    seen: Vec<(usize, Through)>,
}

impl Trace<'_> {
    /// Traces a template. `groups` is the value matched by the expression whose groups `value` may
    /// use; `None` if that may be any expression of the configuration.
    fn template(&mut self, value: &Template, groups: Option<&Template>, through: Through) -> Option<Origin> {
        value.variables().find_map(|(variable, name)| self.variable(variable, name, groups, through))
    }

    fn variable(
        &mut self,
        variable: &Variable,
        name: &str,
        groups: Option<&Template>,
        through: Through,
    ) -> Option<Origin> {
        if let Some(why) = secret(name) {
            return Some((name.to_owned(), why));
        }
        // A log does not show a path that a rewrite made of a target with a secret.
        let of_target = matches!(variable, Variable::Path | Variable::Named(_) | Variable::Arg(_));
        let is_masked = through == Through::Itself || (through == Through::Rewrite && of_target);
        if !is_masked && may_hold_target(variable, name) {
            return Some((
                name.to_owned(),
                "it may hold a session id or SQL, which is masked only in the variable itself",
            ));
        }
        let sources = self.sources;
        // A group is a part of the value that was matched.
        let in_part = if through == Through::Rewrite { through } else { Through::Another };
        match variable {
            Variable::Mapped(map) => map.results().find_map(|result| self.template(result, Some(&map.source), through)),
            Variable::Set(slot) if self.seen.contains(&(*slot, in_part)) => None,
            Variable::Set(slot) => {
                self.seen.push((*slot, in_part));
                let maps = self.maps;
                let set = maps.set_values(*slot);
                let found = set.into_iter().find_map(|set| self.template(&set.value, set.subject.as_ref(), in_part));
                // The group may come from any expression.
                match found {
                    None if maps.is_group(*slot) => self.variable(&Variable::Capture(1), name, None, through),
                    found => found,
                }
            }
            Variable::Capture(_) => match groups {
                // In a log, the source of a map is masked as if the log named it.
                Some(subject) => self.template(subject, None, through),
                None if self.seen.contains(&(ANY_GROUP, in_part)) => None,
                None => {
                    self.seen.push((ANY_GROUP, in_part));
                    let path = || {
                        let is_path = !sources.rewrites.is_empty() && in_part == Through::Another;
                        is_path.then(|| (name.to_owned(), "a group of rewrite may hold a session id of the path"))
                    };
                    sources.subjects.iter().find_map(|subject| self.template(subject, None, in_part)).or_else(path)
                }
            },
            Variable::Sent(header) => {
                let is_of = |name: &str| name == header.as_str();
                let mut headers = sources.headers.iter().filter(|(name, _)| is_of(name));
                let redirects = sources.redirects.iter().filter(|_| is_of("location"));
                headers
                    .find_map(|(_, value)| self.template(value, None, Through::Another))
                    .or_else(|| redirects.into_iter().find_map(|to| self.template(to, None, Through::Rewrite)))
            }
            _ if through != Through::Rewrite && may_be_rewritten(variable, name) => {
                sources.rewrites.iter().find_map(|to| self.template(to, None, Through::Rewrite))
            }
            _ => None,
        }
    }
}

impl Template {
    fn variables(&self) -> impl Iterator<Item = (&Variable, &str)> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable { variable, name } => Some((variable, name.as_str())),
            Piece::Literal(_) => None,
        })
    }
}
