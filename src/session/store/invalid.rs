use crate::body::BoxError;

/// Settings that no session store can be made of. Never shows what was given, since a password may stand in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStore {
    /// The address names no kind of store.
    #[error("unknown scheme of a session store: expected {0}")]
    Scheme(&'static str),
    /// The address names a kind of store that this build does not hold.
    #[error("session stores of this scheme need feature `{0}` of kylin-lb, which this build is without")]
    Feature(&'static str),
    /// A part of the address is not as it should be.
    #[error("address of a session store, {part}: expected {expected}")]
    Url {
        /// Which part.
        part: &'static str,
        /// How it is written.
        expected: &'static str,
    },
    /// A setting is not as it should be.
    #[error("session store, {setting}: expected {expected}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// It is where Tomcat keeps its own sessions.
    #[error("session store: {0}")]
    Tomcat(#[from] crate::kylin::tomcat::Conflict),
    /// Certificates cannot be read, or are none.
    #[error("certificates for a session store")]
    Certificates(#[source] BoxError),
}
