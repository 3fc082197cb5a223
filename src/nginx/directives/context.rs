//! What the readers of the blocks share.

use std::path::PathBuf;

use super::remarks::Remarks;
use super::upstream::Upstreams;
use crate::nginx::syntax::Sources;
use crate::nginx::variables::Maps;

#[derive(Debug)]
pub(crate) struct ReadContext<'s> {
    pub(crate) remarks: Remarks<'s>,
    /// The variables that the configuration defines.
    pub(crate) maps: Maps,
    pub(crate) upstreams: Upstreams,
    /// The folder of relative names of files; `None` for a text that is not a file.
    pub(crate) folder: Option<PathBuf>,
    locations: usize,
}

impl<'s> ReadContext<'s> {
    pub(crate) fn new(sources: &'s Sources, folder: Option<PathBuf>) -> Self {
        let (maps, upstreams) = (Maps::default(), Upstreams::default());
        ReadContext { remarks: Remarks::new(sources), maps, upstreams, folder, locations: 0 }
    }

    /// Returns a number that no location has yet.
    pub(crate) fn next_location(&mut self) -> usize {
        self.locations += 1;
        self.locations - 1
    }
}
