//! Kylin's configuration files: `kylin.properties`, and `kylin.properties.override` on top of it.
//!
//! The application reads the files and passes their text. The syntax is that of Java's
//! `Properties.load`, which Kylin uses.

mod servers;
mod settings;
mod syntax;

use std::fmt;

use thiserror::Error;

pub use servers::ServerAddr;

use super::node::metadata_url::is_secret;

/// The properties of a node, each with its location in a file.
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
    location: Location,
}

/// The location of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    file: String,
    line: u32,
}

impl Location {
    /// Returns the file, as the application named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// An error in a properties file. It names the location and the key, and never shows a value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PropertyError {
    /// `\u` without four hexadecimal digits after it. Java refuses the whole file.
    #[error("{location}: \\u needs four hexadecimal digits")]
    Escape {
        /// The location of the line.
        location: Location,
    },
    /// The value is not valid for its key.
    #[error("{location}: {key}: expected {expected}")]
    Value {
        /// The location of the line.
        location: Location,
        /// The key.
        key: String,
        /// The accepted values.
        expected: String,
    },
}

impl Properties {
    /// Parses the `text` of a file that errors call `file`. If a key occurs twice, the last one
    /// wins, as in Java.
    ///
    /// # Errors
    /// [`PropertyError::Escape`]. Any other text is valid.
    pub fn parse(file: &str, text: &str) -> Result<Self, PropertyError> {
        let mut properties = Properties::default();
        properties.read(file, text)?;
        Ok(properties)
    }

    /// Parses a second file, such as `kylin.properties.override`, whose keys take precedence.
    ///
    /// # Errors
    /// [`PropertyError::Escape`]. Any other text is valid.
    pub fn overridden_by(mut self, file: &str, text: &str) -> Result<Self, PropertyError> {
        self.read(file, text)?;
        Ok(self)
    }

    fn read(&mut self, file: &str, text: &str) -> Result<(), PropertyError> {
        for line in syntax::lines(text) {
            let location = Location { file: file.to_owned(), line: line.number };
            let Some((key, value)) =
                line.pair().map_err(|syntax::BadEscape| PropertyError::Escape { location: location.clone() })?
            else {
                continue;
            };
            match self.entries.iter_mut().find(|entry| entry.key == key) {
                Some(entry) => (entry.value, entry.location) = (value, location),
                None => self.entries.push(Entry { key, value, location }),
            }
        }
        Ok(())
    }

    /// Returns the value of `key` without trailing blanks, which Kylin trims too. The value may be
    /// a secret.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|entry| entry.value.trim())
    }

    /// Returns where `key` was set.
    pub fn location(&self, key: &str) -> Option<&Location> {
        self.entry(key).map(|entry| &entry.location)
    }

    /// Returns all keys in the order of their first occurrence.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.key)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Returns the first of `keys` that is set and not blank. The keys are a name and then its
    /// older names.
    fn first(&self, keys: &[&'static str]) -> Option<&Entry> {
        keys.iter().filter_map(|key| self.entry(key)).find(|entry| !entry.value.trim().is_empty())
    }
}

impl Entry {
    fn invalid(&self, expected: impl Into<String>) -> PropertyError {
        PropertyError::Value { location: self.location.clone(), key: self.key.clone(), expected: expected.into() }
    }

    fn value(&self) -> &str {
        self.value.trim()
    }
}

impl fmt::Debug for Properties {
    /// Masks secrets, and values that often contain one.
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
