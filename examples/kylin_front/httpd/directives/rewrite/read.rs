//! Reads `RewriteRule` and `RewriteCond`.

use http::StatusCode;

use super::template::Template;
use super::{Condition, Effect, File, Rewrites, Rule, Test};
use crate::httpd::directives::catalogue;
use crate::httpd::directives::pass::{self, From, Pass, Target};
use crate::httpd::directives::section::Balancers;
use crate::httpd::syntax::{Directive, Fault, Word};

const RULE: &str = "RewriteRule EXPRESSION PATH|URL|- [R=STATUS,P,F,G,PT,L,END,NC,NE,QSA,QSD,UnsafeAllow3F]";

/// The flags of a rule.
#[derive(Default)]
struct Flags {
    status: Option<StatusCode>,
    is_redirect: bool,
    proxies: bool,
    passes: bool,
    is_last: bool,
    ignores_case: bool,
    is_escaped: bool,
    appends_query: bool,
    drops_query: bool,
    allows_question_mark: bool,
}

impl Rewrites {
    /// Reads a `RewriteCond`.
    pub fn condition(&mut self, line: &Directive, balancers: &mut impl Balancers) -> Result<(), Fault> {
        let (subject, pattern, flags) = match &line.args[..] {
            [subject, pattern] => (subject, pattern, None),
            [subject, pattern, flags] => (subject, pattern, Some(flags)),
            _ => {
                return Err(
                    line.fault("RewriteCond needs a value and a pattern", "RewriteCond %{NAME} PATTERN [NC,OR]")
                );
            }
        };
        let (mut ignores_case, mut or_next) = (false, false);
        for (flag, _) in flags.iter().flat_map(|flags| words(flags)) {
            match flag.to_ascii_lowercase().as_str() {
                "nc" | "nocase" => ignores_case = true,
                "or" | "ornext" => or_next = true,
                "nv" | "novary" => {}
                _ => return Err(pattern.fault(format!("unknown flag \"{flag}\" of RewriteCond"), "NC or OR")),
            }
        }
        if subject.text.eq_ignore_ascii_case("expr") {
            return Err(subject.fault("expressions are not supported", "RewriteCond %{NAME} PATTERN"));
        }
        let negated = pattern.text.starts_with('!');
        let bare = pattern.text.strip_prefix('!').unwrap_or(&pattern.text);
        let is_of_file = matches!(bare, "-f" | "-s" | "-F" | "-d");
        let subject = match &self.root {
            Some(root) if is_of_file => {
                let text = subject.text.replace("%{DOCUMENT_ROOT}", &root.replace(['$', '%', '\\'], ""));
                Template::read(&Word { text, ..subject.clone() })?
            }
            _ => Template::read(subject)?,
        };
        let test = match bare {
            _ if is_of_file => {
                if subject.as_literal().is_none() {
                    let text = format!("{}: the site has no files, because files are not served", line.line());
                    balancers.remarks().note(line.name.place, text);
                }
                Test::File(match bare {
                    "-d" => File::IsFolder,
                    "-s" => File::HasBytes,
                    _ => File::Exists,
                })
            }
            "-l" | "-L" | "-h" | "-U" | "-x" | "-H" => {
                return Err(pattern.fault(format!("the test {bare} is not supported"), "-f or -d, or an expression"));
            }
            _ if bare.starts_with(['<', '>'])
                || bare.starts_with("-") && bare.len() > 3 && bare[1..].starts_with(['e', 'g', 'l', 'n']) =>
            {
                return Err(pattern.fault("values are not compared by their order", "an expression, or =TEXT"));
            }
            _ => match bare.strip_prefix('=') {
                Some(text) => Test::Equals { text: text.trim_matches('"').to_owned(), ignores_case },
                None => Test::Matches(pass::pattern_of(bare, ignores_case, pattern)?),
            },
        };
        if subject.reads_path() && pattern.text.contains(';') {
            self.with_parameters.get_or_insert_with(|| pattern.clone());
        }
        self.next.push(Condition { subject, test, negated, or_next });
        Ok(())
    }

    /// Reads a `RewriteRule`.
    pub fn rule(&mut self, line: &Directive, balancers: &mut impl Balancers) -> Result<(), Fault> {
        let conditions = std::mem::take(&mut self.next);
        let with_parameters = self.with_parameters.take();
        let (pattern, to, flags) = match &line.args[..] {
            [pattern, to] => (pattern, to, None),
            [pattern, to, flags] => (pattern, to, Some(flags)),
            [_, _, _, more, ..] => return Err(more.unexpected(line, RULE)),
            _ => return Err(line.fault("RewriteRule needs an expression and a replacement", RULE)),
        };
        let (flags, responds) = match flags {
            Some(word) => Flags::read(word, line, balancers)?,
            None => (Flags::default(), None),
        };
        let is_websocket = ["ws://", "wss://"].iter().any(|scheme| to.text.to_ascii_lowercase().starts_with(scheme));
        if is_websocket {
            balancers.remarks().note(line.name.place, format!("{}: left out, Kylin has no WebSockets", line.line()));
            return Ok(());
        }
        // A map may stand anywhere in the replacement, even in the host.
        Template::read(to)?;
        if let Some(word) =
            [Some(pattern), with_parameters.as_ref()].into_iter().flatten().find(|word| word.text.contains(';'))
        {
            if responds.is_some() {
                pass::check_parameters(word)?;
            }
            balancers.remarks().note(line.name.place, format!("{}: {}", line.line(), pass::NO_PARAMETERS));
        }
        let negated = pattern.text.starts_with('!');
        let bare = pattern.text.strip_prefix('!').unwrap_or(&pattern.text);
        let regex = pass::pattern_of(bare, flags.ignores_case, pattern)?;
        // A negated rule may match any path, including those of Kylin.
        let of_pass = if negated { pass::pattern_of("", false, pattern)? } else { regex.clone() };
        let effect = match (responds, flags.proxies) {
            (Some(status), _) => Effect::Respond(status),
            (None, true) => Effect::Proxy(Box::new(proxy(line, of_pass, to, balancers)?)),
            (None, false) if flags.is_redirect => Effect::Redirect(flags.status.unwrap_or(StatusCode::FOUND)),
            (None, false) => Effect::Path { passes: flags.passes },
        };
        let text = match &effect {
            Effect::Proxy(_) => Word { text: to.text[host_end(&to.text)..].to_owned(), ..to.clone() },
            Effect::Path { .. } | Effect::Redirect(_) | Effect::Respond(_) => to.clone(),
        };
        let is_path = text.text.starts_with(['/', '$', '%']) || text.text.contains("://");
        if !is_path && text.text != "-" && matches!(effect, Effect::Path { .. } | Effect::Redirect(_)) {
            return Err(to.fault(format!("not a path: \"{}\"", to.text), "a path that begins with /, or a URL"));
        }
        let to = if text.text == "-" { None } else { Some(Template::read(&text)?) };
        let is_last = flags.is_last || flags.passes || matches!(effect, Effect::Proxy(_));
        let Flags { appends_query, drops_query, is_escaped, allows_question_mark, .. } = flags;
        self.rules.push(Rule {
            conditions,
            pattern: regex,
            negated,
            to,
            effect,
            appends_query,
            drops_query,
            is_escaped,
            allows_question_mark,
            is_last,
        });
        Ok(())
    }
}

impl Flags {
    /// Returns the flags, and the status if one of them makes a response.
    fn read(
        word: &Word,
        line: &Directive,
        balancers: &mut impl Balancers,
    ) -> Result<(Self, Option<StatusCode>), Fault> {
        let (mut flags, mut responds) = (Flags::default(), None);
        for (flag, value) in words(word) {
            match flag.to_ascii_lowercase().as_str() {
                "r" | "redirect" => {
                    let status = status(value.unwrap_or("302"))
                        .ok_or_else(|| word.fault("not a status", "R=301, R=302, R=303, R=307 or R=308"))?;
                    flags.is_redirect = true;
                    flags.status = Some(status);
                    responds = responds.or(Some(status).filter(|status| !status.is_redirection()));
                }
                "f" | "forbidden" => responds = Some(StatusCode::FORBIDDEN),
                "g" | "gone" => responds = Some(StatusCode::GONE),
                "p" | "proxy" => flags.proxies = true,
                "pt" | "passthrough" => flags.passes = true,
                "l" | "last" | "end" => flags.is_last = true,
                "nc" | "nocase" => flags.ignores_case = true,
                "ne" | "noescape" => flags.is_escaped = true,
                "qsa" | "qsappend" => flags.appends_query = true,
                "qsd" | "qsdiscard" => flags.drops_query = true,
                "unsafeallow3f" => flags.allows_question_mark = true,
                // `UnsafePrefixStat` concerns only files.
                "dpi" | "discardpath" | "ns" | "nosubreq" | "unsafeprefixstat" => {}
                // Such variables are not read here. `Header` and `RequestHeader` refuse unknown
                // variables.
                "e" | "env" if value.is_some_and(catalogue::sets_no_proxy) => {
                    let message = "the variable no-proxy of RewriteRule is not supported";
                    return Err(word.fault(message, catalogue::WITHOUT_PROXY));
                }
                "e" | "env" => balancers.remarks().ignored(line.name.place, format!("{}: the flag E", line.line())),
                _ => return Err(word.fault(format!("the flag \"{flag}\" of RewriteRule is not supported"), RULE)),
            }
        }
        Ok((flags, responds))
    }
}

/// Returns the target of a rule with the flag P.
fn proxy(
    line: &Directive,
    pattern: regex::bytes::Regex,
    to: &Word,
    balancers: &mut impl Balancers,
) -> Result<Pass, Fault> {
    let end = host_end(&to.text);
    if !to.text.contains("://") {
        return Err(to.fault("no target of the flag P", "balancer://NAME/PATH or http://HOST:PORT/PATH"));
    }
    let host = Word { text: to.text[..end].to_owned(), ..to.clone() };
    let (balancer, _) = balancers.find(host.defined()?, &[])?;
    let (url, path) = to.text.split_at(end);
    let target = Target { balancer, url: url.to_owned(), path: path.to_owned() };
    let from = From::Pattern(pattern);
    Ok(Pass { place: line.name.place, written: line.line(), from, to: Some(target) })
}

/// Returns the position at which the host of a URL ends.
fn host_end(url: &str) -> usize {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find(['/', '$', '%', '?']).map_or(url.len(), |at| start + at)
}

/// Returns the flags of `[A,B=C]` with their values.
fn words(flags: &Word) -> impl Iterator<Item = (&str, Option<&str>)> {
    let list = flags.text.trim().trim_start_matches('[').trim_end_matches(']');
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value))))
}

fn status(text: &str) -> Option<StatusCode> {
    match text.to_ascii_lowercase().as_str() {
        "permanent" => Some(StatusCode::MOVED_PERMANENTLY),
        "temp" => Some(StatusCode::FOUND),
        "seeother" => Some(StatusCode::SEE_OTHER),
        text => StatusCode::from_u16(text.parse().ok()?).ok().filter(|status| !status.is_informational()),
    }
}
