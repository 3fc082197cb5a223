//! Addresses as nginx writes them: `ngx_parse_url` without its name lookup.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::values::parse_digits;
use crate::backend::http1::Address;

/// An address, and the port if it has one.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) address: Address,
    pub(crate) port: Option<u16>,
}

/// The maximum length of the path of a unix socket: `sun_path` of Linux has 108 bytes, including
/// the final zero.
const MAX_UNIX_PATH_BYTES: usize = 107;

/// Reads `host`, `host:port`, `1.2.3.4:port`, `[::1]:port` or `unix:/path`. The error is the
/// reason.
pub(crate) fn parse(text: &str, default_port: u16) -> Result<Written, &'static str> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("the unix socket has no path"),
            path if path.len() > MAX_UNIX_PATH_BYTES => Err("the path of a unix socket has at most 107 bytes"),
            path => Ok(Written { address: Address::Unix(PathBuf::from(path)), port: None }),
        };
    }
    let socket = |ip: IpAddr, port: Option<u16>| {
        Ok(Written { address: Address::Socket(SocketAddr::new(ip, port.unwrap_or(default_port))), port })
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the IPv6 address lacks its closing \"]\"")?;
        let ip: Ipv6Addr = host.parse().map_err(|_| "the IPv6 address is invalid")?;
        let port = match rest {
            "" => None,
            rest => Some(parse_port(rest.strip_prefix(':').ok_or("only \":PORT\" may follow \"]\"")?)?),
        };
        return socket(ip.into(), port);
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return socket(ip.into(), port);
    }
    if host.is_empty() {
        return Err("the host is missing");
    }
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.len() > 253 || !host.bytes().all(is_letter) {
        return Err("the host name is invalid");
    }
    // A mistyped address would otherwise be looked up as a name and never found.
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err("the IPv4 address is invalid");
    }
    Ok(Written { address: Address::Name(host.to_owned(), port.unwrap_or(default_port)), port })
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    parse_digits(text).filter(|&port| port != 0).ok_or("a port is a number from 1 to 65535")
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
