//! Upstream directives of third-party modules: nginx-sticky-module-ng, Tengine,
//! nginx-upstream-fair, nginx-upstream-jvm-route and nginx_upstream_check_module.

use super::sticky::{CookieAttributes, LearnedCookies, Sticky};
use super::{Method, Upstream};
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::options::{ProbeMode, SessionMode};
use crate::nginx::syntax::{Directive, Fault, Word};
use crate::nginx::variables::{Maps, Template};

/// Reads and translates a directive of another module. Returns false for any other directive.
pub(super) fn read(
    directive: &Directive,
    upstream: &mut Upstream,
    maps: &Maps,
    remarks: &mut Remarks<'_>,
) -> Result<bool, Fault> {
    let span = directive.span();
    match directive.name.text.as_str() {
        "fair" => {
            upstream.method = Method::LeastConn;
            remarks.note(span, "fair: as least_conn, which picks the server with the fewest requests in flight");
        }
        "vnswrr" => remarks.note(span, "vnswrr: as round robin"),
        "consistent_hash" => {
            let [key] = &directive.args[..] else { return Err(span.value("consistent_hash takes a key", HASH)) };
            upstream.method = Method::Hash { key: Template::new(key, maps)?, consistent: true };
            remarks.note(span, "consistent_hash: as hash ... consistent, which places keys differently");
        }
        "dynamic_resolve" => {
            remarks.note(
                span,
                "dynamic_resolve: names of servers are looked up every valid= of the resolver, or every 30 s",
            );
        }
        "session_sticky" => upstream.sticky = Some(session_sticky(directive, remarks)?),
        "jvm_route" => jvm_route(directive, upstream, remarks)?,
        "check" => {
            let is_tcp = !directive.args.iter().any(|word| word.text == "type=http");
            upstream.checked = Some(ProbeMode::Tcp);
            let probe = if is_tcp { "connects" } else { "asks what each node offers" };
            let text = format!("check: the front end probes the servers itself; for Kylin nodes its probe {probe}");
            remarks.note(span, text + " (# kylin_lb: probe auto|version|health|tcp|none;)");
        }
        "check_http_send" | "check_http_expect_alive" | "check_keepalive_requests" | "check_fastcgi_param" => {
            remarks.ignored(span, &directive.name.text);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Returns whether a directive of another module sets the balancing method.
pub(super) fn is_method(directive: &Directive) -> bool {
    matches!(directive.name.text.as_str(), "fair" | "vnswrr" | "consistent_hash")
}

const HASH: &str = "hash KEY consistent;";

/// The syntax of nginx 1.29.6 and of this crate.
const COOKIE: &str = "sticky cookie NAME [expires=TIME|max] [domain=DOMAIN] [path=PATH] [httponly] [secure];";

/// Returns whether a `sticky` belongs to nginx-sticky-module-ng, whose directive has only
/// parameters.
pub(super) fn is_sticky_module(directive: &Directive) -> bool {
    directive.args.first().is_none_or(|first| {
        first.text.contains('=') || matches!(first.text.as_str(), "httponly" | "secure" | "no_fallback")
    })
}

/// Reads `sticky [name=NAME] [expires=TIME] [hash=...] ...` of nginx-sticky-module-ng.
pub(super) fn sticky_module(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Sticky, Fault> {
    let mut cookie = ForeignCookie::new("sticky of nginx-sticky-module-ng");
    for word in &directive.args {
        match word.parameter() {
            ("name", Some(name)) => cookie.name = name,
            ("hash" | "hmac" | "hmac_key" | "text", Some(_)) => {}
            ("no_fallback", None) => return Err(cookie.without_fallback(word)),
            _ => cookie.attribute(word)?,
        }
    }
    cookie.sticky(directive, remarks)
}

/// Reads Tengine's `session_sticky [cookie=NAME] [mode=insert|rewrite|prefix] [fallback=on|off]
/// ...`.
fn session_sticky(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Sticky, Fault> {
    let mut cookie = ForeignCookie::new("session_sticky of Tengine");
    for word in &directive.args {
        match word.parameter() {
            ("cookie", Some(name)) => cookie.name = name,
            ("mode", Some(mode)) => match mode.text.as_str() {
                "insert" => {}
                "rewrite" | "prefix" => cookie.is_of_node = true,
                _ => return Err(mode.invalid("mode", "mode=insert, rewrite or prefix")),
            },
            ("fallback", Some(value)) if value.text == "off" => return Err(cookie.without_fallback(word)),
            ("fallback" | "option" | "hash" | "hmac" | "hmac_key" | "maxidle" | "maxlife", Some(_)) => {}
            ("maxage", Some(age)) => {
                let text = format!("expires={}", age.text);
                cookie.attribute(&Word { text, span: word.span })?;
            }
            _ => cookie.attribute(word)?,
        }
    }
    cookie.sticky(directive, remarks)
}

/// The cookie of a directive of another module.
struct ForeignCookie {
    module: &'static str,
    name: Word,
    attributes: Vec<Word>,
    /// Whether the nodes set the cookie, and the module changes it.
    is_of_node: bool,
}

impl ForeignCookie {
    fn new(module: &'static str) -> Self {
        // Both modules have this default.
        let name = Word { text: "route".into(), span: crate::nginx::syntax::Span { file: 0, line: 0, at: 0 } };
        ForeignCookie { module, name, attributes: Vec::new(), is_of_node: false }
    }

    fn attribute(&mut self, word: &Word) -> Result<(), Fault> {
        match word.parameter() {
            ("httponly" | "secure", None) | ("expires" | "domain" | "path" | "samesite", Some(_)) => {
                self.attributes.push(word.clone());
                Ok(())
            }
            _ => Err(word.span.unknown(format!("unknown parameter \"{}\" of {}", word.text, self.module), COOKIE)),
        }
    }

    fn without_fallback(&self, word: &Word) -> Fault {
        let message = format!("\"{}\" of {} is not supported", word.text, self.module);
        word.span.unsupported(message, "no such parameter: another server serves while that of a session cannot")
    }

    fn sticky(self, directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Sticky, Fault> {
        let (module, name) = (self.module, &self.name.text);
        if self.is_of_node || name.eq_ignore_ascii_case("jsessionid") {
            let text = format!(
                "{module}: as sticky learn create=$upstream_cookie_{name} lookup=$cookie_{name}; the nodes' cookie stays unchanged"
            );
            remarks.note(directive.span(), text);
            return Ok(Sticky::Learn(LearnedCookies::of_nodes(name)));
        }
        remarks.note(
            directive.span(),
            format!("{module}: as sticky cookie {name}; the cookie is signed, not a hash of an address"),
        );
        CookieAttributes::named(&Word { span: directive.span(), ..self.name.clone() }, &self.attributes)
            .map(Sticky::Cookie)
    }
}

/// Reads `jvm_route $cookie_JSESSIONID|sessionid reverse`: the session id ends with the route of
/// its server.
fn jvm_route(directive: &Directive, upstream: &mut Upstream, remarks: &mut Remarks<'_>) -> Result<(), Fault> {
    let instead = "sticky route $VARIABLE; with route=NAME on the servers, or # kylin_lb: sessions route;";
    let (cookie, reverse) = match &directive.args[..] {
        [cookie] => (cookie, false),
        [cookie, reverse] if reverse.text == "reverse" => (cookie, true),
        _ => return Err(directive.span().value("jvm_route takes a cookie", instead)),
    };
    let name = cookie.text.split('|').next().unwrap_or_default();
    if !name.eq_ignore_ascii_case("$cookie_jsessionid") || !reverse {
        let message = "jvm_route is supported as \"jvm_route $cookie_JSESSIONID|jsessionid reverse\" only";
        return Err(cookie.span.unsupported(message, instead));
    }
    let mode: SessionMode = "route".parse().map_err(|_| directive.span().unsupported("jvm_route", instead))?;
    upstream.comments.by_directive("sessions", mode, remarks.place(directive.span()));
    remarks.note(
        directive.span(),
        "jvm_route: as # kylin_lb: sessions route; a session id ends with the route of its server",
    );
    Ok(())
}
