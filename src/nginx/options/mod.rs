//! Settings of an upstream that are not directives of nginx. They come from a `# kylin_lb:` comment
//! of the file, or are a default of the site.

/// Implements `FromStr` and `Display` of an option from the table of its names.
macro_rules! named {
    ($option:ty, $names:expr) => {
        impl std::str::FromStr for $option {
            type Err = InvalidOption;

            fn from_str(text: &str) -> Result<Self, InvalidOption> {
                one_of(text, &$names)
            }
        }

        impl std::fmt::Display for $option {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($names.iter().find(|(_, option)| option == self).map_or("", |(name, _)| name))
            }
        }
    };
}

mod files;
mod policy;
mod probe;
mod replicated;
mod sessions;

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::kylin::ResourceGroups;

pub use policy::PolicyName;
pub use probe::ProbeMode;
pub use sessions::SessionMode;

/// The settings of an upstream that nginx has no directive for. `None` means not set.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KylinOptions {
    /// Whether the servers are Kylin nodes, in a comment. Whether the rules of Kylin apply, as a
    /// default of the site.
    pub(crate) kylin: Option<bool>,
    pub(crate) sessions: Option<SessionMode>,
    pub(crate) policy: Option<PolicyName>,
    pub(crate) probe: Option<ProbeMode>,
    /// Whether servers without `max_fails` and `fail_timeout` are ejected as outliers. If false,
    /// they have nginx's defaults.
    pub(crate) outlier: Option<bool>,
    pub(crate) drain: Option<bool>,
    pub(crate) single_flight: Option<bool>,
    pub(crate) panic: Option<bool>,
    /// Whether queries wait for servers with `max_conns`.
    pub(crate) queue: Option<bool>,
    pub(crate) resource_groups: Option<ResourceGroups>,
}

/// The options: the name of each, and the values that it takes.
pub(crate) const OPTIONS: [(&str, &str); 10] = [
    ("kylin", "on|off"),
    ("sessions", "HOW"),
    ("policy", "NAME"),
    ("probe", "WHAT"),
    ("outlier", "on|off"),
    ("drain", "on|off"),
    ("single_flight", "on|off"),
    ("panic", "on|off"),
    ("queue", "on|off"),
    ("resource_groups", "FILE"),
];

/// A value that an option does not take. The error never shows the given text, because it may
/// contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidOption {
    /// The option takes other values.
    #[error("expected {expected}")]
    Value {
        /// The values that the option takes.
        expected: String,
    },
    /// The address is not that of a session store.
    #[error("{reason}")]
    Store {
        /// The message of [`InvalidStore`](crate::session::InvalidStore), with its causes.
        reason: String,
    },
    /// A file that the option names cannot be read, or does not contain what the option needs.
    #[error("{reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// The fault, and the name of the file.
        reason: String,
    },
    /// This build lacks a feature that the option needs.
    #[error("this build has no {option}: build it with --features {feature}")]
    Feature {
        /// The name of the function that the option turns on.
        option: &'static str,
        /// The feature of the crate.
        feature: &'static str,
    },
}

impl KylinOptions {
    /// Sets the option `name`, one of [`OPTIONS`]. Relative file names are below `folder`.
    pub(crate) fn set(&mut self, name: &str, value: &str, folder: &Path) -> Result<(), InvalidOption> {
        match name {
            "kylin" => self.kylin = Some(switch(value)?),
            "sessions" => self.sessions = Some(SessionMode::parse_in(folder, value)?),
            "policy" => self.policy = Some(value.parse()?),
            "probe" => self.probe = Some(value.parse()?),
            "outlier" => self.outlier = Some(switch(value)?),
            "drain" => self.drain = Some(switch(value)?),
            "single_flight" => self.single_flight = Some(switch(value)?),
            "panic" => self.panic = Some(switch(value)?),
            "queue" => self.queue = Some(switch(value)?),
            "resource_groups" => {
                let path = folder.join(value);
                let groups = ResourceGroups::parse(&files::read(&path)?);
                let groups =
                    groups.map_err(|error| InvalidOption::file(&path, format!("{}: {error}", path.display())))?;
                self.resource_groups = Some(groups);
            }
            _ => return Err(InvalidOption::expected(OPTIONS.map(|(known, _)| known))),
        }
        Ok(())
    }
}

impl InvalidOption {
    fn expected(known: impl IntoIterator<Item = &'static str>) -> Self {
        InvalidOption::Value { expected: known.into_iter().collect::<Vec<_>>().join(", ") }
    }

    fn file(path: &Path, reason: String) -> Self {
        InvalidOption::File { path: path.to_owned(), reason }
    }
}

fn switch(value: &str) -> Result<bool, InvalidOption> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(InvalidOption::expected(["on", "off"])),
    }
}

/// Returns the value that `text` names.
fn one_of<T: Copy>(text: &str, known: &[(&'static str, T)]) -> Result<T, InvalidOption> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| InvalidOption::expected(known.iter().map(|(name, _)| *name)))
}
