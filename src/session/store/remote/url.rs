//! The address of a store:
//! `scheme://[user[:password]@]host[:port][,host[:port]...][/segment...][?option=value&...]`.
//!
//! User, password, path and options may be percent-encoded. No error shows any part of the text,
//! because a mistyped address may contain a password anywhere.

use std::fmt;
#[cfg(any(feature = "mysql", feature = "memcached"))]
use std::num::NonZeroU16;

use percent_encoding::percent_decode_str;

use crate::percent::has_valid_escapes;
use crate::session::InvalidStore;

/// The prefix of all keys, unless another one is set.
#[cfg(any(feature = "redis", feature = "memcached"))]
pub(crate) const DEFAULT_PREFIX: &str = "kylin-lb:";

/// The maximum number of connections that a [`Pool`](super::Pool) opens, unless another one is set.
#[cfg(any(feature = "mysql", feature = "memcached"))]
const DEFAULT_MAX_CONNECTIONS: NonZeroU16 = NonZeroU16::new(8).expect("not zero");

/// The parts of a store's address. [`Debug`](fmt::Debug) shows no password.
pub(crate) struct StoreUrl {
    /// In lower case.
    pub(crate) scheme: String,
    pub(crate) login: Login,
    /// At least one.
    hosts: Vec<(String, Option<u16>)>,
    /// The segments of the path; none is empty.
    pub(crate) path: Vec<String>,
    options: Vec<(String, String)>,
}

/// A host name or address, without the brackets of an IPv6 address, and a port.
pub(crate) type Server = (String, u16);

/// Returns the servers as they are written in an address.
#[cfg(any(feature = "redis", feature = "mysql"))]
pub(crate) fn hosts<'s>(servers: impl IntoIterator<Item = &'s Server>) -> String {
    let server = |(host, port): &Server| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    servers.into_iter().map(server).collect::<Vec<_>>().join(",")
}

/// A user and a password. [`Debug`](fmt::Debug) shows neither.
#[derive(Clone, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
}

impl StoreUrl {
    /// Parses an address.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] with the part that is invalid.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidStore> {
        let (scheme, rest) = text.split_once("://").ok_or(wrong("the scheme", "scheme://host"))?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err(wrong("the scheme", "letters, digits, + - ."));
        }
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        let user = Some(user).filter(|user| !user.is_empty());
        Ok(StoreUrl {
            scheme: scheme.to_ascii_lowercase(),
            login: Login {
                user: user.map(|text| decode("the user", text)).transpose()?,
                password: password.map(|text| decode("the password", text)).transpose()?,
            },
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            path: path
                .split('/')
                .filter(|part| !part.is_empty())
                .map(|part| decode("the path", part))
                .collect::<Result<_, _>>()?,
            options: options.split('&').filter(|pair| !pair.is_empty()).map(option).collect::<Result<_, _>>()?,
        })
    }

    /// Removes the option `name` and returns its value.
    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.options.iter().position(|(option, _)| option == name)?;
        Some(self.options.remove(index).1)
    }

    /// Removes the option `connections`, the maximum number of connections to a server.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] if the value is not a number, or is 0.
    #[cfg(any(feature = "mysql", feature = "memcached"))]
    pub(crate) fn take_max_connections(&mut self) -> Result<NonZeroU16, InvalidStore> {
        let parse = |max: String| max.parse().map_err(|_| wrong("an option", "connections=number"));
        self.take("connections").map_or(Ok(DEFAULT_MAX_CONNECTIONS), parse)
    }

    /// Checks that every option was taken.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] with the `known` options, if the address has an unknown option, or the
    /// same option twice.
    pub(crate) fn no_more_options(&self, known: &'static str) -> Result<(), InvalidStore> {
        if self.options.is_empty() { Ok(()) } else { Err(wrong("an option", known)) }
    }

    /// Returns the servers, with `default_port` if the address has no port. There is at least one.
    #[cfg(any(feature = "redis", feature = "memcached"))]
    pub(crate) fn servers(&self, default_port: u16) -> Vec<Server> {
        self.hosts.iter().map(|(name, port)| (name.clone(), port.unwrap_or(default_port))).collect()
    }

    /// Returns the only server, with `default_port` if the address has no port.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] if there are several servers.
    #[cfg(any(feature = "redis", feature = "mysql"))]
    pub(crate) fn server(&self, default_port: u16) -> Result<Server, InvalidStore> {
        match &self.hosts[..] {
            [(name, port)] => Ok((name.clone(), port.unwrap_or(default_port))),
            _ => Err(wrong("the hosts", "one host")),
        }
    }
}

impl Login {
    pub(crate) fn new(user: &str, password: &str) -> Self {
        Login { user: Some(user.to_owned()), password: Some(password.to_owned()) }
    }
}

/// Makes the error for a part of an address.
pub(crate) const fn wrong(part: &'static str, expected: &'static str) -> InvalidStore {
    InvalidStore::Url { part, expected }
}

/// Parses `name`, `name:port`, `[address]` or `[address]:port`.
fn host(text: &str) -> Result<(String, Option<u16>), InvalidStore> {
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
    Ok((name, port.transpose()?))
}

fn option(pair: &str) -> Result<(String, String), InvalidStore> {
    let (name, value) = pair.split_once('=').ok_or(wrong("an option", "name=value"))?;
    Ok((decode("an option", name)?, decode("an option", value)?))
}

/// Decodes percent-encoded text. Refuses a `%` without two digits.
fn decode(part: &'static str, text: &str) -> Result<String, InvalidStore> {
    let decoded = percent_decode_str(text).decode_utf8().ok().filter(|_| has_valid_escapes(text.as_bytes()));
    let expected = "UTF-8 text, with % only before two hexadecimal digits";
    decoded.map(|text| text.into_owned()).ok_or(wrong(part, expected))
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreUrl").field("scheme", &self.scheme).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_an_address() {
        let mut url =
            StoreUrl::parse("Redis+Sentinel://me:p%40ss%2f:x@a:1,B.example,[::1]:3/my%20master/5?prefix=x%3A&ca=/a/b")
                .unwrap();
        assert_eq!(url.scheme, "redis+sentinel");
        assert_eq!((url.login.user.as_deref(), url.login.password.as_deref()), (Some("me"), Some("p@ss/:x")));
        assert_eq!(url.hosts, [("a".into(), Some(1)), ("b.example".into(), None), ("::1".into(), Some(3))]);
        assert_eq!(url.path, ["my master", "5"]);
        assert!(url.no_more_options("none").is_err());
        assert_eq!(url.take("ca").as_deref(), Some("/a/b"));
        assert_eq!(url.take("prefix").as_deref(), Some("x:"));
        assert!(url.take("prefix").is_none() && url.no_more_options("none").is_ok());
    }

    #[test]
    fn a_password_needs_no_user() {
        let url = StoreUrl::parse("redis://:secret@h").unwrap();
        assert_eq!((url.login.user, url.login.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn errors_name_the_part_and_never_quote_it() {
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
        fn arbitrary_text_never_panics(text in "\\PC{0,40}", rest in "[a-z:/@%,?&=\\[\\]0-9]{0,40}") {
            let _ = StoreUrl::parse(&text);
            let _ = StoreUrl::parse(&format!("redis://{rest}"));
        }
    }
}
