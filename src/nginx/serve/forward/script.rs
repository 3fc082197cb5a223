//! Runs the steps of `rewrite`, `if`, `set` and `return` for a request.

use http::StatusCode;

use super::destination::{Destination, is_too_long};
use super::limit::RedirectsLeft;
use crate::nginx::directives::location::{Location, LocationMatch};
use crate::nginx::directives::reply::Reply;
use crate::nginx::directives::rewrite::{AfterRewrite, Condition, Rewrite, Step};
use crate::nginx::directives::server::Server;
use crate::nginx::readings::RequestPaths;
use crate::nginx::serve::response::{BAD_PATH, NOT_FOUND};
use crate::nginx::syntax::{Captures, NamedGroup};
use crate::nginx::uri::{escape, has_dots};
use crate::nginx::variables::{MapValues, Scope};
use crate::proxy::ErrorResponse;

/// The error for a path that a `rewrite` has made empty. nginx uses the same status.
const EMPTY_PATH: ErrorResponse =
    ErrorResponse::new(StatusCode::INTERNAL_SERVER_ERROR, "a rewrite has made the path empty");

/// The changes that the steps have made to a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Rewritten {
    /// The variables of `set`, by their slot.
    sets: Vec<Vec<u8>>,
    /// The values of `map` that were used.
    map_values: MapValues,
    /// The groups of the last regular expression, which has none if it did not match. `None` if the
    /// steps had no expression.
    captures: Option<[Option<Vec<u8>>; 10]>,
    /// The new path, decoded; `None` as long as it is unchanged.
    path: Option<Vec<u8>>,
    /// Whether the path is `$request_uri`, which is not decoded and includes the arguments.
    is_raw: bool,
    /// Whether a `rewrite` of the running script has changed the path.
    has_rewritten: bool,
    /// The new arguments.
    args: Option<Vec<u8>>,
    /// Whether the URI part of `proxy_pass` is ignored, after `rewrite ... break`.
    pub(super) ignores_pass_uri: bool,
    redirects: RedirectsLeft,
}

/// The result of the steps.
enum Outcome<'s> {
    /// The location serves the request.
    Serve,
    /// The location must be searched again for the new path.
    Locate,
    Return(&'s Reply),
    Redirect(u16, Vec<u8>),
}

/// The end of a list of steps.
enum End<'s> {
    /// The last step was done.
    Through,
    Stop,
    Outcome(Outcome<'s>),
}

impl Rewritten {
    /// Creates the state at the beginning, with the groups of the server's name.
    pub(super) fn new(slots: usize, map_values: MapValues, groups: &[NamedGroup], captures: &Captures<'_>) -> Self {
        let mut rewritten = Rewritten { sets: vec![Vec::new(); slots], map_values, ..Rewritten::default() };
        rewritten.assign(groups, captures);
        rewritten
    }

    /// Assigns the values of named groups to variables.
    fn assign(&mut self, groups: &[NamedGroup], captures: &Captures<'_>) {
        for (number, slot) in groups {
            if let Some(set) = self.sets.get_mut(*slot) {
                *set = captures.0.get(usize::from(*number)).copied().flatten().unwrap_or_default().to_vec();
            }
        }
    }

    /// Returns the request for another location.
    ///
    /// # Errors
    /// The request has been led to too many locations.
    pub(super) fn redirected(&self) -> Result<Rewritten, ErrorResponse> {
        let mut redirected = self.clone();
        redirected.redirects.spend()?;
        Ok(redirected)
    }

    /// Returns the request for another reading of its path.
    pub(super) fn fork(&self) -> Rewritten {
        Rewritten { map_values: self.map_values.fork(), ..self.clone() }
    }

    pub(super) fn map_values(&self) -> &MapValues {
        &self.map_values
    }

    /// Sets the path, decoded, and the arguments.
    pub(super) fn set_path(&mut self, path: Vec<u8>, args: Vec<u8>) {
        (self.path, self.args, self.captures) = (Some(path), Some(args), None);
        (self.ignores_pass_uri, self.is_raw) = (false, false);
    }

    /// Returns the new path if it is already a URI, as after `rewrite ^ $request_uri`.
    pub(super) fn raw_uri(&self) -> Option<&str> {
        self.path.as_ref().filter(|_| self.is_raw).and_then(|path| std::str::from_utf8(path).ok())
    }

    /// Returns the new path, decoded, if there is one.
    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }

    /// Returns the request as the variables see it now.
    pub(super) fn scope<'r>(&'r self, scope: &Scope<'r>) -> Scope<'r> {
        let mut scope = *scope;
        (scope.sets, scope.map_values) = (&self.sets, Some(&self.map_values));
        scope.is_rewritten = self.path.is_some();
        if let Some(path) = &self.path {
            scope.path = path;
        }
        if let Some(args) = &self.args {
            scope.args = Some(args);
        }
        if let Some(groups) = &self.captures {
            let mut captures = Captures::default();
            for (group, to) in groups.iter().zip(&mut captures.0) {
                *to = group.as_deref();
            }
            scope.captures = captures;
        }
        scope
    }

    /// Returns path and arguments as a URI, if the path was changed.
    pub(super) fn uri(&self, scope: &Scope<'_>) -> Option<String> {
        let path = escape(self.path.as_ref()?);
        let args = self.args.as_deref().unwrap_or_else(|| scope.query());
        if args.is_empty() { Some(path) } else { Some(format!("{path}?{}", String::from_utf8_lossy(args))) }
    }

    /// Runs the scripts of a server and its locations, and finds the location for the resulting
    /// path. A request that an error has led to a named location begins there.
    pub(super) fn find<'s>(
        &mut self,
        server: &'s Server,
        scope: &Scope<'_>,
        path: &[u8],
        named: Option<&'s Location>,
    ) -> Result<Destination<'s>, ErrorResponse> {
        if let Some(named) = named {
            if let Some(found) = self.run_location(named, scope)? {
                return Ok(found);
            }
            self.redirects.spend()?;
        } else {
            if let Some(reply) = &server.reply {
                return Ok(Destination::Return(reply, None));
            }
            match self.run(&server.script, scope, &mut None)? {
                Outcome::Serve | Outcome::Locate => {}
                Outcome::Return(reply) => return Ok(Destination::Return(reply, None)),
                Outcome::Redirect(status, to) => return Ok(Destination::Redirect(status, to, None)),
            }
        }
        loop {
            let new = self.path.clone();
            let found = match &new {
                Some(new) => locate_new(server, new)?,
                None => server.locate_decoded(path),
            };
            let location = match found {
                Some(LocationMatch::Location { location, captures, groups }) => {
                    if captures.is_some() {
                        self.capture(captures, groups);
                    }
                    location
                }
                Some(LocationMatch::Redirect(location)) => {
                    return Ok(self.refused_at(location, scope).unwrap_or(Destination::AddSlash(location)));
                }
                None => return Err(NOT_FOUND),
            };
            if let Some(refused) = self.refused_at(location, scope) {
                return Ok(refused);
            }
            if let Some(found) = self.run_location(location, scope)? {
                return Ok(found);
            }
            self.redirects.spend()?;
        }
    }

    /// Returns the destination of the request after the steps of a location; `None` if the new path
    /// needs another location.
    fn run_location<'s>(
        &mut self,
        location: &'s Location,
        scope: &Scope<'_>,
    ) -> Result<Option<Destination<'s>>, ErrorResponse> {
        let location = location.for_method(scope.method);
        let mut variant = None;
        let outcome = self.run(&location.script, scope, &mut variant)?;
        let location = variant.map_or(location, |variant| &location.variants[variant]);
        Ok(match outcome {
            Outcome::Locate => None,
            Outcome::Serve => Some(Destination::Location(location)),
            Outcome::Return(reply) => Some(Destination::Return(reply, Some(location))),
            Outcome::Redirect(status, to) => Some(Destination::Redirect(status, to, Some(location))),
        })
    }

    /// Returns the destination of a request that a location refuses. An `internal` location serves
    /// only rewritten paths.
    fn refused_at<'s>(&self, location: &'s Location, scope: &Scope<'_>) -> Option<Destination<'s>> {
        match self.path.is_none() && location.settings.internal {
            true => Some(Destination::Internal(location)),
            false => is_too_long(location, scope).then_some(Destination::TooLong(location)),
        }
    }

    /// Runs the steps of a server or location. `variant` becomes that of the last `if` with a true
    /// condition.
    fn run<'s>(
        &mut self,
        steps: &'s [Step],
        scope: &Scope<'_>,
        variant: &mut Option<usize>,
    ) -> Result<Outcome<'s>, ErrorResponse> {
        let mut is_changed = false;
        self.has_rewritten = false;
        match self.steps(steps, scope, variant, &mut is_changed)? {
            End::Outcome(outcome) => Ok(outcome),
            End::Through | End::Stop if is_changed => Ok(Outcome::Locate),
            End::Through | End::Stop => Ok(Outcome::Serve),
        }
    }

    fn steps<'s>(
        &mut self,
        steps: &'s [Step],
        scope: &Scope<'_>,
        variant: &mut Option<usize>,
        is_changed: &mut bool,
    ) -> Result<End<'s>, ErrorResponse> {
        for step in steps {
            match step {
                Step::Set { slot, value } => {
                    let value = value.to_set(&self.scope(scope), !self.has_rewritten);
                    if let Some(slot) = self.sets.get_mut(*slot) {
                        *slot = value;
                    }
                }
                Step::Return(reply) => return Ok(End::Outcome(Outcome::Return(reply))),
                Step::Break => {
                    // `rewrite ...; break;` is equivalent to `rewrite ... break;`.
                    self.ignores_pass_uri |= std::mem::take(is_changed);
                    return Ok(End::Stop);
                }
                Step::If { condition, then, variant: of_block } => {
                    if self.holds(condition, scope) {
                        // A block without settings of its own has those of the location.
                        *variant = *of_block;
                        match self.steps(then, scope, variant, is_changed)? {
                            End::Through => {}
                            end => return Ok(end),
                        }
                    }
                }
                Step::Rewrite(rewrite) => {
                    let Some((path, args)) = self.rewritten(rewrite, scope) else { continue };
                    if let AfterRewrite::Redirect(status) = rewrite.then {
                        let location = if args.is_empty() { path } else { [&path[..], b"?", &args].concat() };
                        return Ok(End::Outcome(Outcome::Redirect(status, location)));
                    }
                    if path.is_empty() {
                        return Err(EMPTY_PATH);
                    }
                    // The path goes to a node unchanged, so it must not have dot segments.
                    if has_dots(&path) {
                        return Err(BAD_PATH);
                    }
                    (self.path, self.args) = (Some(path), Some(args));
                    self.is_raw = rewrite.path.text() == "$request_uri" || (self.is_raw && rewrite.path.has_captures());
                    self.has_rewritten = true;
                    *is_changed = rewrite.then != AfterRewrite::Break;
                    match rewrite.then {
                        AfterRewrite::Next | AfterRewrite::Redirect(_) => {}
                        AfterRewrite::Last => return Ok(End::Stop),
                        AfterRewrite::Break => {
                            self.ignores_pass_uri = true;
                            return Ok(End::Stop);
                        }
                    }
                }
            }
        }
        Ok(End::Through)
    }

    /// Returns the new path and arguments, if the expression matches: decoded, or escaped for a
    /// redirect.
    fn rewritten(&mut self, rewrite: &Rewrite, scope: &Scope<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
        let subject = self.path.clone().unwrap_or_else(|| scope.path.to_vec());
        if !self.capture(rewrite.pattern.captures(&subject), rewrite.pattern.named_groups()) {
            return None;
        }
        let scope = self.scope(scope);
        let path = match rewrite.then {
            AfterRewrite::Redirect(_) => rewrite.path.to_uri(&scope),
            AfterRewrite::Next | AfterRewrite::Last | AfterRewrite::Break => rewrite.path.to_bytes(&scope),
        };
        let mut args = rewrite.args.as_ref().map(|args| args.to_args(&scope)).unwrap_or_default();
        let kept = if rewrite.keeps_args { scope.query() } else { b"" };
        if !args.is_empty() && !kept.is_empty() {
            args.push(b'&');
        }
        args.extend_from_slice(kept);
        Some((path, args))
    }

    /// Stores the groups of an expression, and returns whether it matched. If it did not match,
    /// there are no groups, as in nginx: those of an earlier expression are gone too.
    fn capture(&mut self, captures: Option<Captures<'_>>, groups: &[NamedGroup]) -> bool {
        let matched = captures.is_some();
        if let Some(captures) = &captures {
            self.assign(groups, captures);
        }
        self.captures = Some(captures.unwrap_or_default().0.map(|group| group.map(<[u8]>::to_vec)));
        matched
    }

    fn holds(&mut self, condition: &Condition, scope: &Scope<'_>) -> bool {
        match condition {
            Condition::File(test, path, is_negated) => {
                path.as_ref().is_some_and(|path| test.holds(path)) != *is_negated
            }
            Condition::True(value) => !matches!(&*value.value(&self.scope(scope)), b"" | b"0"),
            Condition::Equals(one, other, is_negated) => {
                let scope = self.scope(scope);
                (one.value(&scope) == other.value(&scope)) != *is_negated
            }
            Condition::Matches(value, pattern, is_negated) => {
                let value = value.to_bytes(&self.scope(scope));
                self.capture(pattern.captures(&value), pattern.named_groups()) != *is_negated
            }
        }
    }
}

/// Finds the location of a path that a `rewrite` made.
///
/// As in nginx, its slashes are not merged again, and its `;parameters` stay. If a node may read
/// another path, the request must not bypass the rules of that path's location.
fn locate_new<'s, 'p>(server: &'s Server, path: &'p [u8]) -> Result<Option<LocationMatch<'s, 'p>>, ErrorResponse> {
    let found = server.locate_decoded(path);
    // Only an expression matches such a path, and a node gets it only after the slash that a
    // `proxy_pass` with variables adds.
    if !path.starts_with(b"/") {
        return Ok(found);
    }
    let escaped = escape(path);
    let paths = RequestPaths::of(&escaped, false).ok_or(BAD_PATH)?;
    let location = found.as_ref().map(LocationMatch::location);
    let gets_past = |other: &[u8]| {
        let other = server.locate_decoded(other).map(|other| other.location());
        other.is_some_and(|other| other.protects() && !location.is_some_and(|location| std::ptr::eq(location, other)))
    };
    let others = paths.others().iter().map(Vec::as_slice);
    match [paths.path()].into_iter().chain(others).any(|other| other != path && gets_past(other)) {
        true => Err(BAD_PATH),
        false => Ok(found),
    }
}
