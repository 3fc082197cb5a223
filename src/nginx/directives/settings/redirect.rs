//! `proxy_redirect`, `proxy_cookie_path` and `proxy_cookie_domain`: change addresses in a node's
//! response, so that they lead to the front end.

use std::borrow::Cow;

use crate::nginx::directives::catalogue::wrong_number;
use crate::nginx::syntax::{Directive, Fault, Pattern};
use crate::nginx::variables::{Maps, Scope, Template, ValueParts, check_header};

/// A `proxy_redirect`, `proxy_cookie_path` or `proxy_cookie_domain` directive.
#[derive(Debug, Clone)]
pub(crate) enum RedirectRule {
    /// The address of `proxy_pass` becomes the location's path. This is also the rule without a
    /// directive.
    Default,
    /// No value is changed, even if other directives have rules.
    Off,
    Replace(Box<Redirect>),
}

/// A prefix or an expression, and its replacement.
#[derive(Debug, Clone)]
pub(crate) struct Redirect {
    pub(crate) from: Template,
    pub(crate) to: Template,
    /// An expression instead of `from`. The replacement then replaces the whole value.
    pattern: Option<Pattern>,
}

/// A [`Redirect`] for one request.
#[derive(Debug)]
pub(crate) struct Change<'s> {
    /// The prefix that is replaced.
    pub(crate) from: Cow<'s, [u8]>,
    to: Cow<'s, [u8]>,
    /// An expression instead of the prefix.
    pattern: Option<(&'s Pattern, ValueParts)>,
    /// Values with these prefixes are not changed.
    except: Vec<Cow<'s, [u8]>>,
    /// Whether the prefix must end at the end of a path segment.
    is_of_segments: bool,
}

impl RedirectRule {
    pub(super) fn read(directive: &Directive, maps: &Maps) -> Result<RedirectRule, Fault> {
        match &directive.args[..] {
            [word] if word.text == "default" && directive.is("proxy_redirect") => Ok(RedirectRule::Default),
            [word] if word.text == "off" => Ok(RedirectRule::Off),
            [from, to] => {
                let pattern = match from.text.strip_prefix('~') {
                    Some(text) => {
                        let ignore_case = text.starts_with('*');
                        let text = text.strip_prefix('*').unwrap_or(text);
                        Some(Pattern::new(text, ignore_case, from, from.text.len() - text.len())?)
                    }
                    None => None,
                };
                if from.text.is_empty() {
                    let message = format!("{} from an empty prefix", directive.name.text);
                    return Err(directive.span().unsupported(message, format!("{} FROM TO;", directive.name.text)));
                }
                check_header(to)?;
                let (from, to) = match &pattern {
                    Some(pattern) => (Template::literal(""), Template::with_groups(to, maps, pattern, from)?),
                    None => (Template::new(from, maps)?, Template::new(to, maps)?),
                };
                Ok(RedirectRule::Replace(Box::new(Redirect { from, to, pattern })))
            }
            _ => Err(wrong_number(directive)),
        }
    }

    /// Returns the replacement of this directive. `default` is that of the location itself.
    pub(crate) fn with_default(&self, default: &Option<Redirect>) -> Option<Redirect> {
        match self {
            RedirectRule::Default => default.clone(),
            RedirectRule::Off => None,
            RedirectRule::Replace(redirect) => Some(Redirect::clone(redirect)),
        }
    }
}

impl Redirect {
    pub(crate) fn literal(from: &str, to: &str) -> Redirect {
        Redirect { from: Template::literal(from), to: Template::literal(to), pattern: None }
    }

    pub(crate) fn for_request(&self, scope: &Scope<'_>) -> Change<'_> {
        let pattern = self.pattern.as_ref().map(|pattern| (pattern, self.to.parts(scope)));
        Change {
            from: self.from.value(scope),
            to: self.to.value(scope),
            pattern,
            except: Vec::new(),
            is_of_segments: false,
        }
    }
}

impl<'s> Change<'s> {
    /// Creates a change of a prefix. A value that already has the replacement is not changed.
    pub(crate) fn of_prefix(from: impl Into<Cow<'s, [u8]>>, to: impl Into<Cow<'s, [u8]>>) -> Self {
        let (from, to) = (from.into(), to.into());
        let except = if to.starts_with(&from) { vec![to.clone()] } else { Vec::new() };
        Change { from, to, pattern: None, except, is_of_segments: false }
    }

    /// Restricts the change to whole path segments: the prefix must not end within a segment.
    pub(crate) fn of_segments(self) -> Self {
        Change { is_of_segments: true, ..self }
    }

    /// Creates a change of a path. A value that begins with `//`, a host without a scheme, is not
    /// changed.
    pub(crate) fn of_path(from: &'s [u8], to: &'s [u8]) -> Self {
        let mut change = Change::of_prefix(from, to);
        change.except.push(Cow::Borrowed(b"//"));
        change
    }

    /// Returns a value with its prefix replaced, or the replacement if an expression matches.
    pub(crate) fn apply(&self, value: &[u8]) -> Option<Vec<u8>> {
        match &self.pattern {
            Some((pattern, to)) => pattern.captures(value).map(|captures| to.fill(&captures)),
            None if self.except.iter().any(|prefix| value.starts_with(prefix)) => None,
            None => {
                let rest = value.strip_prefix(&*self.from)?;
                let is_whole = || self.from.ends_with(b"/") || matches!(rest, [] | [b'/' | b'?' | b';' | b'#', ..]);
                (!self.is_of_segments || is_whole()).then(|| [&*self.to, rest].concat())
            }
        }
    }

    /// Returns the replacement of a domain. Its case and leading dot are ignored.
    fn apply_to_domain(&self, domain: &[u8]) -> Option<Vec<u8>> {
        match &self.pattern {
            Some(_) => self.apply(domain),
            None => {
                let (from, domain) =
                    (self.from.strip_prefix(b".").unwrap_or(&self.from), domain.strip_prefix(b".").unwrap_or(domain));
                from.eq_ignore_ascii_case(domain).then(|| self.to.to_vec())
            }
        }
    }
}

/// A `proxy_cookie_flags` directive: flags of the nodes' cookies.
#[derive(Debug, Clone)]
pub(crate) struct CookieFlags {
    /// The name of the cookie, or an expression.
    name: Result<String, Pattern>,
    secure: Option<bool>,
    http_only: Option<bool>,
    /// The `SameSite` attribute. `Some(None)` removes it.
    same_site: Option<Option<&'static str>>,
}

impl CookieFlags {
    /// Reads `proxy_cookie_flags`. Returns `None` for `off`.
    pub(super) fn read(directive: &Directive) -> Result<Option<CookieFlags>, Fault> {
        let Some((name, flags)) = directive.args.split_first() else { return Err(wrong_number(directive)) };
        if flags.is_empty() {
            return if name.text == "off" { Ok(None) } else { Err(wrong_number(directive)) };
        }
        if name.text.contains('$') && !name.text.starts_with('~') {
            return Err(name.span.unsupported("a variable in the name of a cookie", "NAME or ~EXPRESSION"));
        }
        let name = match name.text.strip_prefix('~') {
            Some(text) => {
                let bare = text.strip_prefix('*').unwrap_or(text);
                Err(Pattern::new(bare, bare.len() < text.len(), name, name.text.len() - bare.len())?)
            }
            None => Ok(name.text.clone()),
        };
        let mut cookie = CookieFlags { name, secure: None, http_only: None, same_site: None };
        for flag in flags {
            match flag.text.as_str() {
                "secure" => cookie.secure = Some(true),
                "nosecure" => cookie.secure = Some(false),
                "httponly" => cookie.http_only = Some(true),
                "nohttponly" => cookie.http_only = Some(false),
                "samesite=strict" => cookie.same_site = Some(Some("Strict")),
                "samesite=lax" => cookie.same_site = Some(Some("Lax")),
                "samesite=none" => cookie.same_site = Some(Some("None")),
                "nosamesite" => cookie.same_site = Some(None),
                _ => {
                    return Err(flag.invalid(
                        "flag",
                        "secure, httponly, samesite=strict|lax|none, nosecure, nohttponly or nosamesite",
                    ));
                }
            }
        }
        Ok(Some(cookie))
    }

    fn is_for(&self, name: &str) -> bool {
        match &self.name {
            Ok(known) => known.eq_ignore_ascii_case(name),
            Err(pattern) => pattern.captures(name.as_bytes()).is_some(),
        }
    }

    fn apply(&self, attributes: &mut Vec<String>) {
        let is = |attribute: &str, name: &str| {
            attribute.split('=').next().unwrap_or_default().trim().eq_ignore_ascii_case(name)
        };
        let mut set = |name: &str, value: Option<String>| {
            let place = attributes.iter().position(|attribute| is(attribute, name));
            match (place, value) {
                (Some(place), Some(value)) => attributes[place] = value,
                (Some(place), None) => _ = attributes.remove(place),
                (None, Some(value)) => attributes.push(value),
                (None, None) => {}
            }
        };
        if let Some(secure) = self.secure {
            set("secure", secure.then(|| "Secure".to_owned()));
        }
        if let Some(http_only) = self.http_only {
            set("httponly", http_only.then(|| "HttpOnly".to_owned()));
        }
        if let Some(same_site) = self.same_site {
            set("samesite", same_site.map(|value| format!("SameSite={value}")));
        }
    }
}

/// The changes to the cookies of a node's response.
#[derive(Debug, Default)]
pub(crate) struct CookieEdits<'s> {
    pub(crate) paths: Vec<Change<'s>>,
    pub(crate) domains: Vec<Change<'s>>,
    pub(crate) flags: &'s [CookieFlags],
}

impl CookieEdits<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.domains.is_empty() && self.flags.is_empty()
    }

    /// Returns the changed value of a `Set-Cookie` header.
    pub(crate) fn apply(&self, cookie: &str) -> Vec<u8> {
        let mut parts = cookie.split(';').map(str::trim);
        let pair = parts.next().unwrap_or_default();
        let mut attributes: Vec<String> = parts.map(str::to_owned).collect();
        for attribute in &mut attributes {
            let (name, value) =
                attribute.split_once('=').map_or((attribute.as_str(), ""), |(name, value)| (name.trim(), value.trim()));
            let changed = match name {
                name if name.eq_ignore_ascii_case("path") => {
                    self.paths.iter().find_map(|change| change.apply(value.as_bytes()))
                }
                name if name.eq_ignore_ascii_case("domain") => {
                    self.domains.iter().find_map(|change| change.apply_to_domain(value.as_bytes()))
                }
                _ => None,
            };
            if let Some(changed) = changed {
                *attribute = format!("{name}={}", String::from_utf8_lossy(&changed));
            }
        }
        let name = pair.split('=').next().unwrap_or_default();
        if let Some(flags) = self.flags.iter().find(|flags| flags.is_for(name)) {
            flags.apply(&mut attributes);
        }
        let mut value = pair.to_owned();
        for attribute in attributes {
            value.push_str("; ");
            value.push_str(&attribute);
        }
        value.into_bytes()
    }
}
