//! Addresses and names of servers.

use std::net::IpAddr;

use crate::httpd::syntax::{Directive, Fault, Place, Word};

/// A `Listen` directive.
#[derive(Debug, Clone)]
pub struct Listen {
    pub place: Place,
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub https: bool,
}

impl Listen {
    pub fn read(line: &Directive) -> Result<Self, Fault> {
        let expected = "Listen [ADDRESS:]PORT [http|https]";
        let (word, protocol) = match &line.args[..] {
            [word] => (word, None),
            [word, protocol] => (word, Some(protocol)),
            [_, _, more, ..] => return Err(more.unexpected(line, expected)),
            [] => return Err(line.fault("Listen needs a port", expected)),
        };
        let text = word.defined()?.text.as_str();
        let https = match protocol {
            None => text.ends_with(":443") || text == "443",
            Some(protocol) if protocol.text.eq_ignore_ascii_case("https") => true,
            Some(protocol) if protocol.text.eq_ignore_ascii_case("http") => false,
            Some(protocol) => {
                return Err(protocol.fault(format!("the protocol {} is not spoken", protocol.text), "http or https"));
            }
        };
        if text.starts_with("unix:") || text.contains('/') {
            return Err(word.fault("not an address", "[ADDRESS:]PORT; a unix socket: --listen unix:/PATH"));
        }
        let (ip, port) = match text.contains([':', '.']) {
            true => host_address(word)?,
            false => (None, text.parse().ok()),
        };
        let port = port.ok_or_else(|| word.fault(format!("not a port: \"{text}\""), expected))?;
        Ok(Listen { place: word.place, ip, port, https })
    }
}

/// Reads `[SCHEME://]NAME[:PORT]`.
pub fn server_name(word: &Word) -> Result<String, Fault> {
    let name = word.defined()?.text.as_str();
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    let name = match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    };
    let is_valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'#' | b','));
    if is_valid {
        Ok(name.to_ascii_lowercase())
    } else {
        Err(word.fault(format!("not a host name: \"{}\"", word.text), "a name such as kylin.example"))
    }
}

/// Reads `[ADDRESS:]PORT`. An asterisk counts as missing.
pub fn host_address(word: &Word) -> Result<(Option<IpAddr>, Option<u16>), Fault> {
    let text = word.defined()?.text.as_str();
    let expected = "*:PORT or ADDRESS:PORT";
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && (!host.starts_with('[') || host.ends_with(']')) => {
            (host, Some(port))
        }
        _ => (text, None),
    };
    let port = match port {
        None | Some("*") => None,
        Some(port) => Some(port.parse().map_err(|_| word.fault(format!("not a port: \"{port}\""), expected))?),
    };
    let ip = match host {
        "*" | "_default_" => None,
        host => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            Some(bare.parse().map_err(|_| word.fault(format!("names are not looked up: \"{host}\""), expected))?)
        }
    };
    Ok((ip, port))
}
