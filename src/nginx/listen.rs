//! `listen`: the addresses at which a server is reached.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::address;
use super::error::{ErrorKind, Fault};
use super::lexer::Word;
use super::parser::Directive;
use super::reader::Reader;
use super::values;
use crate::backend::http1::Address;

/// An address to accept connections at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum ListenAddress {
    /// A TCP address; `listen 8080` is `0.0.0.0:8080`.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// One `listen` line.
#[derive(Debug, Clone)]
pub(crate) struct Listen {
    /// Where.
    pub(crate) address: ListenAddress,
    /// True when the server answers here for names that no server has.
    pub(crate) default_server: bool,
    /// How many connections may wait to be accepted, if it was said.
    pub(crate) backlog: Option<u32>,
    /// Whether an IPv6 socket refuses IPv4 clients; nginx's default is yes.
    pub(crate) ipv6_only: bool,
}

const PARAMETERS: &str = "one of: default_server, backlog=N, ipv6only=on|off, http2, reuseport, deferred, bind, \
                          so_keepalive=..., fastopen=N, rcvbuf=SIZE, sndbuf=SIZE";

impl Listen {
    /// What nginx assumes when a server has no `listen` line.
    pub(super) fn standard() -> Listen {
        let address = ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)));
        Listen { address, default_server: false, backlog: None, ipv6_only: true }
    }

    pub(super) fn read(directive: &Directive, reader: &mut Reader<'_>) -> Result<Listen, Fault> {
        let Some((first, parameters)) = directive.args.split_first() else {
            return Err(Fault::new(ErrorKind::Value, directive.span(), "listen without an address")
                .expecting("listen ADDRESS[:PORT] [parameters];"));
        };
        let mut listen = Listen { address: address(first)?, ..Listen::standard() };
        for word in parameters {
            let text = word.text.as_str();
            let refused = |hint: &str| {
                Err(Fault::new(
                    ErrorKind::Unsupported,
                    word.span,
                    format!("listen parameter \"{text}\" is not supported"),
                )
                .expecting(hint))
            };
            match text.split_once('=').map_or(text, |(name, _)| name) {
                "default_server" | "default" if !text.contains('=') => listen.default_server = true,
                "backlog" => listen.backlog = Some(values::number(word, "backlog=", 1, 1 << 20)?),
                "ipv6only" => listen.ipv6_only = on_off(word, "ipv6only=")?,
                // HTTP/2 is spoken to every client that opens with it.
                "http2" if !text.contains('=') => {}
                // How the kernel wakes, probes and buffers; each accept loop has a socket of its own in any case.
                "reuseport" | "deferred" | "bind" if !text.contains('=') => harmless(word, reader),
                "so_keepalive" | "fastopen" | "rcvbuf" | "sndbuf" if text.contains('=') => harmless(word, reader),
                "ssl" | "quic" | "http3" => return refused("cleartext: put a TLS terminator in front"),
                "proxy_protocol" => return refused("nothing: use real_ip_header X-Forwarded-For"),
                "spdy" => return refused("http2"),
                "accept_filter" | "setfib" => return refused(PARAMETERS),
                _ => {
                    return Err(Fault::new(
                        ErrorKind::Unknown,
                        word.span,
                        format!("unknown parameter \"{text}\" of listen"),
                    )
                    .expecting(PARAMETERS));
                }
            }
        }
        Ok(listen)
    }
}

fn harmless(parameter: &Word, reader: &mut Reader<'_>) {
    reader.remark_harmless(parameter.span, &format!("listen ... {}", parameter.text));
}

fn on_off(word: &Word, prefix: &str) -> Result<bool, Fault> {
    match word.text.strip_prefix(prefix) {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        _ => Err(values::invalid(word, "value").expecting(format!("{prefix}on or {prefix}off"))),
    }
}

fn address(word: &Word) -> Result<ListenAddress, Fault> {
    let fault = |reason: &str| {
        values::invalid(word, "listen address")
            .expecting(format!("PORT, ADDRESS:PORT, *:PORT, [IPV6]:PORT or unix:PATH ({reason})"))
    };
    let text = word.text.as_str();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = text.parse().ok().filter(|&port: &u16| port != 0).ok_or_else(|| fault("a port is 1 to 65535"))?;
        return Ok(ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))));
    }
    let any = text.strip_prefix('*').filter(|rest| rest.is_empty() || rest.starts_with(':'));
    let text = any.map_or_else(|| text.to_owned(), |rest| format!("0.0.0.0{rest}"));
    match address::parse(&text, 80).map_err(fault)?.address {
        Address::Socket(address) => Ok(ListenAddress::Tcp(address)),
        Address::Unix(path) => Ok(ListenAddress::Unix(path)),
        Address::Name(host, port) if host.eq_ignore_ascii_case("localhost") => {
            Ok(ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
        }
        _ => Err(fault("names are not looked up here")),
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
