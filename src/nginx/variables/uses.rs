//! Values as URIs, as replacements of an expression's match, and as a choice of upstreams.

use std::cell::Cell;

use super::{Maps, Piece, Scope, Template, Variable};
use crate::kylin::NormalizedPath;
use crate::nginx::syntax::Captures;
use crate::nginx::uri::{escape, escape_args, escape_unsendable};

/// The maximum number of values of maps and `set` that a search for the values of a template
/// visits.
const MAX_STEPS: u32 = 1 << 20;

/// A value with groups of an expression that are not yet known: bytes, and numbers of groups.
#[derive(Debug)]
pub(crate) struct ValueParts(Vec<Result<Vec<u8>, u8>>);

impl ValueParts {
    /// Returns the value with the groups filled in.
    pub(crate) fn fill(&self, captures: &Captures<'_>) -> Vec<u8> {
        let group = |group: &u8| captures.0.get(usize::from(*group)).copied().flatten().unwrap_or_default();
        self.0.iter().flat_map(|part| part.as_ref().map_or_else(group, Vec::as_slice)).copied().collect()
    }
}

/// Returns whether the path of the request has escapes or a plus, which nginx remembers.
fn is_escaped(scope: &Scope<'_>) -> bool {
    scope.request_uri.split('?').next().unwrap_or_default().contains(['%', '+'])
}

impl Template {
    /// Returns the value for a URI. Variables with decoded values are escaped.
    pub(crate) fn to_uri(&self, scope: &Scope<'_>) -> Vec<u8> {
        self.escaped(scope, escape, Some(escape))
    }

    /// Returns the value for the arguments of a URI. As in nginx, groups of an expression cannot
    /// add arguments if their path was escaped (`ngx_http_script_copy_capture_code`).
    pub(crate) fn to_args(&self, scope: &Scope<'_>) -> Vec<u8> {
        self.escaped(scope, if is_escaped(scope) { escape_args } else { escape }, Some(escape))
    }

    /// Returns the value for `set`. As in nginx, groups of an expression are escaped like arguments
    /// if their path was escaped and no `rewrite` came before.
    pub(crate) fn to_set(&self, scope: &Scope<'_>, is_first: bool) -> Vec<u8> {
        match is_first && is_escaped(scope) {
            true => self.escaped(scope, escape_args, None),
            false => self.to_bytes(scope),
        }
    }

    fn escaped(
        &self,
        scope: &Scope<'_>,
        escape_group: fn(&[u8]) -> String,
        escape_path: Option<fn(&[u8]) -> String>,
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len());
        for piece in &self.pieces {
            let from = bytes.len();
            let escape = match piece {
                Piece::Literal(text) => {
                    bytes.extend_from_slice(text.as_bytes());
                    None
                }
                Piece::Variable { variable, .. } => {
                    variable.write(scope, &mut |part| bytes.extend_from_slice(part));
                    match variable {
                        Variable::Capture(_) => Some(escape_group),
                        Variable::Path => escape_path,
                        _ => None,
                    }
                }
            };
            // The parts of a URI that are not escaped must be sendable.
            let is_uri = escape_path.is_some();
            let escape = escape.or(is_uri.then_some(escape_unsendable as fn(&[u8]) -> String));
            if let Some(escape) = escape.filter(|_| bytes.len() > from) {
                let escaped = escape(&bytes[from..]);
                bytes.truncate(from);
                bytes.extend_from_slice(escaped.as_bytes());
            }
        }
        bytes
    }

    /// Returns the value with open places for the groups of an expression that is matched later.
    pub(crate) fn parts(&self, scope: &Scope<'_>) -> ValueParts {
        let mut parts = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => parts.push(Ok(text.as_bytes().to_vec())),
                Piece::Variable { variable: Variable::Capture(group), .. } => parts.push(Err(*group)),
                Piece::Variable { variable, .. } => {
                    let mut value = Vec::new();
                    variable.write(scope, &mut |part| value.extend_from_slice(part));
                    parts.push(Ok(value));
                }
            }
        }
        ValueParts(parts)
    }

    /// Returns every value that the template can have; `None` if it depends on more than maps and
    /// `set`.
    pub(crate) fn possible_values(&self, maps: &Maps) -> Option<Vec<String>> {
        self.possible_values_at(maps, 8, &Cell::new(MAX_STEPS))
    }

    /// Returns whether the value may be a path that begins with `start` for a node; `None` if that
    /// depends on more than maps and `set`.
    pub(crate) fn may_begin_with(&self, start: &str, maps: &Maps) -> Option<bool> {
        let read = |value: String| NormalizedPath::parse(&value).map(|path| path.as_str().to_owned()).unwrap_or(value);
        // The longest beginning whose values are known.
        let (count, values) = (0..=self.pieces.len())
            .rev()
            .find_map(|count| {
                let part = Template { pieces: self.pieces[..count].to_vec(), text: String::new() };
                part.possible_values(maps).map(|values| (count, values))
            })
            .unwrap_or_default();
        let values: Vec<_> = values.into_iter().map(read).collect();
        if values.iter().any(|value| value.starts_with(start)) {
            return Some(true);
        }
        let is_open = count < self.pieces.len() && values.iter().any(|value| start.starts_with(value.as_str()));
        if is_open { None } else { Some(false) }
    }

    /// Returns the values that the template may have. `steps` is the number of values that may
    /// still be visited.
    fn possible_values_at(&self, maps: &Maps, depth: usize, steps: &Cell<u32>) -> Option<Vec<String>> {
        const MAX_VALUES: usize = 64;
        let mut values = vec![String::new()];
        for piece in &self.pieces {
            let mut of_piece = Vec::new();
            let of_templates = |templates: &mut dyn Iterator<Item = &Template>, of_piece: &mut Vec<String>| {
                let depth = depth.checked_sub(1)?;
                for template in templates {
                    steps.set(steps.get().checked_sub(1)?);
                    of_piece.extend(template.possible_values_at(maps, depth, steps)?);
                }
                Some(())
            };
            match piece {
                Piece::Literal(text) => of_piece.push(text.clone()),
                Piece::Variable { variable: Variable::Mapped(map), .. } => {
                    of_templates(&mut map.results(), &mut of_piece)?;
                    of_piece.extend((!map.has_default()).then(String::new));
                }
                Piece::Variable { variable: Variable::Set(slot), .. } if maps.is_group(*slot) => return None,
                Piece::Variable { variable: Variable::Set(slot), .. } => {
                    of_templates(&mut maps.set_values(*slot).map(|set| &set.value), &mut of_piece)?;
                }
                Piece::Variable { .. } => return None,
            }
            of_piece.sort();
            of_piece.dedup();
            values = values.iter().flat_map(|start| of_piece.iter().map(move |end| format!("{start}{end}"))).collect();
            if values.len() > MAX_VALUES {
                return None;
            }
        }
        Some(values)
    }
}
