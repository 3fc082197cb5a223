use crate::body::BoxError;

/// The error for settings that do not describe a session store. It never shows the given text,
/// because that may contain a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStore {
    /// The scheme of the address is unknown. Contains the known schemes.
    #[error("unknown scheme of a session store: expected {0}")]
    Scheme(&'static str),
    /// The scheme needs this feature of the crate, which is off in this build.
    #[error("session stores of this scheme need feature `{0}` of kylin-lb, which this build is without")]
    Feature(&'static str),
    /// A part of the address is invalid.
    #[error("address of a session store, {part}: expected {expected}")]
    Url {
        /// The part.
        part: &'static str,
        /// The expected form.
        expected: &'static str,
    },
    /// A setting is invalid.
    #[error("session store, {setting}: expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// The allowed values.
        expected: &'static str,
    },
    /// Certificates cannot be read, or the file contains none.
    #[error("certificates for a session store")]
    Certificates(#[source] BoxError),
}

impl InvalidStore {
    /// Returns the error for a setting.
    pub(in crate::session) const fn setting(setting: &'static str, expected: &'static str) -> Self {
        InvalidStore::Setting { setting, expected }
    }
}
