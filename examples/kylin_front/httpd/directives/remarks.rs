//! Remarks about directives that have no effect here, or for which the front end differs from
//! httpd.

use std::sync::Arc;

use crate::httpd::syntax::{Notice, Place, Sources};

/// Collects the remarks while a configuration is read.
#[derive(Debug)]
pub struct Remarks {
    sources: Arc<Sources>,
    /// Remarks about directives that are accepted without effect.
    pub ignored: Vec<Notice>,
    /// Remarks about directives for which the front end differs from httpd.
    pub notes: Vec<Notice>,
}

impl Remarks {
    pub fn new(sources: Arc<Sources>) -> Self {
        Remarks { sources, ignored: Vec::new(), notes: Vec::new() }
    }

    pub fn ignored(&mut self, place: Place, text: impl Into<String>) {
        self.ignored.push(Notice::new(&self.sources, place, text));
    }

    pub fn note(&mut self, place: Place, text: impl Into<String>) {
        self.notes.push(Notice::new(&self.sources, place, text));
    }

    /// Returns the file and line of a place.
    pub fn line_of(&self, place: Place) -> String {
        format!("{}:{}", self.sources.name(place), self.sources.position(place).0)
    }
}
