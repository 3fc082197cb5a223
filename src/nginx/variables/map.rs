//! `map`: a variable whose value follows from another's. The recipe for `sticky route` needs it: it takes the route out of a
//! session id with a regular expression.
//!
//! A map refers only to maps that are compiled already, so that evaluating one always ends.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::error::{ErrorKind, Fault};
use super::super::lexer::Word;
use super::super::parser::Directive;
use super::super::pattern::Pattern;
use super::super::values;
use super::{Scope, Template, Variable, is_known};

/// One `map` block.
#[derive(Debug)]
pub(crate) struct Map {
    name: String,
    source: Template,
    /// By the value in lower case, as nginx compares.
    exact: HashMap<Vec<u8>, Template>,
    /// In the order of the file; asked where no exact value fits.
    patterns: Vec<(Pattern, Template)>,
    default: Option<Template>,
}

/// The maps of a configuration, by the name of their variable in lower case.
#[derive(Debug, Default)]
pub(crate) struct Maps(HashMap<String, Arc<Map>>);

const USAGE: &str = "map SOURCE $NAME { VALUE RESULT; ~EXPRESSION RESULT; default RESULT; }";

impl Maps {
    /// Reads all `map` blocks. They may refer to each other in any order, but not in a circle.
    pub(in crate::nginx) fn read<'d>(blocks: impl Iterator<Item = &'d Directive>) -> Result<Maps, Fault> {
        let (mut maps, mut pending) = (Maps::default(), blocks.collect::<Vec<_>>());
        while !pending.is_empty() {
            let (before, mut fault) = (pending.len(), None);
            let mut later = Vec::new();
            for block in pending {
                match Map::read(block, &maps) {
                    Ok(map) if maps.0.contains_key(&map.name) => {
                        let message = format!("map: the variable \"${}\" has a map already", map.name);
                        return Err(Fault::new(ErrorKind::Duplicate, block.span(), message).expecting("another name"));
                    }
                    Ok(map) => _ = maps.0.insert(map.name.clone(), Arc::new(map)),
                    Err(why) => {
                        // What one map lacks may be the mistake of another.
                        if fault.as_ref().is_none_or(|fault: &Fault| fault.kind() == ErrorKind::Unknown) {
                            fault = Some(why);
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
        Ok(maps)
    }

    pub(super) fn variable(&self, name: &str) -> Option<Variable> {
        self.0.get(name).cloned().map(Variable::Mapped)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Map {
    fn read(directive: &Directive, maps: &Maps) -> Result<Map, Fault> {
        let ([source, name], Some(block)) = (&directive.args[..], &directive.block) else {
            return Err(
                Fault::new(ErrorKind::Value, directive.span(), "map takes a source and a variable").expecting(USAGE)
            );
        };
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let variable = name.text.strip_prefix('$').filter(|name| !name.is_empty() && name.chars().all(letter));
        let Some(variable) = variable.map(str::to_ascii_lowercase) else {
            return Err(values::invalid(name, "variable").expecting("$NAME of letters, digits and \"_\""));
        };
        if is_known(&variable) {
            let message = format!("map: the variable \"${variable}\" has a meaning already");
            return Err(Fault::new(ErrorKind::Duplicate, name.span, message).expecting("another name"));
        }
        let mut map = Map {
            name: variable,
            source: Template::new(source, maps)?,
            exact: HashMap::new(),
            patterns: Vec::new(),
            default: None,
        };
        for line in block {
            map.line(line, maps)?;
        }
        Ok(map)
    }

    fn line(&mut self, line: &Directive, maps: &Maps) -> Result<(), Fault> {
        let key = &line.name;
        let fault = |kind, message: String| Fault::new(kind, key.span, message);
        let result = match (&line.args[..], &line.block) {
            ([result], None) => result,
            // Nothing is kept from one use to the next.
            ([], None) if key.text == "volatile" => return Ok(()),
            ([], None) if key.text == "hostnames" => {
                return Err(fault(ErrorKind::Unsupported, "\"hostnames\" of map is not supported".into())
                    .expecting("~EXPRESSION RESULT;"));
            }
            _ => return Err(fault(ErrorKind::Value, "a line of map is a value and a result".into()).expecting(USAGE)),
        };
        let twice =
            || fault(ErrorKind::Duplicate, format!("\"{}\" is duplicate", key.text)).expecting("it once in a map");
        if key.text == "default" {
            return match self.default.replace(Template::new(result, maps)?) {
                None => Ok(()),
                Some(_) => Err(twice()),
            };
        }
        if let Some(expression) = key.text.strip_prefix('~') {
            let (expression, any_case) = match expression.strip_prefix('*') {
                Some(expression) => (expression, true),
                None => (expression, false),
            };
            let pattern = Pattern::new(expression, any_case, key, key.text.len() - expression.len())?;
            let result = Template::of_pattern(result, maps, &groups(&pattern, key)?)?;
            self.patterns.push((pattern, result));
            return Ok(());
        }
        let value = key.text.strip_prefix('\\').unwrap_or(&key.text).to_ascii_lowercase().into_bytes();
        match self.exact.insert(value, Template::new(result, maps)?) {
            None => Ok(()),
            Some(_) => Err(twice()),
        }
    }

    /// Hands the value for a request to `sink`.
    pub(super) fn write(&self, scope: &Scope<'_>, sink: &mut dyn FnMut(&[u8])) {
        let source = self.source.value(scope);
        if let Some(result) = self.exact.get(&source.to_ascii_lowercase()) {
            return result.write(scope, sink);
        }
        for (pattern, result) in &self.patterns {
            if let Some(captures) = pattern.captures(&source) {
                return result.write(&Scope { captures, ..*scope }, sink);
            }
        }
        if let Some(default) = &self.default {
            default.write(scope, sink);
        }
    }
}

/// The names of an expression's groups in lower case, by their number.
fn groups(pattern: &Pattern, word: &Word) -> Result<Vec<(String, u8)>, Fault> {
    let named = pattern.group_names().enumerate().filter_map(|(number, name)| Some((number, name?)));
    named
        .map(|(number, name)| match u8::try_from(number) {
            Ok(number @ 1..=9) => Ok((name.to_ascii_lowercase(), number)),
            _ => Err(Fault::new(ErrorKind::Unsupported, word.span, "more than nine groups before a named one")
                .expecting("(?:...) for groups that are not used")),
        })
        .collect()
}

/// Maps are one where their variable is one: there are no two of a name.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Map {}
