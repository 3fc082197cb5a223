//! `Require`, and `Order`, `Allow` and `Deny` of mod_access_compat.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::httpd::syntax::{Directive, Fault, Word};

/// The clients that one section lets send requests. Both parts must allow a client.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The lines, for the report.
    written: Vec<String>,
    require: Vec<Require>,
    compat: Option<Compat>,
}

#[derive(Debug, Clone)]
enum Require {
    Line { negated: bool, who: Who },
    Group(Group, Vec<Require>),
}

/// `<RequireAny>`, which lines outside of a group form too, `<RequireAll>` and `<RequireNone>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Any,
    All,
    None,
}

#[derive(Debug, Clone)]
enum Who {
    /// `all granted` is true and `all denied` is false.
    All(bool),
    Ip(Vec<IpNet>),
    Local,
}

#[derive(Debug, Clone, Default)]
struct Compat {
    /// `Order Allow,Deny`: a client in both lists or in none is refused.
    allow_first: bool,
    allow: Vec<Option<IpNet>>,
    deny: Vec<Option<IpNet>>,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.written.join(", "))
    }
}

/// The client may not send the request.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied;

/// The form of addresses.
const ADDRESSES: &str = "IP addresses or networks such as 10.0.0.0/8 or 10.1";

impl Access {
    /// Reads a line. Returns false if it is another directive.
    pub fn read(&mut self, directive: &Directive) -> Result<bool, Fault> {
        match directive.name.text.to_ascii_lowercase().as_str() {
            "require" | "<requireany" | "<requireall" | "<requirenone" => {
                self.require.push(Require::read(directive, Group::Any)?);
            }
            "order" => {
                let order = directive.args.iter().map(|word| word.text.to_ascii_lowercase()).collect::<String>();
                self.compat.get_or_insert_default().allow_first = match order.as_str() {
                    "allow,deny" | "mutual-failure" => true,
                    "deny,allow" => false,
                    _ => return Err(directive.fault("unknown order", "Order Allow,Deny or Order Deny,Allow")),
                };
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
                for word in who {
                    list.push(if word.text.eq_ignore_ascii_case("all") { None } else { Some(network(word)?) });
                }
            }
            "satisfy" => {
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

    pub fn is_empty(&self) -> bool {
        self.require.is_empty() && self.compat.is_none()
    }

    /// Applies the lines of an inner section.
    pub fn replace(&mut self, inner: &Access) {
        if !inner.require.is_empty() {
            self.require.clone_from(&inner.require);
        }
        if inner.compat.is_some() {
            self.compat.clone_from(&inner.compat);
        }
    }

    pub fn check(&self, client: Option<IpAddr>) -> Result<(), Denied> {
        let client = client.map(|client| client.to_canonical());
        let is_required = self.require.is_empty() || group(Group::Any, &self.require, client) == Some(true);
        let is_compat = self.compat.as_ref().is_none_or(|Compat { allow_first, allow, deny }| {
            let is_in = |list: &[Option<IpNet>]| {
                list.iter().any(|network| match network {
                    None => true,
                    Some(network) => client.is_some_and(|client| network.contains(&client)),
                })
            };
            if *allow_first { is_in(allow) && !is_in(deny) } else { is_in(allow) || !is_in(deny) }
        });
        if is_required && is_compat { Ok(()) } else { Err(Denied) }
    }
}

/// Returns whether a group grants a request or denies it; `None` if other groups decide (mod_authz_core).
fn group(group: Group, rules: &[Require], client: Option<IpAddr>) -> Option<bool> {
    let mut results = rules.iter().map(|rule| rule.result(client));
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
    fn result(&self, client: Option<IpAddr>) -> Option<bool> {
        let (negated, who) = match self {
            Require::Group(kind, rules) => return group(*kind, rules, client),
            Require::Line { negated, who } => (*negated, who),
        };
        let holds = match who {
            Who::All(granted) => *granted,
            Who::Ip(networks) => client.is_some_and(|client| networks.iter().any(|network| network.contains(&client))),
            Who::Local => client.is_none_or(|client| client.is_loopback()),
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
                _ => Group::Any,
            };
            let is_rule = |line: &&Directive| line.section.is_some() || line.is("Require");
            if let Some(other) = lines.iter().find(|line| !is_rule(line)) {
                return Err(other.fault(format!("{} may not stand here", other.name.text), "Require"));
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
            ("valid-user" | "user" | "group" | "ldap-group" | "ldap-user", _) => {
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

/// Reads an address, a network with the length or the mask of its prefix, or the first bytes of an IPv4 address.
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

/// `10.1` and `10.1.`
fn partial(text: &str) -> Option<IpNet> {
    let bytes: Vec<u8> = text.trim_end_matches('.').split('.').map(|byte| byte.parse().ok()).collect::<Option<_>>()?;
    let length = u8::try_from(bytes.len()).ok().filter(|length| (1..4).contains(length))?;
    let address = std::array::from_fn::<u8, 4, _>(|index| bytes.get(index).copied().unwrap_or(0));
    IpNet::new(IpAddr::from(address), length * 8).ok()
}
