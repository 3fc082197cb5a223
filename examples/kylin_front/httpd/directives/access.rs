//! `Require`, and `Order`, `Allow` and `Deny` of mod_access_compat, for all methods or for those of
//! `<Limit>`.

use std::net::IpAddr;

use http::Method;
use ipnet::IpNet;

use crate::httpd::syntax::{Directive, Fault, Word};

/// The clients that a section allows. `Require` and `Allow` must both admit a client.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The directives as written, for the report.
    written: Vec<String>,
    require: Vec<Require>,
    /// Whether the section replaces outer `Require` directives even if it has none
    /// (`AuthMerging Off`).
    replaces_require: bool,
    compat: Option<Compat>,
}

#[derive(Debug, Clone)]
enum Require {
    Line {
        negated: bool,
        who: Who,
    },
    Group(Group, Vec<Require>),
    /// A directive or group in `<Limit>`, which is never inside a group.
    Limited(Methods, Box<Require>),
}

/// The methods of `<Limit>`, or with `except` all other methods.
#[derive(Debug, Clone)]
struct Methods {
    except: bool,
    names: Vec<String>,
}

/// `<RequireAny>`, `<RequireAll>` and `<RequireNone>`. Directives outside of a group form a
/// `<RequireAny>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Any,
    All,
    None,
}

#[derive(Debug, Clone)]
enum Who {
    /// `all granted` (true) or `all denied` (false).
    All(bool),
    Ip(Vec<IpNet>),
    Local,
}

/// The directives of mod_access_compat, each with its methods; `None` is all methods.
#[derive(Debug, Clone, Default)]
struct Compat {
    /// Whether the order is `Allow,Deny`, which refuses a client in both lists or in none. The last
    /// `Order` for a method counts.
    allow_first: Vec<(Option<Methods>, bool)>,
    allow: Vec<(Option<Methods>, Option<IpNet>)>,
    deny: Vec<(Option<Methods>, Option<IpNet>)>,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written.join(", "))
    }
}

/// The client may not send the request.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied;

/// The kinds of `Require` that need a login.
const ASK: [&str; 5] = ["valid-user", "user", "group", "ldap-group", "ldap-user"];

/// The syntax of addresses.
const ADDRESSES: &str = "IP addresses or networks such as 10.0.0.0/8 or 10.1";

impl Access {
    /// Reads a directive. Returns false if it is not about access.
    pub fn read(&mut self, directive: &Directive) -> Result<bool, Fault> {
        if !Methods::are_of(directive) {
            return self.read_for(directive, None);
        }
        let methods = Methods::read(directive)?;
        for line in directive.section.iter().flatten() {
            if Methods::are_of(line) || !self.read_for(line, Some(&methods))? {
                let message = format!("{} may not stand in {}>", line.name.text, directive.name.text);
                return Err(line.fault(message, "Require, Order, Allow or Deny; other lines behind it"));
            }
            if let Some(written) = self.written.last_mut() {
                *written = format!("{} {written}", directive.line());
            }
        }
        Ok(true)
    }

    fn read_for(&mut self, directive: &Directive, methods: Option<&Methods>) -> Result<bool, Fault> {
        match directive.name.text.to_ascii_lowercase().as_str() {
            "require" | "<requireany" | "<requireall" | "<requirenone" => {
                let rule = Require::read(directive, Group::Any)?;
                self.require.push(match methods {
                    Some(methods) => Require::Limited(methods.clone(), Box::new(rule)),
                    None => rule,
                });
            }
            "order" => {
                let order = directive.args.iter().map(|word| word.text.to_ascii_lowercase()).collect::<String>();
                let allow_first = match order.as_str() {
                    "allow,deny" | "mutual-failure" => true,
                    "deny,allow" => false,
                    _ => return Err(directive.fault("unknown order", "Order Allow,Deny or Order Deny,Allow")),
                };
                self.compat.get_or_insert_default().allow_first.push((methods.cloned(), allow_first));
            }
            "allow" | "deny" => {
                let Some((from, who)) = directive.args.split_first() else {
                    return Err(directive.fault("from whom?", "from all, or from ADDRESS..."));
                };
                if !from.text.eq_ignore_ascii_case("from") || who.is_empty() {
                    return Err(from.fault("not understood", "from all, or from ADDRESS..."));
                }
                let compat = self.compat.get_or_insert_default();
                let list = if directive.is("allow") { &mut compat.allow } else { &mut compat.deny };
                // `none` matches no client.
                for word in who.iter().filter(|word| !word.text.eq_ignore_ascii_case("none")) {
                    let network = if word.text.eq_ignore_ascii_case("all") { None } else { Some(network(word)?) };
                    list.push((methods.cloned(), network));
                }
            }
            "authmerging" => {
                let how = directive.one("AuthMerging Off")?;
                if !how.text.eq_ignore_ascii_case("off") {
                    let message = format!("AuthMerging {} is not supported", how.text);
                    return Err(
                        how.fault(message, "the Require lines of the sections around this one, in <RequireAll>")
                    );
                }
                self.replaces_require = true;
            }
            "satisfy" => {
                // As in httpd, the section then does not inherit `Order`, `Allow` and `Deny`.
                self.compat.get_or_insert_default();
                let how = directive.one("Satisfy All")?;
                if !how.text.eq_ignore_ascii_case("all") {
                    return Err(how.fault("Satisfy Any is not supported", "Require lines alone: any of them is enough"));
                }
            }
            _ => return Ok(false),
        }
        self.written.push(directive.line());
        Ok(true)
    }

    /// Reads a `Require` that needs a password as a rule that no client meets. Returns false for
    /// any other directive.
    pub fn read_password(&mut self, line: &Directive) -> bool {
        let asks = line.is("Require")
            && line.args.first().is_some_and(|who| ASK.iter().any(|asks| who.text.eq_ignore_ascii_case(asks)));
        if asks {
            self.require.push(Require::Line { negated: false, who: Who::All(false) });
            self.written.push(line.line());
        }
        asks
    }

    pub fn is_empty(&self) -> bool {
        self.require.is_empty() && !self.replaces_require && self.compat.is_none()
    }

    /// Applies the directives of an inner section.
    pub fn replace(&mut self, inner: &Access) {
        if !inner.require.is_empty() || inner.replaces_require {
            self.require.clone_from(&inner.require);
        }
        if inner.compat.is_some() {
            self.compat.clone_from(&inner.compat);
        }
    }

    pub fn check(&self, client: Option<IpAddr>, method: &Method) -> Result<(), Denied> {
        let asked = &Asked { client: client.map(|client| client.to_canonical()), method };
        // A request without a rule for its method is granted.
        let is_required = !self.require.iter().any(|rule| rule.counts(method))
            || group(Group::Any, &self.require, asked) == Some(true);
        let is_compat = self.compat.as_ref().is_none_or(|Compat { allow_first, allow, deny }| {
            let counts = |methods: &Option<Methods>| methods.as_ref().is_none_or(|methods| methods.have(method));
            let is_in = |list: &[(Option<Methods>, Option<IpNet>)]| {
                list.iter().filter(|(methods, _)| counts(methods)).any(|(_, network)| match network {
                    None => true,
                    Some(network) => asked.is_in(network),
                })
            };
            match allow_first.iter().rfind(|(methods, _)| counts(methods)) {
                Some((_, true)) => is_in(allow) && !is_in(deny),
                Some((_, false)) | None => is_in(allow) || !is_in(deny),
            }
        });
        if is_required && is_compat { Ok(()) } else { Err(Denied) }
    }
}

/// The request that is checked.
struct Asked<'r> {
    client: Option<IpAddr>,
    method: &'r Method,
}

impl Asked<'_> {
    fn is_in(&self, network: &IpNet) -> bool {
        self.client.is_some_and(|client| network.contains(&client))
    }
}

impl Methods {
    fn are_of(section: &Directive) -> bool {
        section.is("<Limit") || section.is("<LimitExcept")
    }

    fn read(section: &Directive) -> Result<Self, Fault> {
        let expected = "methods, in capitals: <Limit POST PUT>";
        if section.args.is_empty() {
            return Err(section.fault(format!("{}> needs a method", section.name.text), expected));
        }
        let except = section.is("<LimitExcept");
        for word in &section.args {
            let name = word.defined()?.text.as_str();
            if Method::from_bytes(name.as_bytes()).is_err() || name.bytes().any(|byte| byte.is_ascii_lowercase()) {
                return Err(word.fault(format!("not a method: \"{name}\""), expected));
            }
            if name == "TRACE" && !except {
                return Err(word.fault("httpd does not limit TRACE", "TraceEnable Off"));
            }
        }
        Ok(Methods { except, names: section.args.iter().map(|word| word.text.clone()).collect() })
    }

    /// Returns whether a method is one of these. As in httpd, GET includes HEAD.
    fn have(&self, method: &Method) -> bool {
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let is_named = |name: &String| name == method || name == "HEAD" && method == "GET";
        self.names.iter().any(is_named) != self.except
    }
}

/// Returns whether a group grants a request or denies it; `None` if other groups decide
/// (mod_authz_core).
fn group(group: Group, rules: &[Require], asked: &Asked<'_>) -> Option<bool> {
    let mut results = rules.iter().map(|rule| rule.result(asked));
    let has = |wanted: bool| results.clone().any(|result| result == Some(wanted));
    match group {
        Group::Any if has(true) => Some(true),
        Group::Any => has(false).then_some(false),
        Group::All if has(false) => Some(false),
        Group::All => has(true).then_some(true),
        Group::None => results.any(|result| result == Some(true)).then_some(false),
    }
}

impl Require {
    /// Returns whether the rule applies to a method.
    fn counts(&self, method: &Method) -> bool {
        match self {
            Require::Line { .. } | Require::Group(..) => true,
            Require::Limited(methods, _) => methods.have(method),
        }
    }

    fn result(&self, asked: &Asked<'_>) -> Option<bool> {
        let (negated, who) = match self {
            Require::Group(kind, rules) => return group(*kind, rules, asked),
            Require::Limited(methods, rule) => {
                return if methods.have(asked.method) { rule.result(asked) } else { None };
            }
            Require::Line { negated, who } => (*negated, who),
        };
        let holds = match who {
            Who::All(granted) => *granted,
            Who::Ip(networks) => networks.iter().any(|network| asked.is_in(network)),
            Who::Local => asked.client.is_none_or(|client| client.is_loopback()),
        };
        match negated {
            false => Some(holds),
            true => holds.then_some(false),
        }
    }

    fn read(directive: &Directive, within: Group) -> Result<Self, Fault> {
        if let Some(lines) = &directive.section {
            let kind = match directive.name.text.to_ascii_lowercase().as_str() {
                "<requireall" => Group::All,
                "<requirenone" => Group::None,
                "<requireany" => Group::Any,
                _ => {
                    let expected = "Require, <RequireAll>, <RequireAny> or <RequireNone>; <Limit> around the group";
                    return Err(directive.fault(format!("{}> may not stand here", directive.name.text), expected));
                }
            };
            let is_rule = |line: &&Directive| line.section.is_some() || line.is("Require");
            if let Some(other) = lines.iter().find(|line| !is_rule(line)) {
                return Err(other.fault(format!("{} may not stand here", other.name.text), "Require"));
            }
            if lines.is_empty() {
                return Err(directive.fault(format!("{}> without a line", directive.name.text), "Require"));
            }
            return Ok(Require::Group(
                kind,
                lines.iter().map(|line| Require::read(line, kind)).collect::<Result<_, _>>()?,
            ));
        }
        let mut words = &directive.args[..];
        let negated = words.first().is_some_and(|word| word.text.eq_ignore_ascii_case("not"));
        if negated {
            if within != Group::All {
                let expected = "<RequireAll>, Require all granted, this line, </RequireAll>";
                return Err(words[0].fault("Require not has an effect only in <RequireAll>", expected));
            }
            words = &words[1..];
        }
        let expected = "Require all granted, Require all denied, Require [not] ip ADDRESS... or Require local";
        let Some((kind, values)) = words.split_first() else {
            return Err(directive.fault("Require needs a rule", expected));
        };
        let who = match (kind.text.to_ascii_lowercase().as_str(), values) {
            ("all", [value]) if value.text.eq_ignore_ascii_case("granted") => Who::All(true),
            ("all", [value]) if value.text.eq_ignore_ascii_case("denied") => Who::All(false),
            ("ip", [_, ..]) => Who::Ip(values.iter().map(network).collect::<Result<_, _>>()?),
            ("local", []) => Who::Local,
            ("host" | "forward-dns", _) => {
                return Err(kind.fault("names of clients are not looked up", "Require ip ADDRESS..."));
            }
            (who, _) if ASK.contains(&who) => {
                let expected =
                    "no password in front of the nodes: Kylin asks for one itself; Require ip keeps networks out";
                return Err(kind.fault(format!("Require {} is not supported", kind.text), expected));
            }
            _ => return Err(kind.fault(format!("Require {} is not supported", kind.text), expected)),
        };
        if negated && matches!(who, Who::All(_)) {
            return Err(kind.fault("Require not all", "Require all denied or Require all granted"));
        }
        Ok(Require::Line { negated, who })
    }
}

/// Returns whether a directive is about logins of clients.
pub fn is_of_password(line: &Directive) -> bool {
    line.name.text.to_ascii_lowercase().starts_with("auth") && !line.is("AuthMerging")
}

/// Reads an address, a network with a prefix length or netmask, or the first bytes of an IPv4
/// address.
pub fn network(word: &Word) -> Result<IpNet, Fault> {
    let text = word.text.as_str();
    let parsed = text
        .parse::<IpAddr>()
        .map(IpNet::from)
        .ok()
        .or_else(|| text.parse().ok())
        .or_else(|| masked(text))
        .or_else(|| partial(text));
    parsed.map(|network| network.trunc()).ok_or_else(|| word.fault(format!("not an address: \"{text}\""), ADDRESSES))
}

fn masked(text: &str) -> Option<IpNet> {
    let (address, mask) = text.split_once('/')?;
    IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
}

/// Reads `10.1` and `10.1.`, the first bytes of an IPv4 address.
fn partial(text: &str) -> Option<IpNet> {
    let bytes: Vec<u8> = text.trim_end_matches('.').split('.').map(|byte| byte.parse().ok()).collect::<Option<_>>()?;
    let length = u8::try_from(bytes.len()).ok().filter(|length| (1..4).contains(length))?;
    let address = std::array::from_fn::<u8, 4, _>(|index| bytes.get(index).copied().unwrap_or(0));
    IpNet::new(IpAddr::from(address), length * 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_stands_for_head_in_the_methods_of_a_section() {
        let methods = |except, name: &str| Methods { except, names: vec![name.to_owned()] };
        for (methods, head, get, post) in [
            (methods(false, "GET"), true, true, false),
            (methods(true, "GET"), false, false, true),
            (methods(false, "HEAD"), true, true, false),
            (methods(false, "POST"), false, false, true),
        ] {
            let has = [Method::HEAD, Method::GET, Method::POST].map(|method| methods.have(&method));
            assert_eq!(has, [head, get, post], "{methods:?}");
        }
    }
}
