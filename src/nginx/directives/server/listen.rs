//! `listen`: the addresses at which a server accepts connections.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::backend::http1::Address;
use crate::nginx::directives::catalogue::usage;
use crate::nginx::directives::remarks::Remarks;
use crate::nginx::syntax::{Directive, Fault, Word, address, values};

/// An address at which connections are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ListenAddress {
    /// A TCP address; `listen 8080` is `0.0.0.0:8080`.
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A `listen` directive.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    pub(crate) address: ListenAddress,
    /// Whether the server is the default for hosts that no server at this address names.
    pub(crate) default_server: bool,
    /// The maximum number of connections that wait to be accepted.
    pub(crate) backlog: Option<u32>,
    /// Whether an IPv6 socket refuses IPv4 clients; nginx's default is yes.
    pub(crate) ipv6_only: bool,
    /// Whether connections begin with TLS.
    pub(crate) ssl: bool,
    /// Whether connections begin with the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    /// Whether the address is only for HTTP/3, which is not served.
    pub(crate) quic: bool,
}

const PARAMETERS: &str = "one of: default_server, ssl, proxy_protocol, backlog=N, ipv6only=on|off, http2, reuseport, deferred, bind, \
                          so_keepalive=..., fastopen=N, rcvbuf=SIZE, sndbuf=SIZE";

impl Listen {
    /// Returns nginx's default for a server without `listen`.
    pub(super) fn standard() -> Listen {
        let address = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)));
        Listen {
            address,
            default_server: false,
            backlog: None,
            ipv6_only: true,
            ssl: false,
            proxy_protocol: false,
            quic: false,
        }
    }

    pub(super) fn read(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Listen, Fault> {
        let (mut listen, parameters) = Listen::read_address(directive)?;
        parameters.iter().try_for_each(|word| listen.read_parameter(word, remarks))?;
        Ok(listen)
    }

    /// Reads a `listen` of a server that is left out, and skips parameters that cannot be read.
    pub(super) fn read_left_out(directive: &Directive, remarks: &mut Remarks<'_>) -> Result<Listen, Fault> {
        let (mut listen, parameters) = Listen::read_address(directive)?;
        for word in parameters {
            _ = listen.read_parameter(word, remarks);
        }
        Ok(listen)
    }

    fn read_address(directive: &Directive) -> Result<(Listen, &[Word]), Fault> {
        let Some((first, parameters)) = directive.args.split_first() else {
            return Err(directive.span().value("listen without an address", usage("listen")));
        };
        Ok((Listen { address: read_address(first)?, ..Listen::standard() }, parameters))
    }

    fn read_parameter(&mut self, word: &Word, remarks: &mut Remarks<'_>) -> Result<(), Fault> {
        let unsupported = |expected: &str| {
            let message = format!("listen parameter \"{}\" is not supported", word.text);
            Err(word.span.unsupported(message, expected))
        };
        match word.parameter() {
            ("default_server" | "default", None) => self.default_server = true,
            ("backlog", Some(value)) => self.backlog = Some(values::number(&value, 1..=1 << 20)?),
            ("ipv6only", Some(value)) => self.ipv6_only = values::flag(&value)?,
            // Every listener accepts HTTP/2.
            ("http2", None) => {}
            // These parameters tune the wakeups, keep-alive probes and buffers of the kernel.
            ("reuseport" | "deferred" | "bind", None)
            | ("so_keepalive" | "fastopen" | "rcvbuf" | "sndbuf", Some(_)) => {
                remarks.ignored(word.span, format!("listen ... {}", word.text));
            }
            ("ssl", None) if cfg!(feature = "tls") => self.ssl = true,
            ("ssl", _) => return unsupported("a build with the feature tls, or a TLS terminator in front"),
            ("proxy_protocol", None) => self.proxy_protocol = true,
            ("quic" | "http3", None) => self.quic = true,
            ("spdy", None) => remarks.ignored(word.span, "listen ... spdy"),
            ("accept_filter" | "setfib", _) => return unsupported(PARAMETERS),
            _ => {
                let message = format!("unknown parameter \"{}\" of listen", word.text);
                return Err(word.span.unknown(message, PARAMETERS));
            }
        }
        Ok(())
    }
}

fn read_address(word: &Word) -> Result<ListenAddress, Fault> {
    let invalid = |reason: &str| {
        let expected = format!("PORT, ADDRESS:PORT, *:PORT, [IPV6]:PORT or unix:PATH ({reason})");
        word.invalid("listen address", expected)
    };
    let text = word.text.as_str();
    let is_port = text.bytes().all(|byte| byte.is_ascii_digit());
    let any = text.strip_prefix('*').filter(|rest| rest.is_empty() || rest.starts_with(':'));
    let text = match any {
        Some(port) => format!("0.0.0.0{port}"),
        None if is_port => format!("0.0.0.0:{text}"),
        None => text.to_owned(),
    };
    match address::parse(&text, 80).map_err(invalid)?.address {
        Address::Socket(address) => Ok(ListenAddress::Tcp(address)),
        Address::Unix(path) => Ok(ListenAddress::Unix(path)),
        Address::Name(host, port) if host.eq_ignore_ascii_case("localhost") => {
            Ok(ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        }
        _ => Err(invalid("names are not looked up here")),
    }
}

impl ListenAddress {
    /// Returns whether this is an address for all interfaces that includes `other`.
    pub(crate) fn includes(&self, other: &ListenAddress) -> bool {
        match (self, other) {
            (ListenAddress::Tcp(all), ListenAddress::Tcp(other)) => {
                all.ip().is_unspecified() && all.port() == other.port() && all.is_ipv4() == other.is_ipv4()
            }
            (ListenAddress::Tcp(_) | ListenAddress::Unix(_), _) => false,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                write!(f, "[::]:{}", address.port())
            }
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
