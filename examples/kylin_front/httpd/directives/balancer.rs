//! `<Proxy balancer://...>`, `BalancerMember`, and the parameters of `ProxySet` and `ProxyPass`.

use std::num::NonZeroU32;

use super::member::{Member, flag, pair, unknown};
use super::remarks::Remarks;
use crate::httpd::syntax::{Fault, Place, Word, did_you_mean};

/// A balancer, or the single server of a `ProxyPass` to a host.
#[derive(Debug, Clone)]
pub struct Balancer {
    /// The name, without `balancer://`.
    pub name: String,
    pub place: Place,
    /// Whether a `<Proxy balancer://...>` declares the balancer. If not, it was made for a
    /// `ProxyPass`.
    pub declared: bool,
    pub members: Vec<Member>,
    pub method: Option<Method>,
    pub sticky: Option<Sticky>,
    /// Whether no other member serves the requests of a session (`nofailover`).
    pub no_failover: bool,
    pub colon_delimits: bool,
    /// `stickysessionsep`; `None` is `Off`.
    pub separator: Option<u8>,
    /// `maxattempts`: the maximum number of retries after the first attempt.
    pub max_attempts: Option<u32>,
    pub fail_on_timeout: bool,
    /// Whether an ejected member serves if all are ejected (`forcerecovery`).
    pub recovers: bool,
    /// The path of all members, to which that of a request is appended.
    pub path: String,
}

/// `stickysession=COOKIE|PATH-PARAMETER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    pub cookie: String,
    pub parameter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    ByRequests,
    ByBusyness,
}

/// The parameters of a balancer, for suggestions.
const OF_BALANCER: [&str; 12] = [
    "lbmethod",
    "stickysession",
    "stickysessionsep",
    "scolonpathdelim",
    "nofailover",
    "maxattempts",
    "failonstatus",
    "failontimeout",
    "forcerecovery",
    "growth",
    "nonce",
    "timeout",
];
impl Balancer {
    pub fn new(name: &str, place: Place) -> Self {
        Balancer {
            name: name.to_owned(),
            place,
            declared: false,
            members: Vec::new(),
            method: None,
            sticky: None,
            no_failover: false,
            colon_delimits: false,
            separator: Some(b'.'),
            max_attempts: None,
            fail_on_timeout: false,
            recovers: true,
            path: String::new(),
        }
    }

    /// Returns `balancer://NAME`, or the URL of the host.
    pub fn url(&self) -> String {
        if self.declared { format!("balancer://{}", self.name) } else { self.name.clone() }
    }

    /// Returns whether two balancers are identical, except for their positions in the file.
    pub fn is_like(&self, other: &Balancer) -> bool {
        let bare = |balancer: &Balancer| {
            let members = balancer.members.iter().map(|member| Member { place: Place::default(), ..member.clone() });
            let members = members.collect();
            format!("{:?}", Balancer { name: String::new(), place: Place::default(), members, ..balancer.clone() })
        };
        bare(self) == bare(other)
    }

    /// Reads `NAME=VALUE` of `ProxySet balancer://...` and of a `ProxyPass` to a balancer.
    pub fn set(&mut self, parameter: &Word, remarks: &mut Remarks) -> Result<(), Fault> {
        let (name, value) = pair(parameter, &OF_BALANCER, "a balancer")?;
        let flag = || flag(&value);
        let has_no_effect = match name.as_str() {
            "lbmethod" => {
                self.method = Some(method(&value)?);
                return Ok(());
            }
            "stickysession" => {
                let (cookie, parameter) = value.text.split_once('|').unwrap_or((&value.text, &value.text));
                if cookie.is_empty() || parameter.is_empty() {
                    return Err(value.fault("an empty name of a session", "stickysession=JSESSIONID|jsessionid"));
                }
                self.sticky = Some(Sticky { cookie: cookie.to_owned(), parameter: parameter.to_owned() });
                return Ok(());
            }
            "stickysessionsep" => {
                self.separator = match value.text.as_bytes() {
                    _ if value.flag() == Some(false) => None,
                    [one] => Some(*one),
                    _ => return Err(value.fault("more than one character", "stickysessionsep=. or Off")),
                };
                return Ok(());
            }
            "scolonpathdelim" => {
                self.colon_delimits = flag()?;
                return Ok(());
            }
            "nofailover" => {
                self.no_failover = flag()?;
                return Ok(());
            }
            "maxattempts" => {
                self.max_attempts = Some(value.number(0..=1000)?);
                return Ok(());
            }
            "failontimeout" => {
                self.fail_on_timeout = flag()?;
                return Ok(());
            }
            "forcerecovery" => {
                self.recovers = flag()?;
                return Ok(());
            }
            "failonstatus" => "nodes are ejected if they fail more than the others",
            "growth" => "members are added by a reload",
            "nonce" => "there is no balancer-manager: --admin",
            "timeout" => "queries wait for a member with max: --queue",
            _ => return Err(unknown(parameter, &name, &OF_BALANCER, "a balancer")),
        };
        remarks.ignored(parameter.place, format!("{}: {has_no_effect}", parameter.text));
        Ok(())
    }

    /// Returns the weight of a member: its load factor, in hundredths unless all factors are whole
    /// numbers.
    pub fn weight(&self, member: &Member) -> NonZeroU32 {
        let is_whole = self.members.iter().all(|member| member.load_factor.is_multiple_of(100));
        let weight = if is_whole { member.load_factor / 100 } else { member.load_factor };
        NonZeroU32::new(weight).unwrap_or(NonZeroU32::MIN)
    }

    /// Reads `BalancerMember [balancer://NAME] URL [NAME=VALUE]...`, without the name of the
    /// balancer.
    pub fn add(&mut self, url: &Word, parameters: &[Word], remarks: &mut Remarks) -> Result<(), Fault> {
        let (mut member, path) = Member::read(url)?;
        for parameter in parameters {
            member.set(parameter, remarks)?;
        }
        if let Some(other) = self.members.iter().find(|other| other.address == member.address) {
            let message = format!("{} is a member twice, first in {}", member.address, remarks.line_of(other.place));
            return Err(url.fault(message, "each node once; loadfactor= gives it more requests"));
        }
        if !self.members.is_empty() && path != self.path {
            let message = format!("members with different paths: \"{}\" and \"{path}\"", self.path);
            return Err(url.fault(message, "the same path for all members, or the path in ProxyPass"));
        }
        self.path = path;
        self.members.push(member);
        Ok(())
    }
}

fn method(value: &Word) -> Result<Method, Fault> {
    let (reason, instead) = match value.text.to_ascii_lowercase().as_str() {
        "byrequests" => return Ok(Method::ByRequests),
        "bybusyness" => return Ok(Method::ByBusyness),
        "bytraffic" => (
            "bytraffic is not supported: the bytes of a result say nothing of the work of a query",
            "lbmethod=bybusyness, or no lbmethod and the option --policy query-affinity",
        ),
        "heartbeat" => (
            "heartbeat is not supported: Kylin nodes send none",
            "lbmethod=bybusyness; the front end probes nodes itself (--probe)",
        ),
        _ => {
            let meant = did_you_mean(&value.text, ["byrequests", "bybusyness"]);
            return Err(value.fault(format!("unknown lbmethod \"{}\"{meant}", value.text), "byrequests or bybusyness"));
        }
    };
    Err(value.fault(reason, instead))
}
