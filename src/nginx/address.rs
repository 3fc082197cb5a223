//! Addresses as nginx writes them: `ngx_parse_url` without its name lookup.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::backend::http1::Address;

/// An address and whether its port was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) address: Address,
    pub(super) port: Option<u16>,
}

/// Reads `host`, `host:port`, `1.2.3.4:port`, `[::1]:port` or `unix:/path`. The error says what is wrong.
pub(super) fn parse(text: &str, default_port: u16) -> Result<Written, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("no path in the unix socket address"),
            // sun_path of Linux has room for 107 bytes and a zero.
            path if path.len() > 107 => Err("unix socket path longer than 107 bytes"),
            path => Ok(Written { address: Address::Unix(PathBuf::from(path)), port: None }),
        };
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("no closing \"]\" in the IPv6 address")?;
        let ip: Ipv6Addr = host.parse().map_err(|_| "invalid IPv6 address")?;
        let port = match rest {
            "" => None,
            rest => Some(parse_port(rest.strip_prefix(':').ok_or("only \":PORT\" may follow \"]\"")?)?),
        };
        return Ok(Written {
            address: Address::Socket(SocketAddr::new(ip.into(), port.unwrap_or(default_port))),
            port,
        });
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    let effective = port.unwrap_or(default_port);
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok(Written { address: Address::Socket(SocketAddr::new(IpAddr::V4(ip), effective)), port });
    }
    if host.is_empty() {
        return Err("no host");
    }
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.len() > 253 || !host.bytes().all(letters) {
        return Err("invalid host name");
    }
    // Such a name would be tried as a name and never found: it is a mistyped address.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err("invalid IPv4 address");
    }
    Ok(Written { address: Address::Name(host.to_owned(), effective), port })
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    let port = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    port.filter(|&port: &u16| port != 0).ok_or("invalid port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_address_is_read() {
        for (text, expected) in [
            ("1.1.1.1:7070", "1.1.1.1:7070"),
            ("1.1.1.1", "1.1.1.1:80"),
            ("[::1]:7070", "[::1]:7070"),
            ("[::1]", "[::1]:80"),
            ("kylin-1.example.org:7070", "kylin-1.example.org:7070"),
            ("kylin_1", "kylin_1:80"),
            ("unix:/run/kylin.sock", "unix:/run/kylin.sock"),
        ] {
            assert_eq!(parse(text, 80).map(|written| written.address.to_string()), Ok(expected.into()), "{text}");
        }
        for text in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:70000",
            "a:80:80",
            "a:+80",
            "::1",
            "[::1",
            "[::1]80",
            "[x]:1",
            "1.1.1:80",
            "unix:",
            "a b",
            "1.1.1.999",
        ] {
            assert!(parse(text, 80).is_err(), "{text}");
        }
    }
}
