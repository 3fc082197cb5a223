//! `map`, `geo` and `split_clients`: a variable whose value follows from another's.
//!
//! nginx's recipe for `sticky route` needs it, to take the route out of a session id. A map refers
//! only to maps that are compiled already, so evaluating one always ends.

use std::collections::HashMap;
use std::sync::Arc;

use super::geo::Geo;
use super::sink::Sink;
use super::split_clients::Split;
use super::{Scope, Template, is_built_in, is_name_letter};
use crate::nginx::syntax::{Directive, ErrorKind, Fault, Pattern, Word};

/// One block.
#[derive(Debug)]
pub(super) struct Map {
    name: String,
    pub(super) source: Template,
    rules: Rules,
}

#[derive(Debug)]
enum Rules {
    Values(Values),
    Geo(Geo),
    Split(Split),
}

/// The lines of a `map`.
#[derive(Debug, Default)]
struct Values {
    /// The results by the value in lower case, as nginx compares.
    exact: HashMap<Vec<u8>, Template>,
    /// `hostnames`: names with an asterisk may follow.
    has_hostnames: bool,
    /// By the end of the value, which begins with a dot: `*.example.org`.
    suffixes: HashMap<Vec<u8>, Template>,
    /// By the beginning of the value, which ends with a dot: `www.example.*`.
    prefixes: HashMap<Vec<u8>, Template>,
    /// Expressions in the order of the file, which are tried if no exact value matches.
    patterns: Vec<(Pattern, Template)>,
    default: Option<Template>,
}

/// The maps of a configuration, by the name of their variable in lower case.
#[derive(Debug, Default)]
pub(crate) struct Maps(HashMap<String, Arc<Map>>, Vec<SetVariable>);

/// A variable that `set` gives a value.
#[derive(Debug)]
struct SetVariable {
    name: String,
    /// Every value that a `set` of the configuration gives it.
    values: Vec<SetValue>,
    /// A group of an expression has its name.
    is_group: bool,
}

/// A value that a `set` gives to a variable.
#[derive(Debug)]
pub(super) struct SetValue {
    pub(super) value: Template,
    /// The value that the `if` around it matches with an expression, whose groups the value may have.
    pub(super) subject: Option<Template>,
}

const USAGE: &str = "map SOURCE $NAME { VALUE RESULT; ~EXPRESSION RESULT; default RESULT; }";

impl Maps {
    /// Returns whether a directive defines a variable that is read by [`Maps::read`].
    pub(crate) fn is(directive: &Directive) -> bool {
        matches!(directive.name.text.as_str(), "map" | "geo" | "split_clients")
    }

    /// Reads all such blocks. They may refer to each other in any order, but not in a circle. `values` are the directives that
    /// give variables their values, with the block of each.
    pub(crate) fn read<'d>(
        blocks: impl Iterator<Item = &'d Directive>,
        values: &[(&'d Directive, &'d Directive)],
    ) -> Result<Maps, Fault> {
        let (mut maps, mut pending) = (Maps::default(), blocks.collect::<Vec<_>>());
        for (set, _) in values.iter().filter(|(directive, _)| directive.is("set")) {
            let name = set.args.first().and_then(|name| name.text.strip_prefix('$')).map(str::to_ascii_lowercase);
            if let Some(name) = name.filter(|name| !is_built_in(name) && maps.set_slot(name).is_none()) {
                maps.1.push(SetVariable { name, values: Vec::new(), is_group: false });
            }
        }
        let patterns = values.iter().filter(|(directive, _)| !directive.is("set"));
        for name in patterns.flat_map(|(directive, _)| directive.args.iter().flat_map(|word| groups_of(&word.text))) {
            match maps.set_slot(&name) {
                Some(slot) => maps.1[slot].is_group = true,
                None if is_built_in(&name) => {}
                None => maps.1.push(SetVariable { name, values: Vec::new(), is_group: true }),
            }
        }
        while !pending.is_empty() {
            let (before, mut fault) = (pending.len(), None);
            let mut later = Vec::new();
            for block in pending {
                match Map::read(block, &maps) {
                    Ok(map) if maps.0.contains_key(&map.name) => {
                        let message = format!("map: the variable \"${}\" has a map already", map.name);
                        return Err(block.span().duplicate(message, "another name"));
                    }
                    Ok(map) => _ = maps.0.insert(map.name.clone(), Arc::new(map)),
                    Err(error) => {
                        // An unknown variable may be the consequence of a mistake in the map that
                        // defines it.
                        if fault.as_ref().is_none_or(|fault: &Fault| fault.kind() == ErrorKind::Unknown) {
                            fault = Some(error);
                        }
                        later.push(block);
                    }
                }
            }
            match fault {
                Some(fault) if later.len() == before => return Err(fault),
                _ => pending = later,
            }
        }
        for (set, block) in values.iter().filter(|(directive, _)| directive.is("set")) {
            let [name, value] = &set.args[..] else { continue };
            let slot = maps.set_slot(&name.text.trim_start_matches('$').to_ascii_lowercase());
            // The reader of the block reports what is wrong with a value.
            if let (Some(slot), Some(value)) = (slot, SetValue::read(value, block, &maps)) {
                maps.1[slot].values.push(value);
            }
        }
        Ok(maps)
    }

    /// Returns the slot of a variable of `set`, by its name in lower case.
    pub(crate) fn set_slot(&self, name: &str) -> Option<usize> {
        self.1.iter().position(|variable| variable.name == name)
    }

    /// Returns whether a group of an expression gives the variable of a slot a value.
    pub(super) fn is_group(&self, slot: usize) -> bool {
        self.1.get(slot).is_some_and(|variable| variable.is_group)
    }

    /// Returns the expression, whose named groups give variables their values.
    pub(crate) fn bind(&self, pattern: Pattern, word: &Word) -> Result<Pattern, Fault> {
        pattern.with_variables(word, |name| self.set_slot(name))
    }

    /// Returns how many variables `set` gives a value.
    pub(crate) fn set_slots(&self) -> usize {
        self.1.len()
    }

    /// Returns the values that `set` gives to the variable of a slot.
    pub(super) fn set_values(&self, slot: usize) -> impl Iterator<Item = &SetValue> {
        self.1.get(slot).into_iter().flat_map(|variable| &variable.values)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Map>> {
        self.0.get(name).cloned()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).chain(self.1.iter().map(|variable| variable.name.as_str()))
    }
}

impl SetValue {
    fn read(value: &Word, block: &Directive, maps: &Maps) -> Option<Self> {
        // The groups of a `rewrite` in the block come after those of its condition.
        let has_rewrite = block.block.iter().flatten().any(|inner| inner.is("rewrite"));
        // The block of `!~` runs only if the expression does not match, so it has no groups.
        let has_groups = |word: &Word| !word.text.starts_with('!') && !has_rewrite;
        let subject = subject(block).filter(|(_, operator)| has_groups(operator));
        let subject = subject.and_then(|(word, _)| Template::new(&word, maps).ok());
        Some(SetValue { value: Template::new(value, maps).ok()?, subject })
    }
}

/// Returns what an `if` matches with an expression, and the operator.
pub(super) fn subject(block: &Directive) -> Option<(Word, &Word)> {
    let position = block.args.iter().position(|word| matches!(word.text.as_str(), "~" | "~*" | "!~" | "!~*"))?;
    let word = block.args.get(position.checked_sub(1)?).filter(|_| block.is("if"))?;
    Some((Word { text: word.text.trim_start_matches('(').to_owned(), span: word.span }, block.args.get(position)?))
}

impl Map {
    fn read(directive: &Directive, maps: &Maps) -> Result<Map, Fault> {
        let kind = directive.name.text.as_str();
        let usage = match kind {
            "geo" => super::geo::USAGE,
            "split_clients" => super::split_clients::USAGE,
            _ => USAGE,
        };
        let (source, name, block) = match (&directive.args[..], &directive.block) {
            ([source, name], Some(block)) => (Some(source), name, block),
            ([name], Some(block)) if kind == "geo" => (None, name, block),
            _ => return Err(directive.span().value(format!("{kind} takes a source and a variable"), usage)),
        };
        let variable = name.text.strip_prefix('$').filter(|name| !name.is_empty() && name.chars().all(is_name_letter));
        let Some(variable) = variable.map(str::to_ascii_lowercase) else {
            return Err(name.invalid("variable", "$NAME of letters, digits and \"_\""));
        };
        if is_built_in(&variable) {
            let message = format!("{kind}: the variable \"${variable}\" has a meaning already");
            return Err(name.span.duplicate(message, "another name"));
        }
        let source = match source {
            Some(source) => Template::new(source, maps)?,
            None => Template::new(&Word { text: "$remote_addr".to_owned(), span: name.span }, maps)?,
        };
        let rules = match kind {
            "geo" => Rules::Geo(Geo::read(block)?),
            "split_clients" => Rules::Split(Split::read(block)?),
            _ => Rules::Values(Values::read(block, maps)?),
        };
        Ok(Map { name: variable, source, rules })
    }

    pub(super) fn results(&self) -> Box<dyn Iterator<Item = &Template> + '_> {
        match &self.rules {
            Rules::Values(values) => Box::new(values.results()),
            Rules::Geo(geo) => Box::new(geo.results()),
            Rules::Split(split) => Box::new(split.results()),
        }
    }

    pub(super) fn has_default(&self) -> bool {
        match &self.rules {
            Rules::Values(values) => values.default.is_some(),
            Rules::Geo(geo) => geo.has_default(),
            Rules::Split(split) => split.is_whole(),
        }
    }

    pub(super) fn mentions(&self, start: &str) -> bool {
        self.source.mentions(start) || self.results().any(|result| result.mentions(start))
    }

    pub(super) fn needs_outcome(&self) -> bool {
        self.source.needs_outcome() || self.results().any(Template::needs_outcome)
    }

    /// Writes the value for a request to `sink`.
    pub(super) fn write(&self, scope: &Scope<'_>, sink: Sink<'_>) {
        let source = self.source.value(scope);
        self.find(&source, scope, |result, scope| result.write(scope, sink));
    }

    /// Appends the value as a log may show it: neither source nor result have secrets.
    pub(super) fn write_masked(&self, scope: &Scope<'_>, value: &mut Vec<u8>) {
        let mut source = Vec::new();
        self.source.write_masked(scope, &mut source);
        self.find(&source, scope, |result, scope| _ = result.write_masked(scope, value));
    }

    /// Calls `write` with the result for a value, and the scope with the groups of its expression.
    fn find(&self, source: &[u8], scope: &Scope<'_>, write: impl FnOnce(&Template, &Scope<'_>)) {
        let result = match &self.rules {
            Rules::Values(values) => return values.find(source, scope, write),
            Rules::Geo(geo) => geo.find(source),
            Rules::Split(split) => split.find(source),
        };
        if let Some(result) = result {
            write(result, scope);
        }
    }
}

impl Values {
    fn read(block: &[Directive], maps: &Maps) -> Result<Values, Fault> {
        let mut values = Values::default();
        block.iter().try_for_each(|line| values.read_line(line, maps))?;
        Ok(values)
    }

    fn results(&self) -> impl Iterator<Item = &Template> {
        let names = self.suffixes.values().chain(self.prefixes.values());
        self.exact.values().chain(names).chain(self.patterns.iter().map(|(_, result)| result)).chain(&self.default)
    }

    fn read_line(&mut self, line: &Directive, maps: &Maps) -> Result<(), Fault> {
        let key = &line.name;
        let result = match (&line.args[..], &line.block) {
            ([result], None) => result,
            // This crate computes values anew for each use, with or without the word.
            ([], None) if key.text == "volatile" => return Ok(()),
            ([], None) if key.text == "hostnames" => {
                self.has_hostnames = true;
                return Ok(());
            }
            _ => return Err(key.span.value("a line of map is a value and a result", USAGE)),
        };
        if let Some(expression) = key.text.strip_prefix('~') {
            let (expression, ignore_case) = match expression.strip_prefix('*') {
                Some(expression) => (expression, true),
                None => (expression, false),
            };
            let pattern = Pattern::new(expression, ignore_case, key, key.text.len() - expression.len())?;
            let result = Template::with_groups(result, maps, &named_groups(&pattern, key)?)?;
            self.patterns.push((pattern, result));
            return Ok(());
        }
        let result = Template::new(result, maps)?;
        let lower = key.text.strip_prefix('\\').unwrap_or(&key.text).to_ascii_lowercase();
        let name = Some(&lower).filter(|_| self.has_hostnames && !key.text.starts_with('\\'));
        let suffix = name.and_then(|name| name.strip_prefix('*').unwrap_or(name).strip_prefix('.'));
        let prefix = name.and_then(|name| name.strip_suffix(".*"));
        let replaced = if key.text == "default" {
            self.default.replace(result)
        } else if let Some(suffix) = suffix {
            // `.example.org` is the name itself too.
            let own = (!lower.starts_with('*')).then(|| self.exact.insert(suffix.into(), result.clone())).flatten();
            own.or(self.suffixes.insert(format!(".{suffix}").into_bytes(), result))
        } else if let Some(prefix) = prefix {
            self.prefixes.insert(format!("{prefix}.").into_bytes(), result)
        } else {
            self.exact.insert(lower.into_bytes(), result)
        };
        match replaced {
            None => Ok(()),
            Some(_) => Err(key.span.duplicate(format!("\"{}\" is duplicate", key.text), "each value once in a map")),
        }
    }

    /// Returns the result for a name by its longest known end, else by its longest known beginning.
    fn name(&self, lower: &[u8]) -> Option<&Template> {
        const MAX_NAME: usize = 255;
        if !self.has_hostnames || lower.len() > MAX_NAME {
            return None;
        }
        let dots = || (1..lower.len()).filter(|&at| lower[at] == b'.');
        let suffix = dots().find_map(|dot| self.suffixes.get(&lower[dot..]));
        suffix.or_else(|| dots().rev().find_map(|dot| self.prefixes.get(&lower[..=dot])))
    }

    /// Calls `write` with the result for a value, and the scope with the groups of its expression.
    fn find(&self, source: &[u8], scope: &Scope<'_>, write: impl FnOnce(&Template, &Scope<'_>)) {
        let mut lower = source.to_ascii_lowercase();
        if self.has_hostnames && lower.last() == Some(&b'.') {
            lower.pop();
        }
        if let Some(result) = self.exact.get(&lower).or_else(|| self.name(&lower)) {
            return write(result, scope);
        }
        for (pattern, result) in &self.patterns {
            if let Some(captures) = pattern.captures(source) {
                return write(result, &Scope { captures, ..*scope });
            }
        }
        if let Some(default) = &self.default {
            write(default, scope);
        }
    }
}

/// Returns the names of the groups in an expression, in lower case.
fn groups_of(text: &str) -> impl Iterator<Item = String> {
    let starts = text.split("(?").skip(1).map(|rest| rest.strip_prefix('P').unwrap_or(rest));
    starts.filter_map(|rest| {
        let (name, _) = rest.strip_prefix('<')?.split_once('>')?;
        let is_name = !name.is_empty() && name.chars().all(is_name_letter);
        is_name.then(|| name.to_ascii_lowercase())
    })
}

/// Returns the names of an expression's groups in lower case, with their number.
fn named_groups(pattern: &Pattern, word: &Word) -> Result<Vec<(String, u8)>, Fault> {
    let named = pattern.group_names().enumerate().filter_map(|(number, name)| Some((number, name?)));
    named
        .map(|(number, name)| match u8::try_from(number) {
            Ok(number @ 1..=9) => Ok((name.to_ascii_lowercase(), number)),
            _ => {
                let expected = "(?:...) for groups that are not used";
                Err(word.span.unsupported("more than nine groups before a named one", expected))
            }
        })
        .collect()
}
