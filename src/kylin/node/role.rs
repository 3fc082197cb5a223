//! The roles of the nodes of a cluster: `kylin.server.mode`.

use std::fmt;

/// A kind of work of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Runs queries.
    Query,
    /// Builds cubes, runs jobs, and serves the writes that start them.
    Job,
}

/// The roles of an endpoint: a set of [`Role`]s. The default is all of them, as in Kylin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Every role: `kylin.server.mode=all`.
    pub const ALL: Roles = Roles(0b11);
    /// No role that a client's request may need, as for a `stream_coordinator`.
    pub const NONE: Roles = Roles(0);

    /// Returns the set of exactly this role.
    pub const fn only(role: Role) -> Self {
        Roles(Self::bit(role))
    }

    /// Returns these roles and `role`.
    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Roles(self.0 | Self::bit(role))
    }

    /// Returns these roles and `others`.
    #[must_use]
    pub const fn and(self, others: Roles) -> Self {
        Roles(self.0 | others.0)
    }

    /// Returns whether `role` is one of them.
    pub const fn has(self, role: Role) -> bool {
        self.0 & Self::bit(role) != 0
    }

    /// Parses a value of `kylin.server.mode`: `all`, `query`, `job`, or a list such as
    /// `query,stream_coordinator`. The newer services of Kylin 5 are accepted too. `data-loading`
    /// and `smart` run jobs; `common`, `resource`, `ops` and the streaming roles serve no client
    /// requests.
    ///
    /// # Errors
    /// [`InvalidRoles`] for an empty text or an unknown name.
    pub fn parse(mode: &str) -> Result<Self, InvalidRoles> {
        let mut roles = Roles::NONE;
        for name in mode.split(',').map(str::trim) {
            roles = match name.to_ascii_lowercase().as_str() {
                "all" => Roles::ALL,
                "query" => roles.with(Role::Query),
                "job" | "data-loading" | "smart" => roles.with(Role::Job),
                "stream_coordinator" | "stream_receiver" | "common" | "resource" | "ops" => roles,
                _ => return Err(InvalidRoles(mode.chars().take(100).collect())),
            };
        }
        Ok(roles)
    }

    /// Returns the set with one bit per role.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    const fn bit(role: Role) -> u8 {
        match role {
            Role::Query => 0b01,
            Role::Job => 0b10,
        }
    }
}

impl Default for Roles {
    fn default() -> Self {
        Roles::ALL
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Roles::only(role)
    }
}

impl std::str::FromStr for Roles {
    type Err = InvalidRoles;

    fn from_str(mode: &str) -> Result<Self, InvalidRoles> {
        Roles::parse(mode)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.has(Role::Query), self.has(Role::Job)) {
            (true, true) => "all",
            (true, false) => "query",
            (false, true) => "job",
            (false, false) => "none",
        })
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error for a text that is not a value of `kylin.server.mode`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a server mode: expected all, query or job, or a list of modes")]
pub struct InvalidRoles(String);

impl InvalidRoles {
    /// Returns the rejected text.
    pub fn value(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_kylin_server_mode_are_parsed() {
        let read = |mode: &str| Roles::parse(mode).map(|roles| roles.to_string());
        assert_eq!(read("all").as_deref(), Ok("all"));
        assert_eq!(read("Query").as_deref(), Ok("query"));
        assert_eq!(read("query, stream_coordinator").as_deref(), Ok("query"));
        assert_eq!(read("query,job").as_deref(), Ok("all"));
        assert_eq!(read("data-loading").as_deref(), Ok("job"));
        assert_eq!(read("ops").as_deref(), Ok("none"));
        assert!(read("").is_err() && read("querry").is_err() && read("query,,").is_err());
    }
}
