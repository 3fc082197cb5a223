//! The address of a store as a host writes it:
//! `scheme://[user[:password]@]host[:port][,host[:port]...][/segment...][?option=value&...]`.
//!
//! User, password, path and options may hold `%` and two hexadecimal digits for any byte. No error shows any of the text,
//! because a password may stand anywhere in a mistyped one.

use std::fmt;

use crate::session::InvalidStore;

/// The parts of a store's address. [`Debug`](fmt::Debug) shows no password.
pub(crate) struct StoreUrl {
    /// What stands before `://`, in lower case.
    pub(crate) scheme: String,
    /// Who to log in as.
    pub(crate) user: Option<String>,
    /// With which password.
    pub(crate) password: Option<String>,
    /// Where: at least one.
    pub(crate) hosts: Vec<Host>,
    /// The path's segments; none is empty.
    pub(crate) path: Vec<String>,
    options: Vec<(String, String)>,
}

/// A host name or address, and a port where one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Without the brackets of an IPv6 address.
    pub(crate) name: String,
    /// 1 to 65535.
    pub(crate) port: Option<u16>,
}

impl StoreUrl {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] says which part is wrong and what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidStore> {
        let (scheme, rest) = text.split_once("://").ok_or(wrong("the scheme", "scheme://host"))?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err(wrong("the scheme", "letters, digits, + - ."));
        }
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
        let (user, password) = match login {
            None => (None, None),
            Some(login) => {
                let (user, password) = login.split_once(':').map_or((login, None), |(user, pass)| (user, Some(pass)));
                (Some(user).filter(|user| !user.is_empty()), password)
            }
        };
        Ok(StoreUrl {
            scheme: scheme.to_ascii_lowercase(),
            user: user.map(|text| plain("the user", text)).transpose()?,
            password: password.map(|text| plain("the password", text)).transpose()?,
            hosts: hosts.split(',').map(Host::parse).collect::<Result<_, _>>()?,
            path: path
                .split('/')
                .filter(|part| !part.is_empty())
                .map(|part| plain("the path", part))
                .collect::<Result<_, _>>()?,
            options: options.split('&').filter(|pair| !pair.is_empty()).map(option).collect::<Result<_, _>>()?,
        })
    }

    /// Takes the option called `name` out.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(found, _)| found == name)?;
        Some(self.options.remove(at).1)
    }

    /// That every option was taken.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] with the options that there are, when another was given, or one twice.
    pub(crate) fn no_more_options(&self, known: &'static str) -> Result<(), InvalidStore> {
        if self.options.is_empty() { Ok(()) } else { Err(wrong("an option", known)) }
    }

    /// The only host.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] when there are several.
    #[cfg_attr(not(any(feature = "redis", feature = "mysql")), allow(dead_code, reason = "Memcached has many"))]
    pub(crate) fn one_host(&self) -> Result<&Host, InvalidStore> {
        match &self.hosts[..] {
            [host] => Ok(host),
            _ => Err(wrong("the hosts", "one host")),
        }
    }
}

impl Host {
    /// `name`, `name:port`, `[address]` or `[address]:port`.
    ///
    /// # Errors
    /// [`InvalidStore::Url`].
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidStore> {
        const EXPECTED: &str = "host or host:port, several separated by commas, an IPv6 address in brackets";
        let invalid = || wrong("a host", EXPECTED);
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
                let address: std::net::Ipv6Addr = address.parse().map_err(|_| invalid())?;
                let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(invalid)?) };
                (address.to_string(), port)
            }
            None => {
                let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
                if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
                    return Err(invalid());
                }
                (name.to_ascii_lowercase(), port)
            }
        };
        let port = port.map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(wrong("a port", "a number from 1 to 65535")),
            Ok(port) => Ok(port),
        });
        Ok(Host { name, port: port.transpose()? })
    }

    /// Name and port, that of the protocol where none is given.
    pub(crate) fn or_port(&self, default: u16) -> (String, u16) {
        (self.name.clone(), self.port.unwrap_or(default))
    }
}

/// A part of an address that is not as it should be.
pub(crate) const fn wrong(part: &'static str, expected: &'static str) -> InvalidStore {
    InvalidStore::Url { part, expected }
}

fn option(pair: &str) -> Result<(String, String), InvalidStore> {
    let (name, value) = pair.split_once('=').ok_or(wrong("an option", "name=value"))?;
    Ok((plain("an option", name)?, plain("an option", value)?))
}

/// The text with `%XX` replaced.
fn plain(part: &'static str, text: &str) -> Result<String, InvalidStore> {
    let invalid = || wrong(part, "UTF-8 text, with % only before two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let (digits, tail) = tail.split_first_chunk::<2>().ok_or_else(invalid)?;
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or_else(invalid);
            bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
            rest = tail;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreUrl").field("scheme", &self.scheme).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: impl Into<Option<u16>>) -> Host {
        Host { name: name.to_owned(), port: port.into() }
    }

    #[test]
    fn takes_an_address_apart() {
        let mut url =
            StoreUrl::parse("Redis+Sentinel://me:p%40ss%2f:x@a:1,B.example,[::1]:3/my%20master/5?prefix=x%3A&ca=/a/b")
                .unwrap();
        assert_eq!(url.scheme, "redis+sentinel");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me"), Some("p@ss/:x")));
        assert_eq!(url.hosts, [host("a", 1), host("b.example", None), host("::1", 3)]);
        assert_eq!(url.path, ["my master", "5"]);
        assert!(url.no_more_options("none").is_err());
        assert_eq!(url.take("ca").as_deref(), Some("/a/b"));
        assert_eq!(url.take("prefix").as_deref(), Some("x:"));
        assert!(url.take("prefix").is_none() && url.no_more_options("none").is_ok());
    }

    #[test]
    fn a_password_needs_no_user() {
        let url = StoreUrl::parse("redis://:secret@h").unwrap();
        assert_eq!((url.user, url.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn mistakes_are_named_and_never_quoted() {
        let cases = [
            ("hunter2", "the scheme: expected scheme://host"),
            ("red is://hunter2", "the scheme: expected letters, digits, + - ."),
            ("redis://", "a host: expected host or host:port"),
            ("redis://u:hunter2@", "a host: expected host or host:port"),
            ("redis://h:hunter2", "a port: expected a number from 1 to 65535"),
            ("redis://h:0", "a port: expected a number from 1 to 65535"),
            ("redis://[hunter2]", "a host: expected"),
            ("redis://u:hunter2%@h", "the password: expected UTF-8 text"),
            ("redis://u:hunter2%ff@h", "the password: expected UTF-8 text"),
            ("redis://h?hunter2", "an option: expected name=value"),
        ];
        for (text, expected) in cases {
            let message = StoreUrl::parse(text).unwrap_err().to_string();
            assert!(message.contains(expected) && !message.contains("hunter2"), "{text}: {message}");
        }
        let shown = format!("{:?}", StoreUrl::parse("redis://u:hunter2@h?a=hunter2").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}", rest in "[a-z:/@%,?&=\\[\\]0-9]{0,40}") {
            let _ = StoreUrl::parse(&text);
            let _ = StoreUrl::parse(&format!("redis://{rest}"));
        }
    }
}
