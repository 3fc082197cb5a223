//! `map`, `geo` and `split_clients`: a variable whose value depends on another's.
//!
//! nginx's example for `sticky route` uses `map` to take the route out of a session id. A map
//! refers only to maps that are already compiled, so evaluating one always ends.

mod values;

use std::collections::HashMap;
use std::sync::Arc;

use self::values::Values;
use super::geo::Geo;
use super::names::{groups_of, may_be_group};
use super::order::in_order;
use super::sink::Sink;
use super::split_clients::Split;
use super::{Scope, Template, is_built_in, is_name_letter};
use crate::nginx::syntax::{Directive, Fault, Pattern, Word};

/// One block of `map`, `geo` or `split_clients`.
#[derive(Debug)]
pub(super) struct Map {
    name: String,
    pub(super) source: Template,
    rules: Rules,
    /// Whether a value depends on the response.
    pub(super) needs_outcome: bool,
    /// The slot of the value that a request keeps. `None` if each use computes the value, because
    /// it is `volatile` or cannot change.
    slot: Option<usize>,
    /// The length of the longest chain of maps, with this one.
    depth: usize,
    /// The number of values on all paths through the maps inside it.
    ways: usize,
}

/// The maximum depth of maps inside each other, because their values are computed by recursion.
const MAX_DEPTH: usize = 32;

/// The maximum number of values on all paths through maps inside each other. It bounds the work of
/// checks.
const MAX_WAYS: usize = 1 << 20;

#[derive(Debug)]
enum Rules {
    Values(Values),
    Geo(Geo),
    Split(Split),
}

/// The variables that a configuration defines.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    /// The maps, by the name of their variable in lower case.
    maps: HashMap<String, Arc<Map>>,
    sets: Vec<SetVariable>,
    /// The positions in `sets`, by the name in lower case.
    slots: HashMap<String, usize>,
    /// The number of maps whose value a request keeps.
    kept: usize,
}

/// A variable whose value comes from `set` or from a group of an expression.
#[derive(Debug, Default)]
struct SetVariable {
    /// The values that the `set` directives of the configuration give it.
    values: Vec<SetValue>,
    /// Whether a group of an expression has its name.
    is_group: bool,
}

/// A value that a `set` gives to a variable.
#[derive(Debug)]
pub(super) struct SetValue {
    pub(super) value: Template,
    /// The value that the surrounding `if` matches with an expression. The value of `set` may use
    /// the groups.
    pub(super) subject: Option<Template>,
}

const USAGE: &str = "map SOURCE $NAME { VALUE RESULT; ~EXPRESSION RESULT; default RESULT; }";

impl Maps {
    /// Returns whether a directive defines a variable that [`Maps::read`] reads.
    pub(crate) fn is(directive: &Directive) -> bool {
        matches!(directive.name.text.as_str(), "map" | "geo" | "split_clients")
    }

    /// Reads all such blocks. They may refer to each other in any order, but not in a cycle.
    ///
    /// `values` are the directives that give variables their values, with the block of each.
    pub(crate) fn read<'d>(
        blocks: impl Iterator<Item = &'d Directive>,
        values: &[(&'d Directive, &'d Directive)],
    ) -> Result<Maps, Fault> {
        let mut maps = Maps::default();
        for (set, _) in values.iter().filter(|(directive, _)| directive.is("set")) {
            let name = set.args.first().and_then(|name| name.text.strip_prefix('$')).map(str::to_ascii_lowercase);
            if let Some(name) = name.filter(|name| !is_built_in(name)) {
                maps.add_set(name);
            }
        }
        let has_groups =
            |directive: &Directive| ["if", "location", "rewrite", "server_name"].iter().any(|name| directive.is(name));
        let patterns = values.iter().filter(|(directive, _)| has_groups(directive));
        for name in patterns.flat_map(|(directive, _)| directive.args.iter().flat_map(|word| groups_of(&word.text))) {
            if may_be_group(&name) {
                maps.add_set(name).is_group = true;
            }
        }
        // The first block of a cycle is an error, which names the variable.
        for block in in_order(&blocks.collect::<Vec<_>>()) {
            let mut map = Map::read(block, &maps)?;
            if !map.is_volatile() && !map.needs_outcome && map.may_change() {
                map.slot = Some(maps.kept);
                maps.kept += 1;
            }
            if maps.maps.contains_key(&map.name) {
                let message = format!("map: the variable \"${}\" has a map already", map.name);
                return Err(block.span().duplicate(message, "another name"));
            }
            maps.maps.insert(map.name.clone(), Arc::new(map));
        }
        for (set, block) in values.iter().filter(|(directive, _)| directive.is("set")) {
            let [name, value] = &set.args[..] else { continue };
            let slot = maps.set_slot(&name.text.trim_start_matches('$').to_ascii_lowercase());
            // The reader of the block reports what is wrong with a value.
            if let (Some(slot), Some(value)) = (slot, SetValue::read(value, block, &maps)) {
                maps.sets[slot].values.push(value);
            }
        }
        Ok(maps)
    }

    /// Returns the variable with a name in lower case, which is added if it is new.
    fn add_set(&mut self, name: String) -> &mut SetVariable {
        let slot = *self.slots.entry(name).or_insert(self.sets.len());
        if slot == self.sets.len() {
            self.sets.push(SetVariable::default());
        }
        &mut self.sets[slot]
    }

    /// Returns the slot of a variable of `set`, by its name in lower case.
    pub(crate) fn set_slot(&self, name: &str) -> Option<usize> {
        self.slots.get(name).copied()
    }

    /// Returns whether a group of an expression gives a value to the variable of a slot.
    pub(super) fn is_group(&self, slot: usize) -> bool {
        self.sets.get(slot).is_some_and(|variable| variable.is_group)
    }

    /// Returns the expression with its named groups bound to variables.
    ///
    /// # Errors
    /// A group has the name of a built-in variable.
    pub(crate) fn bind(&self, pattern: Pattern, word: &Word) -> Result<Pattern, Fault> {
        pattern.with_variables(word, |name| self.set_slot(name))
    }

    /// Returns the number of variables whose value comes from `set` or a group of an expression.
    pub(crate) fn set_slots(&self) -> usize {
        self.sets.len()
    }

    /// Returns the number of maps whose value a request keeps.
    pub(crate) fn kept_values(&self) -> usize {
        self.kept
    }

    /// Returns the values that `set` gives to the variable of a slot.
    pub(super) fn set_values(&self, slot: usize) -> impl Iterator<Item = &SetValue> {
        self.sets.get(slot).into_iter().flat_map(|variable| &variable.values)
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Map>> {
        self.maps.get(name).cloned()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.maps.keys().chain(self.slots.keys()).map(String::as_str)
    }
}

impl SetValue {
    fn read(value: &Word, block: &Directive, maps: &Maps) -> Option<Self> {
        // The groups of a `rewrite` in the block come after those of its condition.
        let has_rewrite = block.block.iter().flatten().any(|inner| inner.is("rewrite"));
        // The block of `!~` runs only if the expression does not match, so there are no groups.
        let has_groups = |word: &Word| !word.text.starts_with('!') && !has_rewrite;
        let subject = subject(block).filter(|(_, operator)| has_groups(operator));
        let subject = subject.and_then(|(word, _)| Template::new(&word, maps).ok());
        Some(SetValue { value: Template::new(value, maps).ok()?, subject })
    }
}

/// Returns the value that an `if` matches with an expression, and the operator.
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
        let map = Map { name: variable, source, rules, needs_outcome: false, slot: None, depth: 0, ways: 0 };
        map.bounded().ok_or_else(|| {
            let message =
                format!("{kind}: the values of \"${}\" refer to too many others", name.text.trim_start_matches('$'));
            name.span.limit(message, format!("at most {MAX_DEPTH} inside each other, of a million values together"))
        })
    }

    /// Counts the maps inside this one; `None` if there are too many.
    fn bounded(mut self) -> Option<Map> {
        let (mut depth, mut ways, mut needs_outcome) = (1, 0_usize, false);
        for value in std::iter::once(&self.source).chain(self.results()) {
            needs_outcome |= value.needs_outcome();
            ways = ways.saturating_add(1);
            for inner in value.maps() {
                (depth, ways) = (depth.max(inner.depth + 1), ways.saturating_add(inner.ways));
            }
        }
        (self.depth, self.ways, self.needs_outcome) = (depth, ways, needs_outcome);
        (depth <= MAX_DEPTH && ways <= MAX_WAYS).then_some(self)
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

    fn is_volatile(&self) -> bool {
        matches!(&self.rules, Rules::Values(values) if values.is_volatile)
    }

    pub(super) fn may_change(&self) -> bool {
        self.source.may_change() || self.results().any(Template::may_change)
    }

    pub(super) fn mentions(&self, start: &str) -> bool {
        self.source.mentions(start) || self.results().any(|result| result.mentions(start))
    }

    /// Writes the value for a request to `sink`.
    pub(super) fn write(&self, scope: &Scope<'_>, sink: Sink<'_>) {
        let compute = |sink: Sink<'_>| {
            let source = self.source.value(scope);
            self.find(&source, scope, |result, scope| result.write(scope, sink));
        };
        let kept = self.slot.zip(scope.map_values).and_then(|(slot, values)| {
            values.get(slot, || {
                let mut value = Vec::new();
                compute(&mut |piece| value.extend_from_slice(piece));
                value
            })
        });
        match kept {
            Some(value) => sink(value),
            None => compute(sink),
        }
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
