//! `allow`, `deny` and `satisfy`: which clients a location serves (`ngx_http_access_module`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use ipnet::IpNet;

use super::BlockSettings;
use crate::nginx::directives::catalogue::arg;
use crate::nginx::htpasswd::{PasswordCheck, PasswordFile};
use crate::nginx::syntax::{Directive, Fault};
use crate::nginx::variables::Scope;
use crate::proxy::BasicCredentials;

/// An `allow` or `deny` directive.
#[derive(Debug, Clone)]
pub(crate) struct AccessRule {
    allows: bool,
    clients: Clients,
}

#[derive(Debug, Clone)]
enum Clients {
    All,
    /// All clients of unix sockets.
    Unix,
    Network(IpNet),
}

/// The decision whether a location serves a request.
pub(crate) enum Access {
    Granted,
    /// The address is denied, or the password file is missing.
    Denied,
    /// The password file cannot be read.
    Unreadable,
    /// Too many requests wait for their passwords to be verified.
    Busy,
    /// The client must send credentials for this challenge.
    Unauthorized(HeaderValue),
    /// The credentials must be verified first.
    Verify(Arc<PasswordFile>, BasicCredentials),
}

impl AccessRule {
    pub(super) fn read(directive: &Directive) -> Result<AccessRule, Fault> {
        let word = arg(directive)?;
        let clients = match word.text.as_str() {
            "all" => Clients::All,
            "unix:" => Clients::Unix,
            text => {
                let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                let expected = "ADDRESS, ADDRESS/BITS, unix: or all (names are not looked up)";
                Clients::Network(network.map_err(|_| word.invalid("address", expected))?)
            }
        };
        Ok(AccessRule { allows: directive.is("allow"), clients })
    }

    fn is_for(&self, client: Option<SocketAddr>) -> bool {
        match (&self.clients, client) {
            (Clients::All, _) | (Clients::Unix, None) => true,
            (Clients::Network(network), Some(client)) => network.contains(&client.ip()),
            (Clients::Unix, Some(_)) | (Clients::Network(_), None) => false,
        }
    }
}

impl BlockSettings {
    /// Returns whether the location serves a request. `check` is the result for the credentials and
    /// their password file, once they were verified.
    pub(crate) fn access(&self, scope: &Scope<'_>, check: Option<&(Arc<PasswordFile>, PasswordCheck)>) -> Access {
        let by_address = allows(&self.access, scope.remote);
        let Some((realm, file)) = self.auth.question(scope) else {
            return if by_address == Some(false) { Access::Denied } else { Access::Granted };
        };
        match by_address {
            Some(true) if self.satisfies_any => return Access::Granted,
            Some(false) if !self.satisfies_any => return Access::Denied,
            _ => {}
        }
        let check = check.filter(|(checked, _)| Arc::ptr_eq(checked, file)).map(|(_, check)| *check);
        match (check, BasicCredentials::of(scope.headers)) {
            (Some(PasswordCheck::Right), _) => Access::Granted,
            (Some(PasswordCheck::NoFile), _) => Access::Denied,
            (Some(PasswordCheck::Unreadable), _) => Access::Unreadable,
            (Some(PasswordCheck::Busy), _) => Access::Busy,
            (None, Some(credentials)) => Access::Verify(Arc::clone(file), credentials),
            (Some(PasswordCheck::Wrong), _) | (None, None) => {
                let realm = String::from_utf8_lossy(&realm).replace(['\\', '"'], "'");
                // If a variable has a line break, the realm is left out. The client must still log
                // in.
                let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\""));
                Access::Unauthorized(challenge.unwrap_or(HeaderValue::from_static("Basic realm=\"\"")))
            }
        }
    }
}

/// Returns whether the first rule for a client allows it; `None` without a rule. `client` is `None`
/// for a client of a unix socket.
///
/// As in nginx, an IPv4-mapped IPv6 address counts as IPv4, unless no rule is for IPv4 clients.
fn allows(rules: &[AccessRule], client: Option<SocketAddr>) -> Option<bool> {
    let is_for_v4 = |rule: &AccessRule| matches!(rule.clients, Clients::All | Clients::Network(IpNet::V4(_)));
    let client = client.map(|client| match client.ip().to_canonical() {
        mapped @ IpAddr::V4(_) if client.is_ipv6() && rules.iter().any(is_for_v4) => (mapped, client.port()).into(),
        IpAddr::V4(_) | IpAddr::V6(_) => client,
    });
    rules.iter().find(|rule| rule.is_for(client)).map(|rule| rule.allows)
}
