use std::num::NonZeroU16;

use super::MemcachedStore;
use super::connection::Connector;
use crate::hash;
use crate::session::InvalidStore;
use crate::session::store::remote::{DEFAULT_PREFIX, Login, Pool, Server, StoreUrl, wrong};

const PORT: u16 = 11211;

/// Builds a [`MemcachedStore`]. [`Debug`](std::fmt::Debug) shows no login.
#[derive(Debug)]
#[must_use]
pub struct MemcachedBuilder {
    servers: Vec<Server>,
    login: Login,
    prefix: String,
    max_connections: NonZeroU16,
}

impl MemcachedBuilder {
    pub(super) fn from_address(address: &str) -> Result<Self, InvalidStore> {
        let mut url = StoreUrl::parse(address)?;
        if url.scheme != "memcached" {
            return Err(InvalidStore::Scheme("memcached"));
        }
        if !url.path.is_empty() {
            return Err(wrong("the path", "none"));
        }
        if url.login.user.is_some() != url.login.password.is_some() {
            return Err(wrong("the login", "user and password, or neither"));
        }
        let prefix = url.take("prefix").unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        let max_connections = url.take_max_connections()?;
        url.no_more_options("prefix, connections")?;
        Ok(MemcachedBuilder { servers: url.servers(PORT), login: url.login, prefix, max_connections })
    }

    /// Sets the login for servers that were started with an authentication file. Default: the login
    /// in the address, or none.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Login::new(user, password);
        self
    }

    /// Sets the prefix of all keys. Default: the prefix in the address, or `kylin-lb:`. Front ends
    /// of one cluster need the same prefix, those of different clusters need different ones.
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Sets the maximum number of connections to each server. Default: the number in the address,
    /// or 8. A connection carries one request at a time.
    pub fn max_connections(mut self, max: NonZeroU16) -> Self {
        self.max_connections = max;
        self
    }

    /// Builds the store, which connects when it is first used.
    ///
    /// # Errors
    /// [`InvalidStore::Setting`] if a setting is invalid.
    pub fn build(self) -> Result<MemcachedStore, InvalidStore> {
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.prefix.len() > 200 || !is_visible(&self.prefix) {
            return Err(InvalidStore::setting("the prefix", "at most 200 visible ASCII characters"));
        }
        let mut login = self.login.user.iter().chain(&self.login.password);
        if !login.all(|text| (1..=500).contains(&text.len()) && is_visible(text)) {
            return Err(InvalidStore::setting("the login", "visible ASCII characters"));
        }
        let mut servers = Vec::new();
        for server in self.servers {
            let connector = Connector::new(server, self.login.clone());
            let identity = hash::key64(connector.address().as_bytes());
            if servers.iter().any(|(other, _)| *other == identity) {
                return Err(InvalidStore::setting("the servers", "each once"));
            }
            servers.push((identity, Pool::new(connector, self.max_connections)));
        }
        Ok(MemcachedStore { prefix: self.prefix, servers })
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
