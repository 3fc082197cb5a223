//! `sticky`: how the sessions of an upstream find their server (nginx 1.29.6 and newer).

use std::fmt;
use std::time::Duration;

use crate::nginx::directives::catalogue::{usage, wrong_number};
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::syntax::values::{self, TimeUnit};
use crate::nginx::syntax::{Directive, Fault, Word};
use crate::nginx::variables::{Maps, Template};
use crate::session::{InvalidCookie, SameSite, Secret, StickyCookie};

/// A `sticky` directive.
#[derive(Debug, Clone)]
pub(crate) enum Sticky {
    Cookie(CookieAttributes),
    /// `sticky route`: the first of these that is not empty names the server.
    Route(Vec<Template>),
    Learn(LearnedCookies),
}

/// `sticky cookie`: the front end's own cookie.
#[derive(Debug, Clone, Default)]
pub(crate) struct CookieAttributes {
    name: String,
    /// The time for which a browser keeps the cookie; `None` until the browser closes.
    expires: Option<Duration>,
    domain: Option<String>,
    path: Option<String>,
    http_only: bool,
    secure: bool,
    same_site: Option<SameSite>,
}

/// `sticky learn`: the cookies of the nodes.
#[derive(Debug, Clone)]
pub(crate) struct LearnedCookies {
    /// The names of the cookies in lower case, because nginx ignores case.
    pub(crate) names: Vec<String>,
    /// The time for which a session is remembered after its last request.
    pub(crate) timeout: Duration,
    /// The size of the zone in bytes, which nginx would use for the sessions.
    pub(crate) zone: u64,
    /// Whether front ends share the sessions.
    pub(crate) sync: bool,
}

/// The maximum lifetime of a sticky cookie. `expires=max` is the end of 2037 in nginx.
const MAX_EXPIRES: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The minimum `timeout`, which is the resolution of session stores.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// nginx's default of `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// The minimum size of a zone: nginx requires eight pages.
const MIN_ZONE_BYTES: u64 = 32 << 10;

const COOKIE: &str =
    "sticky cookie NAME [expires=TIME|max] [domain=DOMAIN] [path=PATH] [httponly] [secure] [samesite=strict|lax|none];";
const ROUTE: &str = "sticky route $VARIABLE...;";
const LEARN: &str =
    "sticky learn create=$upstream_cookie_NAME lookup=$cookie_NAME zone=ZONE:SIZE [timeout=TIME] [header] [sync];";

impl Sticky {
    pub(super) fn read(directive: &Directive, maps: &Maps, remarks: &mut Remarks<'_>) -> Result<Sticky, Fault> {
        let Some((kind, parameters)) = directive.args.split_first() else {
            return Err(wrong_number(directive));
        };
        match kind.text.as_str() {
            "cookie" => {
                let text = "sticky cookie: the cookie is signed, not the MD5 of an address; several front ends need the \
                            same secret (SiteBuilder::secret), without one it is random and ends with the process";
                remarks.note(directive.span(), text);
                CookieAttributes::read(directive, parameters).map(Sticky::Cookie)
            }
            "route" => read_route(directive, parameters, maps).map(Sticky::Route),
            "learn" => LearnedCookies::read(directive, parameters, maps, remarks).map(Sticky::Learn),
            other => Err(kind.span.unknown(format!("unknown kind \"{other}\" of sticky"), usage("sticky"))),
        }
    }
}

impl CookieAttributes {
    fn read(directive: &Directive, parameters: &[Word]) -> Result<CookieAttributes, Fault> {
        let Some((name, parameters)) = parameters.split_first() else {
            return Err(directive.span().missing("sticky cookie without a name", COOKIE));
        };
        CookieAttributes::named(name, parameters)
    }

    /// Reads the attributes of a cookie.
    pub(super) fn named(name: &Word, parameters: &[Word]) -> Result<CookieAttributes, Fault> {
        let mut cookie = CookieAttributes { name: name.text.clone(), ..CookieAttributes::default() };
        cookie.check(name)?;
        for word in parameters {
            if word.text.contains('$') {
                return Err(word.span.unsupported("a variable in the attribute of a cookie", "a fixed value"));
            }
            match word.parameter() {
                ("httponly", None) => cookie.http_only = true,
                ("secure", None) => cookie.secure = true,
                ("expires", Some(value)) if value.text == "max" => cookie.expires = Some(MAX_EXPIRES),
                ("expires", Some(value)) => {
                    let expires = values::time(&value, TimeUnit::Seconds)?;
                    if !(Duration::from_secs(2)..=MAX_EXPIRES).contains(&expires) {
                        return Err(value.invalid("time", "2s to 3650d, or max"));
                    }
                    cookie.expires = Some(expires);
                }
                ("domain", Some(value)) => cookie.domain = Some(value.text),
                ("path", Some(value)) => cookie.path = Some(value.text),
                ("samesite", Some(value)) => {
                    cookie.same_site = Some(match value.text.as_str() {
                        "strict" => SameSite::Strict,
                        "lax" => SameSite::Lax,
                        "none" => SameSite::None,
                        _ => return Err(word.invalid("attribute", "samesite=strict, lax or none")),
                    });
                }
                _ => return Err(unknown(word, COOKIE)),
            }
            cookie.check(word)?;
        }
        Ok(cookie)
    }

    /// Checks the cookie after `word` was read, so that an error points at that word.
    fn check(&self, word: &Word) -> Result<(), Fault> {
        self.signed(Secret::new([0; 32])).map(drop).map_err(|error| word.span.value(error.to_string(), COOKIE))
    }

    /// Returns the cookie, signed with `secret`.
    pub(crate) fn signed(&self, secret: Secret) -> Result<StickyCookie, InvalidCookie> {
        let mut cookie = StickyCookie::new(secret)
            .name(&self.name)?
            .http_only(self.http_only)
            .secure(self.secure)
            .same_site(self.same_site);
        if let Some(path) = &self.path {
            cookie = cookie.path(path)?;
        }
        if let Some(domain) = &self.domain {
            cookie = cookie.domain(domain)?;
        }
        match self.expires {
            Some(expires) => Ok(cookie.valid_for(expires)?.persistent(true)),
            None => Ok(cookie),
        }
    }
}

fn read_route(directive: &Directive, parameters: &[Word], maps: &Maps) -> Result<Vec<Template>, Fault> {
    if parameters.is_empty() {
        return Err(directive.span().missing("sticky route without a variable", ROUTE));
    }
    let read = |word: &Word| {
        let template = Template::new(word, maps)?;
        if template.as_literal().is_some() {
            return Err(word.invalid("route", ROUTE));
        }
        if template.has_captures() {
            let expected = "the variable of a map: locations share the upstream";
            return Err(word.span.unsupported("a capture in the route of an upstream", expected));
        }
        Ok(template)
    };
    parameters.iter().map(read).collect()
}

impl LearnedCookies {
    /// Returns the cookie of the nodes for a directive of another module. Its timeout is that of
    /// Kylin's sessions.
    pub(super) fn of_nodes(name: &str) -> LearnedCookies {
        let timeout = Duration::from_secs(8 * 3600);
        LearnedCookies { names: vec![name.to_ascii_lowercase()], timeout, zone: 10 << 20, sync: false }
    }

    fn read(
        directive: &Directive,
        parameters: &[Word],
        maps: &Maps,
        remarks: &mut Remarks<'_>,
    ) -> Result<LearnedCookies, Fault> {
        let (mut create, mut lookup, mut zone, mut timeout, mut sync) = (Vec::new(), Vec::new(), None, None, false);
        for word in parameters {
            match word.parameter() {
                // Sessions are always learned from the head of a response.
                ("header", None) => {}
                ("sync", None) => sync = true,
                ("create", Some(value)) => create.push(created_cookie(word, &value)?),
                ("lookup", Some(value)) => lookup.push(looked_up_cookie(word, &value, maps)?),
                ("zone", Some(value)) => zone = Some(zone_bytes(word, &value)?),
                ("timeout", Some(value)) => {
                    let time = values::time(&value, TimeUnit::Seconds)?;
                    if time < MIN_TIMEOUT {
                        return Err(value.invalid("time", "1s or more"));
                    }
                    timeout = Some(time);
                }
                _ => return Err(unknown(word, LEARN)),
            }
        }
        let missing = |what: &str| directive.span().missing(format!("sticky learn without {what}"), LEARN);
        if create.is_empty() {
            return Err(missing("create="));
        }
        if lookup.is_empty() {
            return Err(missing("lookup="));
        }
        let zone = zone.ok_or_else(|| missing("zone="))?;
        let only_created = create.iter().find(|name| !lookup.contains(name));
        if let Some(other) = only_created.or(lookup.iter().find(|name| !create.contains(name))) {
            let message = format!("sticky learn: the cookie \"{other}\" is not in both create= and lookup=");
            return Err(directive.span().unsupported(message, LEARN));
        }
        create.dedup();
        if timeout.is_none() {
            let text = "sticky learn without timeout: a session is forgotten after 10 minutes without a request, as in \
                        nginx; Kylin keeps one for 480 minutes (timeout=8h)";
            remarks.note(directive.span(), text);
        }
        Ok(LearnedCookies { names: create, timeout: timeout.unwrap_or(DEFAULT_TIMEOUT), zone, sync })
    }
}

/// Returns the cookie of `create=$upstream_cookie_NAME`.
fn created_cookie(word: &Word, value: &Word) -> Result<String, Fault> {
    let name = value.text.strip_prefix('$').unwrap_or_default();
    let name = name.trim_start_matches('{').trim_end_matches('}').to_ascii_lowercase();
    match name.strip_prefix("upstream_cookie_").filter(|cookie| !cookie.is_empty()) {
        Some(cookie) => Ok(cookie.to_owned()),
        None => Err(unsupported(word, word, "create=$upstream_cookie_NAME")),
    }
}

/// Returns the cookie of `lookup=$cookie_NAME`.
fn looked_up_cookie(word: &Word, value: &Word, maps: &Maps) -> Result<String, Fault> {
    let template = Template::new(value, maps)?;
    template.as_cookie().map(str::to_owned).ok_or_else(|| unsupported(word, value, "lookup=$cookie_NAME"))
}

/// Returns the size of `zone=NAME:SIZE`.
fn zone_bytes(word: &Word, value: &Word) -> Result<u64, Fault> {
    let invalid = || word.invalid("zone", "zone=NAME:SIZE, of 32k at least");
    let (name, size) = value.text.split_once(':').ok_or_else(invalid)?;
    let bytes = values::size(&Word { text: size.to_owned(), span: value.span.right(name.len() + 1) })?;
    if name.is_empty() || bytes < MIN_ZONE_BYTES { Err(invalid()) } else { Ok(bytes) }
}

fn unsupported(word: &Word, at: &Word, expected: &str) -> Fault {
    at.span.unsupported(format!("\"{}\" of sticky learn is not supported", word.text), expected)
}

fn unknown(word: &Word, usage: &str) -> Fault {
    word.span.unknown(format!("unknown parameter \"{}\" of sticky", word.text), usage)
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sticky::Cookie(cookie) => {
                write!(f, "cookie {}", cookie.name)?;
                match cookie.expires {
                    Some(expires) => write!(f, ", kept for {} s", expires.as_secs()),
                    None => Ok(()),
                }
            }
            Sticky::Route(variables) => {
                f.write_str("route")?;
                variables.iter().try_for_each(|variable| write!(f, " {variable}"))
            }
            Sticky::Learn(learned) => {
                let shared = if learned.sync { ", shared" } else { "" };
                write!(f, "learn {}, for {} s{shared}", learned.names.join(" "), learned.timeout.as_secs())
            }
        }
    }
}
