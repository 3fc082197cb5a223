//! The settings of `<Location>`, `<Proxy>` and `<VirtualHost>`, and those outside of sections.

mod matcher;

use http::StatusCode;
use kylin_lb::kylin::NormalizedPath;

pub use self::matcher::{Matcher, ProxiedUrls};
use super::access::{self, Access};
use super::catalogue;
use super::headers::HeaderRule;
use super::pass::{self, From, Pass, Redirect, Reverse, Target};
use super::remarks::Remarks;
use crate::httpd::syntax::{Directive, Fault, Word};

/// Settings and the requests to which they apply.
#[derive(Debug, Clone)]
pub struct Section {
    pub matcher: Matcher,
    pub settings: Settings,
}

/// The settings of one section.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub access: Access,
    pub request_headers: Vec<HeaderRule>,
    pub headers: Vec<HeaderRule>,
    pub reverses: Vec<Reverse>,
    pub cookie_paths: Vec<(String, String)>,
    pub cookie_domains: Vec<(String, String)>,
    /// `ProxyPass` within `<Location>`.
    pub pass: Option<Pass>,
    pub redirects: Vec<Redirect>,
    /// Whether `X-Forwarded-*` headers are added (`ProxyAddHeaders`), if the file sets it.
    pub adds_headers: Option<bool>,
}

/// Finds the balancer of a URL. A plain host gets its own balancer.
pub trait Balancers {
    /// Returns the balancer of a target with its parameters, and the path of the target.
    fn find(&mut self, url: &Word, parameters: &[Word]) -> Result<(usize, String), Fault>;
    fn remarks(&mut self) -> &mut Remarks;
}

impl Settings {
    /// Reads the directives of a section. `location` has the paths of a `<Location>`.
    pub fn section(section: &Directive, balancers: &mut impl Balancers) -> Result<Section, Fault> {
        let matcher = Matcher::read(section)?;
        let mut settings = Settings::default();
        let lines = || section.section.iter().flatten();
        let is_of_httpd = lines().any(|line| line.is("SetHandler") && line.args.first().is_some_and(is_handler));
        for line in lines() {
            if is_of_httpd && access::is_of_password(line) {
                super::reader::ignored(line, "the pages of httpd that it protects are not served", balancers.remarks());
                continue;
            }
            if is_of_httpd && settings.access.read_password(line) {
                let text = format!("{}: 403, because no client can log in", line.line());
                balancers.remarks().note(line.name.place, text);
                continue;
            }
            if !settings.read(line, Some(&matcher), balancers)? {
                let why = catalogue::no_effect(line)?;
                super::reader::ignored(line, why, balancers.remarks());
            }
        }
        Ok(Section { matcher, settings })
    }

    /// Reads a directive. Returns false if it is not a setting of a section.
    pub fn read(
        &mut self,
        line: &Directive,
        location: Option<&Matcher>,
        balancers: &mut impl Balancers,
    ) -> Result<bool, Fault> {
        if self.access.read(line)? {
            return Ok(true);
        }
        match line.name.text.to_ascii_lowercase().as_str() {
            "header" => self.headers.push(HeaderRule::read(line)?),
            "requestheader" => {
                let rule = HeaderRule::read(line)?;
                if rule.reads_client() {
                    let text = "a value that the client sent counts only if RemoteIPTrustedProxy names the client";
                    balancers.remarks().note(line.name.place, format!("{}: {text}", line.line()));
                }
                self.request_headers.push(rule);
            }
            "proxyaddheaders" => {
                let adds = line.flag()?;
                self.adds_headers = Some(adds);
                if !adds {
                    let text = "X-Forwarded-For, -Host and -Proto are sent, except where RequestHeader sets them";
                    balancers.remarks().note(line.name.place, format!("{}: {text}", line.line()));
                }
            }
            "proxypass" | "proxypassmatch" if location.is_some() => {
                let Some((target, parameters)) = line.args.split_first() else {
                    return Err(line.fault("ProxyPass needs a target", "ProxyPass balancer://NAME/PATH"));
                };
                let from = match location {
                    Some(Matcher::Below(path)) => {
                        if target.text.starts_with('/') {
                            return Err(target
                                .fault("a path of ProxyPass inside of <Location>", "ProxyPass balancer://NAME/PATH"));
                        }
                        From::Prefix(path.clone())
                    }
                    Some(Matcher::Pattern(pattern)) => From::Pattern(pattern.clone()),
                    _ => {
                        return Err(
                            line.fault("ProxyPass may not stand here", "ProxyPass in <Location>, or PATH and target")
                        );
                    }
                };
                self.pass = Some(read_pass(line, from, target, parameters, balancers)?);
            }
            "proxypassreverse" => {
                let (to, from) = match (&line.args[..], location) {
                    ([to, from], None) => (path_of(to)?, from),
                    ([from], Some(Matcher::Below(path))) => (path.clone(), from),
                    _ => {
                        return Err(line.fault(
                            "ProxyPassReverse not understood",
                            "ProxyPassReverse PATH URL; in <Location> only the URL",
                        ));
                    }
                };
                self.reverses.push(Reverse { from: from.defined()?.text.clone(), to });
            }
            "proxypassreversecookiepath" | "proxypassreversecookiedomain" => {
                let [from, to] = &line.args[..] else {
                    return Err(line.fault("two values are needed", "what the node writes, and what the client gets"));
                };
                let pair = (from.defined()?.text.clone(), to.defined()?.text.clone());
                match line.is("ProxyPassReverseCookiePath") {
                    true => self.cookie_paths.push(pair),
                    false => self.cookie_domains.push(pair),
                }
            }
            "redirect" | "redirectmatch" | "redirecttemp" | "redirectpermanent" => {
                self.redirects.push(read_redirect(line, location.is_some(), balancers.remarks())?);
            }
            "sethandler" if location.is_some() => {
                let handler = line.one("the name of a handler")?;
                if is_handler(handler) {
                    let text = "the nodes get what a ProxyPass matches, as in httpd, else 404; the state is at --admin";
                    balancers.remarks().note(line.name.place, format!("{}: {text}", line.line()));
                } else if catalogue::no_effect(line).is_err() {
                    return Err(handler.fault(
                        format!("the handler {} is not supported", handler.text),
                        "ProxyPass for what goes to the nodes",
                    ));
                }
            }
            "proxypreservehost" => {
                if !line.flag()? {
                    balancers.remarks().note(
                        line.name.place,
                        "ProxyPreserveHost Off: nodes get the client's Host, which they put into redirects",
                    );
                }
            }
            "setenv" => {
                let why = match line.args.first() {
                    Some(name) if name.text.starts_with("proxy-") || name.text.starts_with("force-proxy") => {
                        "connections to nodes are the front end's own"
                    }
                    _ => "",
                };
                super::reader::ignored(line, why, balancers.remarks());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Returns whether a handler shows the state of httpd.
fn is_handler(word: &Word) -> bool {
    let known = ["server-status", "server-info", "balancer-manager", "ldap-status"];
    known.iter().any(|known| word.text.eq_ignore_ascii_case(known))
}

fn path_of(word: &Word) -> Result<String, Fault> {
    match word.defined()?.text.starts_with('/') {
        true => Ok(word.text.clone()),
        false => Err(word.fault(format!("not a path: \"{}\"", word.text), "a path that begins with /")),
    }
}

/// Reads a `ProxyPass PATH TARGET` outside of `<Location>`.
pub fn read_server_pass(line: &Directive, balancers: &mut impl Balancers) -> Result<Pass, Fault> {
    let [from, target, parameters @ ..] = &line.args[..] else {
        return Err(
            line.fault("ProxyPass needs a path and a target", format!("{} PATH balancer://NAME/PATH", line.name.text))
        );
    };
    let is_match = line.is("ProxyPassMatch");
    if !is_match || target.text == "!" {
        pass::check_parameters(from)?;
    } else if from.text.contains(';') {
        balancers.remarks().note(from.place, format!("{}: {}", line.line(), pass::NO_PARAMETERS));
    }
    let from = match is_match {
        true => From::Pattern(pass::pattern(from)?),
        false => From::Prefix(path_of(from)?),
    };
    read_pass(line, from, target, parameters, balancers)
}

fn read_pass(
    line: &Directive,
    from: From,
    target: &Word,
    parameters: &[Word],
    balancers: &mut impl Balancers,
) -> Result<Pass, Fault> {
    let written = line.line();
    let is_websocket = ["ws://", "wss://"].iter().any(|scheme| target.text.to_ascii_lowercase().starts_with(scheme));
    let to = match target.defined()?.text.as_str() {
        _ if is_websocket => {
            balancers.remarks().note(line.name.place, format!("{written}: 404, Kylin has no WebSockets"));
            None
        }
        "!" => match parameters.first() {
            Some(more) => return Err(more.unexpected(line, "nothing behind !")),
            None => None,
        },
        _ => {
            let is_option = |word: &&Word| !word.text.contains('=');
            for word in parameters.iter().filter(is_option) {
                match word.text.to_ascii_lowercase().as_str() {
                    text if text.starts_with('#') => return Err(word.unexpected(line, "")),
                    "nocanon" | "noquery" => balancers
                        .remarks()
                        .ignored(word.place, format!("{}: paths are sent as clients write them", word.text)),
                    "interpolate" => {
                        return Err(word.fault(
                            "interpolate is not supported",
                            "${NAME} with Define, or <VirtualHost> for each name",
                        ));
                    }
                    _ => {
                        return Err(word.fault(
                            format!("unknown option \"{}\" of ProxyPass", word.text),
                            "NAME=VALUE, or nocanon",
                        ));
                    }
                }
            }
            let (named, mapping): (Vec<Word>, Vec<Word>) = parameters
                .iter()
                .filter(|word| word.text.contains('='))
                .cloned()
                .partition(|word| !word.text.to_ascii_lowercase().starts_with("mapping="));
            for word in mapping {
                balancers.remarks().ignored(word.place, format!("{}: paths are read as Tomcat reads them", word.text));
            }
            let (balancer, path) = balancers.find(target, &named)?;
            check_path(&from, target, &path)?;
            let url = target.text[..target.text.len() - path.len()].to_owned();
            Some(Target { balancer, url, path })
        }
    };
    Ok(Pass { place: line.name.place, written, from, to })
}

fn check_path(from: &From, target: &Word, path: &str) -> Result<(), Fault> {
    if let (From::Prefix(prefix), true) = (from, path.is_empty())
        && prefix.ends_with('/')
    {
        let message =
            format!("{prefix} ends in a slash and the target does not: httpd responds to each request with 500");
        return Err(target.fault(message, format!("{}/", target.text)));
    }
    if path.contains('?') {
        let message = "a ? in the target of ProxyPass, which httpd sends to nodes as %3F";
        return Err(target.fault(message, "RewriteRule EXPRESSION URL?QUERY [P,QSA]"));
    }
    let is_readable = path.is_empty() || path.contains('$') || NormalizedPath::parse(path).is_ok();
    if is_readable {
        Ok(())
    } else {
        Err(target.fault("the path of the target is ambiguous", "a path without dots and escapes"))
    }
}

/// Reads `Redirect [STATUS] [PATH] URL`.
fn read_redirect(line: &Directive, is_in_location: bool, remarks: &mut Remarks) -> Result<Redirect, Fault> {
    let status = |word: &Word| match word.text.to_ascii_lowercase().as_str() {
        "permanent" => Some(StatusCode::MOVED_PERMANENTLY),
        "temp" => Some(StatusCode::FOUND),
        "seeother" => Some(StatusCode::SEE_OTHER),
        "gone" => Some(StatusCode::GONE),
        text => text.parse::<u16>().ok().and_then(|status| StatusCode::from_u16(status).ok()),
    };
    let mut words = &line.args[..];
    let named = match line.name.text.to_ascii_lowercase().as_str() {
        "redirectpermanent" => Some(StatusCode::MOVED_PERMANENTLY),
        "redirecttemp" => Some(StatusCode::FOUND),
        _ => words.first().and_then(status),
    };
    if named.is_some() && (line.is("Redirect") || line.is("RedirectMatch")) {
        words = &words[1..];
    }
    let status = named.unwrap_or(StatusCode::FOUND);
    let is_match = line.is("RedirectMatch");
    let expected = "Redirect [STATUS] PATH URL, with the URL for a status of 3xx";
    let (from, to) = match (words, status.is_redirection()) {
        ([from, to], true) => (Some(from), Some(to)),
        ([to], true) if is_in_location => (None, Some(to)),
        ([from], false) => (Some(from), None),
        ([], false) if is_in_location => (None, None),
        _ => return Err(line.fault(format!("{} not understood", line.name.text), expected)),
    };
    if let Some(word) = from.filter(|word| word.text.contains(';')) {
        if !is_match || !status.is_redirection() {
            pass::check_parameters(word)?;
        }
        remarks.note(word.place, format!("{}: {}", line.line(), pass::NO_PARAMETERS));
    }
    let from = match from {
        Some(word) if is_match => Some(From::Pattern(pass::pattern(word)?)),
        Some(word) => Some(From::Prefix(path_of(word)?)),
        None => None,
    };
    let to = to.map(|to| to.defined().map(|to| to.text.clone())).transpose()?.unwrap_or_default();
    if status.is_redirection() && !to.starts_with('/') && !to.contains("://") {
        return Err(words[words.len() - 1].fault(format!("not a URL: \"{to}\""), "a URL, or a path that begins with /"));
    }
    Ok(Redirect { status, from, to })
}
