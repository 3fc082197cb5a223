use std::num::NonZeroU16;

use super::MemcachedStore;
use super::connection::Server;
use crate::hash;
use crate::session::InvalidStore;
use crate::session::store::remote::url::{Host, wrong};
use crate::session::store::remote::{Pool, StoreUrl};

const PORT: u16 = 11211;
const MAX_CONNECTIONS: NonZeroU16 = NonZeroU16::new(8).expect("not zero");

/// Settings of a [`MemcachedStore`]. [`Debug`](std::fmt::Debug) shows no login.
pub struct MemcachedBuilder {
    hosts: Vec<Host>,
    login: Option<(String, String)>,
    prefix: String,
    max_connections: NonZeroU16,
}

impl MemcachedBuilder {
    /// Starts the settings of a store on these servers, each `host` or `host:port`. The default port
    /// is 11211. All front ends must write a server alike.
    ///
    /// # Errors
    /// [`InvalidStore::Url`] when a server is neither.
    pub fn servers<'a>(servers: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidStore> {
        Ok(Self::new(servers.into_iter().map(Host::parse).collect::<Result<_, _>>()?))
    }

    fn new(hosts: Vec<Host>) -> Self {
        MemcachedBuilder { hosts, login: None, prefix: "kylin-lb:".to_owned(), max_connections: MAX_CONNECTIONS }
    }

    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        if url.scheme != "memcached" {
            return Err(InvalidStore::Scheme("memcached"));
        }
        if !url.path.is_empty() {
            return Err(wrong("the path", "none"));
        }
        let mut builder = Self::new(std::mem::take(&mut url.hosts));
        builder.login = match (url.user.take(), url.password.take()) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => return Err(wrong("the login", "user and password, or neither")),
        };
        if let Some(prefix) = url.take("prefix") {
            builder.prefix = prefix;
        }
        url.no_more_options("prefix")?;
        Ok(builder)
    }

    /// Sets the login for servers that were started with an authentication file. Default: none.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Sets the prefix of all keys. Default: `kylin-lb:`. Front ends of one cluster need the same
    /// prefix, those of different clusters need different ones.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Sets the maximum number of connections to each server. Default: 8. A connection carries one
    /// request at a time.
    #[must_use]
    pub fn max_connections(mut self, max: NonZeroU16) -> Self {
        self.max_connections = max;
        self
    }

    /// Makes the store, which connects when it is first used.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] when a setting is invalid.
    pub fn build(self) -> Result<MemcachedStore, InvalidStore> {
        let invalid = |setting, expected| Err(InvalidStore::Setting { setting, expected });
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.prefix.len() > 200 || !is_visible(&self.prefix) {
            return invalid("the prefix", "at most 200 visible ASCII characters");
        }
        if let Some((user, password)) = &self.login
            && [user, password].iter().any(|text| !(1..=500).contains(&text.len()) || !is_visible(text))
        {
            return invalid("the login", "visible ASCII characters");
        }
        let mut servers = Vec::new();
        for host in &self.hosts {
            let server = Server::new(host.with_default_port(PORT), self.login.clone());
            let identity = hash::key64(server.address().as_bytes());
            if servers.iter().any(|(other, _)| *other == identity) {
                return invalid("the servers", "each once");
            }
            servers.push((identity, Pool::new(server, self.max_connections)));
        }
        if servers.is_empty() {
            return invalid("the servers", "at least one");
        }
        Ok(MemcachedStore { prefix: self.prefix, servers })
    }
}

impl std::fmt::Debug for MemcachedBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemcachedBuilder")
            .field("hosts", &self.hosts)
            .field("prefix", &self.prefix)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_explain_the_mistake_without_the_password() {
        let cases = [
            ("memcached://hunter2@a", "address of a session store, the login: expected user and password, or neither"),
            ("memcached://u:hunter2@a/x", "address of a session store, the path: expected none"),
            ("memcached://u:hunter2@a,a:11211", "session store, the servers: expected each once"),
            ("memcached://u:hunter2@a?prefix=%20", "session store, the prefix: expected at most 200 visible"),
            ("memcached://u:hunter2%20@a", "session store, the login: expected visible ASCII characters"),
            ("memcached://u:hunter2@a?x=1", "address of a session store, an option: expected prefix"),
        ];
        for (address, expected) in cases {
            let built = MemcachedStore::builder(address).and_then(MemcachedBuilder::build);
            let message = built.unwrap_err().to_string();
            assert!(message.starts_with(expected) && !message.contains("hunter2"), "{address}: {message}");
        }
        let builder = MemcachedStore::builder("memcached://u:hunter2@a").unwrap();
        let shown = format!("{builder:?}") + &format!("{:?}", builder.build().unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
