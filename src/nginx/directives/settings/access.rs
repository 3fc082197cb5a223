//! `allow`, `deny` and `limit_except`: which clients a location serves (`ngx_http_access_module`).

use std::net::{IpAddr, SocketAddr};

use http::Method;
use ipnet::IpNet;

use crate::nginx::directives::catalogue::arg;
use crate::nginx::syntax::{Directive, Fault};

/// One `allow` or `deny` line.
#[derive(Debug, Clone)]
pub(crate) struct AccessRule {
    allows: bool,
    clients: Clients,
}

#[derive(Debug, Clone)]
enum Clients {
    All,
    /// Clients of unix sockets.
    Unix,
    Network(IpNet),
}

/// `limit_except`: rules for requests with other methods than these.
#[derive(Debug, Clone)]
pub(crate) struct LimitExcept {
    methods: Vec<Method>,
    rules: Vec<AccessRule>,
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
            (Clients::Network(network), Some(client)) => {
                network.contains(&client.ip()) || network.contains(&client.ip().to_canonical())
            }
            (Clients::Unix, Some(_)) | (Clients::Network(_), None) => false,
        }
    }
}

/// Returns whether the first rule for a client allows it; without one it is allowed. `None` is a client of a unix socket.
pub(super) fn allow(rules: &[AccessRule], client: Option<SocketAddr>) -> bool {
    rules.iter().find(|rule| rule.is_for(client)).is_none_or(|rule| rule.allows)
}

impl LimitExcept {
    pub(super) fn read(directive: &Directive) -> Result<LimitExcept, Fault> {
        let mut methods = Vec::new();
        for word in &directive.args {
            let method = Method::from_bytes(word.text.to_ascii_uppercase().as_bytes())
                .map_err(|_| word.invalid("method", "GET, POST ..."))?;
            // nginx: with GET, HEAD is allowed too.
            methods.extend((method == Method::GET).then_some(Method::HEAD));
            methods.push(method);
        }
        let (Some(block), false) = (&directive.block, methods.is_empty()) else {
            return Err(directive
                .span()
                .value("limit_except takes methods and a block", "limit_except METHOD... { deny all; }"));
        };
        let mut rules = Vec::new();
        for inner in block {
            if !matches!(inner.name.text.as_str(), "allow" | "deny") {
                let message = format!("\"{}\" in limit_except is not supported", inner.name.text);
                return Err(inner.span().unsupported(message, "allow ADDRESS|all; or deny ADDRESS|all;"));
            }
            rules.push(AccessRule::read(inner)?);
        }
        Ok(LimitExcept { methods, rules })
    }

    /// Returns the rules for a method in place of the location's; `None` if the location's apply.
    pub(super) fn rules(&self, method: &Method) -> Option<&[AccessRule]> {
        if self.methods.contains(method) || self.rules.is_empty() { None } else { Some(&self.rules) }
    }
}
