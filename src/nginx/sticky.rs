//! `sticky`: how the sessions of an upstream find their server (nginx 1.29.6 and newer).

use std::fmt;
use std::time::Duration;

use super::directives;
use super::error::{ErrorKind, Fault};
use super::level::wrong_number;
use super::lexer::Word;
use super::parser::Directive;
use super::reader::Reader;
use super::values::{self, Step};
use super::variables::Template;
use crate::session::{InvalidCookie, SameSite, Secret, StickyCookie};

/// One `sticky` line.
#[derive(Debug, Clone)]
pub(crate) enum Sticky {
    /// `sticky cookie`.
    Cookie(CookieLine),
    /// `sticky route`: the first of these that is not empty names the server.
    Route(Vec<Template>),
    /// `sticky learn`.
    Learn(LearnLine),
}

/// What a line says of the front end's own cookie.
#[derive(Debug, Clone, Default)]
pub(crate) struct CookieLine {
    name: String,
    /// Browsers keep it for so long; none for a cookie that ends with the browser's session.
    expires: Option<Duration>,
    domain: Option<String>,
    path: Option<String>,
    http_only: bool,
    secure: bool,
    same_site: Option<SameSite>,
}

/// What a line says of the nodes' cookies.
#[derive(Debug, Clone)]
pub(crate) struct LearnLine {
    /// Their names in lower case; nginx compares without case.
    pub(crate) cookies: Vec<String>,
    /// For how long a session is remembered after its last request.
    pub(crate) timeout: Duration,
    /// How many bytes nginx would give the sessions.
    pub(crate) zone: u64,
    /// Front ends are to share the sessions.
    pub(crate) sync: bool,
}

/// `expires=max` is the end of 2037 in nginx; cookies of ours are valid for ten years at most.
const MAX_EXPIRES: Duration = Duration::from_secs(10 * 365 * 86_400);
/// nginx's default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(600);

const COOKIE: &str =
    "sticky cookie NAME [expires=TIME|max] [domain=DOMAIN] [path=PATH] [httponly] [secure] [samesite=strict|lax|none];";
const ROUTE: &str = "sticky route $VARIABLE...;";
const LEARN: &str =
    "sticky learn create=$upstream_cookie_NAME lookup=$cookie_NAME zone=ZONE:SIZE [timeout=TIME] [header] [sync];";

impl Sticky {
    pub(super) fn read(directive: &Directive, reader: &mut Reader<'_>) -> Result<Sticky, Fault> {
        let Some((kind, parameters)) = directive.args.split_first() else { return Err(wrong_number(directive)) };
        match kind.text.as_str() {
            "cookie" => {
                let text = "sticky cookie: signed and opaque, not the MD5 of an address; unless the host gives a secret it is \
                            random, and ends with the process: several front ends need the same secret";
                reader.note(directive.span(), text);
                CookieLine::read(directive, parameters).map(Sticky::Cookie)
            }
            "route" => route(directive, parameters, reader).map(Sticky::Route),
            "learn" => LearnLine::read(directive, parameters, reader).map(Sticky::Learn),
            other => Err(Fault::new(ErrorKind::Unknown, kind.span, format!("unknown kind \"{other}\" of sticky"))
                .expecting(directives::usage("sticky"))),
        }
    }
}

impl CookieLine {
    fn read(directive: &Directive, parameters: &[Word]) -> Result<CookieLine, Fault> {
        let Some((name, parameters)) = parameters.split_first() else {
            return Err(
                Fault::new(ErrorKind::Missing, directive.span(), "sticky cookie without a name").expecting(COOKIE)
            );
        };
        let mut line = CookieLine { name: name.text.clone(), ..CookieLine::default() };
        line.check(name)?;
        for word in parameters {
            if word.text.contains('$') {
                return Err(Fault::new(ErrorKind::Unsupported, word.span, "a variable in the attribute of a cookie")
                    .expecting("a fixed value"));
            }
            match word.text.split_once('=') {
                None if word.text == "httponly" => line.http_only = true,
                None if word.text == "secure" => line.secure = true,
                Some(("expires", "max")) => line.expires = Some(MAX_EXPIRES),
                Some(("expires", _)) => {
                    let expires = time(word, "expires=")?;
                    if expires < Duration::from_secs(2) || expires > MAX_EXPIRES {
                        return Err(values::invalid(word, "time").expecting("2s to 3650d, or max"));
                    }
                    line.expires = Some(expires);
                }
                Some(("domain", domain)) => line.domain = Some(domain.to_owned()),
                Some(("path", path)) => line.path = Some(path.to_owned()),
                Some(("samesite", "strict")) => line.same_site = Some(SameSite::Strict),
                Some(("samesite", "lax")) => line.same_site = Some(SameSite::Lax),
                Some(("samesite", "none")) => line.same_site = Some(SameSite::None),
                Some(("samesite", _)) => {
                    return Err(values::invalid(word, "attribute").expecting("samesite=strict, lax or none"));
                }
                _ => return Err(unknown(word, COOKIE)),
            }
            line.check(word)?;
        }
        Ok(line)
    }

    /// What a cookie cannot have is wrong in `word`, the last that was read.
    fn check(&self, word: &Word) -> Result<(), Fault> {
        match self.signed(Secret::new([0; 32])) {
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::new(ErrorKind::Value, word.span, error.to_string()).expecting(COOKIE)),
        }
    }

    /// The cookie, signed with `secret`.
    pub(super) fn signed(&self, secret: Secret) -> Result<StickyCookie, InvalidCookie> {
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
        Ok(match self.expires {
            Some(expires) => cookie.valid_for(expires).persistent(true),
            None => cookie,
        })
    }
}

fn route(directive: &Directive, parameters: &[Word], reader: &Reader<'_>) -> Result<Vec<Template>, Fault> {
    if parameters.is_empty() {
        return Err(
            Fault::new(ErrorKind::Missing, directive.span(), "sticky route without a variable").expecting(ROUTE)
        );
    }
    let read = |word: &Word| {
        let template = Template::new(word, reader.maps())?;
        match (template.as_literal(), template.has_captures()) {
            (None, false) => Ok(template),
            (Some(_), _) => Err(values::invalid(word, "route").expecting(ROUTE)),
            (None, true) => Err(Fault::new(ErrorKind::Unsupported, word.span, "a capture in the route of an upstream")
                .expecting("the variable of a map: locations share the upstream")),
        }
    };
    parameters.iter().map(read).collect()
}

impl LearnLine {
    fn read(directive: &Directive, parameters: &[Word], reader: &mut Reader<'_>) -> Result<LearnLine, Fault> {
        let (mut create, mut lookup, mut zone, mut timeout, mut sync) = (Vec::new(), Vec::new(), None, None, false);
        for word in parameters {
            match word.text.split_once('=') {
                // Sessions are learned from the head of an answer anyhow.
                None if word.text == "header" => {}
                None if word.text == "sync" => sync = true,
                Some(("create", value)) => create.push(created(word, value)?),
                Some(("lookup", _)) => lookup.push(looked_up(word, reader)?),
                Some(("zone", _)) => zone = Some(zone_size(word)?),
                Some(("timeout", _)) => timeout = Some(time(word, "timeout=")?),
                _ => return Err(unknown(word, LEARN)),
            }
        }
        let missing = |what: &str| {
            Fault::new(ErrorKind::Missing, directive.span(), format!("sticky learn without {what}")).expecting(LEARN)
        };
        if create.is_empty() {
            return Err(missing("create="));
        }
        if lookup.is_empty() {
            return Err(missing("lookup="));
        }
        let zone = zone.ok_or_else(|| missing("zone="))?;
        if let Some(other) =
            create.iter().find(|name| !lookup.contains(name)).or(lookup.iter().find(|name| !create.contains(name)))
        {
            let message = format!("sticky learn: the cookie \"{other}\" is not in both create= and lookup=");
            return Err(Fault::new(ErrorKind::Unsupported, directive.span(), message).expecting(LEARN));
        }
        create.dedup();
        if timeout.is_none() {
            let text = "sticky learn without timeout: a session is forgotten after 10 minutes without a request, as in nginx; \
                        Kylin keeps one for 480 minutes (timeout=8h)";
            reader.note(directive.span(), text);
        }
        Ok(LearnLine { cookies: create, timeout: timeout.unwrap_or(TIMEOUT), zone, sync })
    }
}

/// The cookie of `create=$upstream_cookie_NAME`.
fn created(word: &Word, value: &str) -> Result<String, Fault> {
    let name =
        value.strip_prefix('$').map(|name| name.trim_start_matches('{').trim_end_matches('}').to_ascii_lowercase());
    let cookie = name.as_deref().and_then(|name| name.strip_prefix("upstream_cookie_"));
    match cookie.filter(|cookie| !cookie.is_empty()) {
        Some(cookie) => Ok(cookie.to_owned()),
        None => Err(Fault::new(
            ErrorKind::Unsupported,
            word.span,
            format!("\"{}\" of sticky learn is not supported", word.text),
        )
        .expecting("create=$upstream_cookie_NAME")),
    }
}

/// The cookie of `lookup=$cookie_NAME`.
fn looked_up(word: &Word, reader: &Reader<'_>) -> Result<String, Fault> {
    let value = values::valued(word, "lookup=");
    let template = Template::new(&value, reader.maps())?;
    template.as_cookie().map(str::to_owned).ok_or_else(|| {
        Fault::new(ErrorKind::Unsupported, value.span, format!("\"{}\" of sticky learn is not supported", word.text))
            .expecting("lookup=$cookie_NAME")
    })
}

fn zone_size(word: &Word) -> Result<u64, Fault> {
    let value = values::valued(word, "zone=");
    let fault = || values::invalid(word, "zone").expecting("zone=NAME:SIZE, of 32k at least");
    let (name, size) = value.text.split_once(':').ok_or_else(fault)?;
    let size = values::size(&Word { text: size.to_owned(), span: value.span.right(name.len() + 1) })?;
    // nginx wants eight pages.
    if name.is_empty() || size < 32 << 10 { Err(fault()) } else { Ok(size) }
}

fn time(word: &Word, prefix: &str) -> Result<Duration, Fault> {
    values::time(&values::valued(word, prefix), Step::Seconds)
}

fn unknown(word: &Word, usage: &'static str) -> Fault {
    Fault::new(ErrorKind::Unknown, word.span, format!("unknown parameter \"{}\" of sticky", word.text)).expecting(usage)
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sticky::Cookie(line) => {
                write!(f, "cookie {}", line.name)?;
                match line.expires {
                    Some(expires) => write!(f, ", kept for {} s", expires.as_secs()),
                    None => Ok(()),
                }
            }
            Sticky::Route(variables) => {
                f.write_str("route")?;
                variables.iter().try_for_each(|variable| write!(f, " {variable}"))
            }
            Sticky::Learn(line) => {
                let shared = if line.sync { ", shared" } else { "" };
                write!(f, "learn {}, for {} s{shared}", line.cookies.join(" "), line.timeout.as_secs())
            }
        }
    }
}
