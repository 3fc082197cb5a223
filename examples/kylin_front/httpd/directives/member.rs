//! `BalancerMember`, and the parameters of a server.

use std::num::NonZeroU32;
use std::time::Duration;

use super::remarks::Remarks;
use crate::httpd::syntax::{Fault, Place, Word, did_you_mean};

/// A `BalancerMember`.
#[derive(Debug, Clone)]
pub struct Member {
    pub place: Place,
    /// `HOST:PORT`.
    pub address: String,
    pub tls: bool,
    /// `loadfactor`, in hundredths.
    pub load_factor: u32,
    pub route: Option<String>,
    pub redirect: Option<String>,
    pub set: u32,
    pub status: Status,
    /// `retry`; `None` if not written.
    pub retry: Option<Duration>,
    pub timeout: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub max: Option<NonZeroU32>,
    pub ttl: Option<Duration>,
    pub reuse: bool,
}

/// `status=`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the member gets no requests (D or S).
    pub disabled: bool,
    /// Whether the member gets only requests of its sessions (N).
    pub drain: bool,
    /// Whether the member serves only if no other member of its `lbset` can (H).
    pub standby: bool,
    /// Whether the member replaces a member of its `lbset` that cannot serve (R).
    pub spare: bool,
    /// Whether the member is never ejected (I).
    pub ignores_errors: bool,
}

const OF_MEMBER: [&str; 29] = [
    "route",
    "loadfactor",
    "lbset",
    "status",
    "redirect",
    "retry",
    "timeout",
    "connectiontimeout",
    "ping",
    "max",
    "min",
    "smax",
    "acquire",
    "ttl",
    "keepalive",
    "disablereuse",
    "enablereuse",
    "flushpackets",
    "flushwait",
    "iobuffersize",
    "responsefieldsize",
    "receivebuffersize",
    "upgrade",
    "secret",
    "hcmethod",
    "hcinterval",
    "hcuri",
    "hctemplate",
    "addressttl",
];

impl Member {
    /// Returns the member of a URL, and the path of the URL.
    pub fn read(url: &Word) -> Result<(Self, String), Fault> {
        url.defined()?;
        let (scheme, rest) = url.text.split_once("://").unwrap_or(("", &url.text));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let scheme = scheme.to_ascii_lowercase();
        let tls = scheme == "https";
        match scheme.as_str() {
            "http" => {}
            "https" if cfg!(feature = "tls") => {}
            "https" => {
                return Err(
                    url.fault("https to a node needs the feature tls", "a build with --features tls, or http://")
                );
            }
            "ajp" => {
                let host = authority.split(':').next().unwrap_or_default();
                return Err(url
                    .fault("AJP is not supported", format!("the HTTP connector of Tomcat: http://{host}:7070{path}")));
            }
            "ws" | "wss" | "h2" | "h2c" | "fcgi" | "scgi" | "uwsgi" | "ftp" | "balancer" => {
                return Err(url.fault(format!("a node is not reached by {scheme}://"), "http://HOST:PORT"));
            }
            _ => return Err(url.fault(format!("not the URL of a node: \"{}\"", url.text), "http://HOST:PORT")),
        }
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(host, _)| !host.ends_with(':') && (!host.starts_with('[') || host.ends_with(']')));
        let address = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:{}", if tls { 443 } else { 80 }),
        };
        if kylin_lb::HttpBackend::builder(&address).is_err() {
            return Err(url.fault(format!("not the address of a node: \"{authority}\""), "http://HOST:PORT"));
        }
        let member = Member {
            place: url.place,
            address,
            tls,
            load_factor: 100,
            route: None,
            redirect: None,
            set: 0,
            status: Status::default(),
            retry: None,
            timeout: None,
            connect_timeout: None,
            max: None,
            ttl: None,
            reuse: true,
        };
        Ok((member, path.trim_end_matches('/').to_owned()))
    }

    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// Returns the URL with its port, and without the port if it is the default of the scheme.
    pub fn urls(&self) -> impl Iterator<Item = String> {
        let url = self.url();
        let bare = url.strip_suffix(if self.tls { ":443" } else { ":80" }).map(str::to_owned);
        std::iter::once(url).chain(bare)
    }

    /// Reads `NAME=VALUE` of a `BalancerMember`, and of a `ProxyPass` or `ProxySet` to a host.
    pub fn set(&mut self, parameter: &Word, remarks: &mut Remarks) -> Result<(), Fault> {
        let (name, value) = pair(parameter, &OF_MEMBER, "a member")?;
        let has_no_effect = match name.as_str() {
            "route" | "redirect" => {
                if value.text.is_empty() || value.text.len() > 96 {
                    return Err(
                        value.fault("not a route", "1 to 96 characters, as in jvmRoute of the node's server.xml")
                    );
                }
                let route = Some(value.text.clone());
                if name == "route" {
                    self.route = route
                } else {
                    self.redirect = route
                }
                return Ok(());
            }
            "loadfactor" => {
                self.load_factor = load_factor(&value)?;
                return Ok(());
            }
            "lbset" => {
                self.set = value.number(0..=99)?;
                return Ok(());
            }
            "status" => return self.status.read(&value),
            "retry" => {
                self.retry = Some(value.time()?);
                return Ok(());
            }
            "timeout" => {
                self.timeout = Some(value.time()?).filter(|time| !time.is_zero());
                return Ok(());
            }
            "connectiontimeout" => {
                self.connect_timeout = Some(value.time()?).filter(|time| !time.is_zero());
                return Ok(());
            }
            "ttl" => {
                self.ttl = Some(value.time()?).filter(|time| !time.is_zero());
                return Ok(());
            }
            "max" => {
                self.max = NonZeroU32::new(value.number(1..=1_000_000)?);
                let text = format!("{}: counted over all threads; httpd counts for each process", parameter.text);
                remarks.note(parameter.place, text);
                return Ok(());
            }
            "disablereuse" => {
                self.reuse = !flag(&value)?;
                return Ok(());
            }
            "enablereuse" => {
                self.reuse = flag(&value)?;
                return Ok(());
            }
            "ping" => "the front end probes nodes itself: --probe",
            "min" | "smax" => "connections stay open for 15 s, or ttl",
            "acquire" => "queries wait for a member with max: --queue",
            "keepalive" | "flushpackets" | "flushwait" | "iobuffersize" | "responsefieldsize" | "receivebuffersize"
            | "addressttl" => "buffers and sockets are the front end's own",
            "upgrade" => "Kylin has no WebSocket",
            name if name.starts_with("hc") => "the front end probes nodes itself: --probe",
            "secret" => return Err(parameter.fault("secret is of AJP", "http:// members, without it")),
            _ => return Err(unknown(parameter, &name, &OF_MEMBER, "a member")),
        };
        remarks.ignored(parameter.place, format!("{}: {has_no_effect}", parameter.text));
        Ok(())
    }
}

/// Reads 1 to 100, with up to two decimals.
fn load_factor(value: &Word) -> Result<u32, Fault> {
    let (whole, decimals) = value.text.split_once('.').unwrap_or((&value.text, ""));
    let hundredths = format!("{decimals:0<2}");
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = (is_number(whole) && is_number(&hundredths) && hundredths.len() == 2)
        .then(|| format!("{whole}{hundredths}").parse::<u32>().ok());
    parsed
        .flatten()
        .filter(|factor| (100..=10_000).contains(factor))
        .ok_or_else(|| value.fault(format!("invalid loadfactor \"{}\"", value.text), "1 to 100, such as 5 or 1.5"))
}

impl Status {
    /// Reads `+H`, `D`, `-D`, `+D-H`.
    fn read(&mut self, value: &Word) -> Result<(), Fault> {
        let mut on = true;
        for (index, letter) in value.text.char_indices() {
            let status = match letter.to_ascii_uppercase() {
                '+' | '-' => {
                    on = letter == '+';
                    continue;
                }
                'D' | 'S' => &mut self.disabled,
                'N' => &mut self.drain,
                'H' => &mut self.standby,
                'R' => &mut self.spare,
                'I' => &mut self.ignores_errors,
                'E' | 'C' => {
                    let message = format!("status {letter}: the front end finds out itself whether a node fails");
                    return Err(value.fault_at(index, message, "D for a node without requests"));
                }
                _ => {
                    let message = format!("unknown status \"{letter}\"");
                    return Err(value.fault_at(index, message, "D, S, N, H, R or I, with + or - in front"));
                }
            };
            *status = on;
        }
        Ok(())
    }
}

/// Reads On or Off.
pub fn flag(value: &Word) -> Result<bool, Fault> {
    value.flag().ok_or_else(|| value.fault(format!("invalid value \"{}\"", value.text), "On or Off"))
}

/// Splits `NAME=VALUE`. The value keeps its position in the file.
pub fn pair(word: &Word, known: &[&str], of: &str) -> Result<(String, Word), Fault> {
    word.defined()?;
    let Some((name, text)) = word.text.split_once('=') else {
        if word.text.starts_with('#') {
            return Err(word.fault(
                "a comment behind a directive, which httpd reads as a value",
                "the comment in a line of its own",
            ));
        }
        return Err(unknown(word, &word.text.to_ascii_lowercase(), known, of));
    };
    let place = word.place.right(name.len() + 1);
    Ok((name.to_ascii_lowercase(), Word { text: text.to_owned(), place, undefined: None }))
}

pub fn unknown(word: &Word, name: &str, known: &[&str], of: &str) -> Fault {
    let meant = did_you_mean(name, known.iter().copied());
    word.fault(
        format!("unknown parameter \"{}\" of {of}{meant}", word.text),
        format!("NAME=VALUE, with {}", known.join(", ")),
    )
}
