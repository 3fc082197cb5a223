//! Kylin's own files: `kylin.properties`, and `kylin.properties.override` over it.
//!
//! The caller reads the files; here is text. The syntax is that of Java's `Properties.load`, which Kylin uses.

mod servers;
mod settings;
mod syntax;

use std::fmt;

use thiserror::Error;

pub use servers::ServerAddr;

use super::node::metadata_url::is_secret;

/// The properties of a node, each with the place it was read from.
///
/// ```
/// use kylin_lb::kylin::properties::Properties;
///
/// let text = "kylin.metadata.url=kylin_metadata@hbase\nkylin.server.cluster-servers=10.0.0.1:7070, \\\n  10.0.0.2\n";
/// let properties = Properties::parse("kylin.properties", text)?;
/// let servers = properties.cluster_servers()?;
/// assert_eq!((servers[1].host(), servers[1].port()), ("10.0.0.2", 7070));
/// # Ok::<(), kylin_lb::kylin::properties::PropertyError>(())
/// ```
#[derive(Clone, Default)]
pub struct Properties {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    key: String,
    value: String,
    place: Place,
}

/// Where a property stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: u32,
}

impl Place {
    /// The file, as the caller named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a file of properties. Names the place and the key; a value is shown only where it cannot be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PropertyError {
    /// `\u` without four hexadecimal digits behind it: Java refuses the whole file.
    #[error("{place}: \\u needs four hexadecimal digits")]
    Escape {
        /// Where.
        place: Place,
    },
    /// A value is not what its key takes.
    #[error("{place}: {key}: expected {expected}")]
    Value {
        /// Where.
        place: Place,
        /// The key.
        key: String,
        /// What would have been accepted.
        expected: String,
    },
}

impl Properties {
    /// Reads a file that is called `file` in errors. Of a key that comes twice the last one counts, as in Java.
    ///
    /// # Errors
    /// [`PropertyError::Escape`]; everything else is a property.
    pub fn parse(file: &str, text: &str) -> Result<Self, PropertyError> {
        let mut properties = Properties::default();
        properties.read(file, text)?;
        Ok(properties)
    }

    /// Reads a second file over the first: `kylin.properties.override`, whose keys win.
    ///
    /// # Errors
    /// As [`Properties::parse`].
    pub fn overridden_by(mut self, file: &str, text: &str) -> Result<Self, PropertyError> {
        self.read(file, text)?;
        Ok(self)
    }

    fn read(&mut self, file: &str, text: &str) -> Result<(), PropertyError> {
        for line in syntax::lines(text) {
            let place = Place { file: file.to_owned(), line: line.number };
            let Some((key, value)) =
                line.pair().map_err(|syntax::BadEscape| PropertyError::Escape { place: place.clone() })?
            else {
                continue;
            };
            match self.entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => (entry.value, entry.place) = (value, place),
                None => self.entries.push(Entry { key, value, place }),
            }
        }
        Ok(())
    }

    /// The value of `key`, without blanks at its end: Kylin trims it too. This may be a secret.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.value.trim())
    }

    /// Where `key` was set.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.entry(key).map(|entry| &entry.place)
    }

    /// All keys, in the order in which they first came.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.key)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The first of `keys` that is set and not blank: a name and its older ones.
    fn first(&self, keys: &[&'static str]) -> Option<&Entry> {
        keys.iter().filter_map(|key| self.entry(key)).find(|entry| !entry.value.trim().is_empty())
    }
}

impl Entry {
    fn fault(&self, expected: impl Into<String>) -> PropertyError {
        PropertyError::Value { place: self.place.clone(), key: self.key.clone(), expected: expected.into() }
    }

    fn value(&self) -> &str {
        self.value.trim()
    }
}

impl fmt::Debug for Properties {
    /// Secrets are masked, and so are values that often hold some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.entries.iter().map(|Entry { key, value, .. }| {
            let hidden = is_secret(key) || value.contains('@') || value.to_ascii_lowercase().contains("password");
            (key, if hidden { "***" } else { value.as_str() })
        });
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests;
