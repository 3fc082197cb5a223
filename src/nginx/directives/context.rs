//! The context that the readers of the blocks share.

use std::path::PathBuf;

use super::access_log::LogFormats;
use super::remarks::Remarks;
use super::settings::LimitZones;
use super::upstream::Upstreams;
use crate::nginx::syntax::Sources;
use crate::nginx::variables::Maps;

#[derive(Debug)]
pub(crate) struct ReadContext<'s> {
    pub(crate) remarks: Remarks<'s>,
    /// The variables that the configuration defines.
    pub(crate) maps: Maps,
    pub(crate) zones: LimitZones,
    pub(crate) formats: LogFormats,
    pub(crate) upstreams: Upstreams,
    /// The folder for relative file names; `None` for a text that is not a file.
    pub(crate) folder: Option<PathBuf>,
    /// nginx's prefix, if it is known.
    pub(crate) prefix: Option<PathBuf>,
    /// Whether a `rewrite` or `if` of the current server sets `$1`.
    pub(crate) has_server_captures: bool,
    locations: usize,
}

impl<'s> ReadContext<'s> {
    pub(crate) fn new(sources: &'s Sources, folder: Option<PathBuf>, prefix: Option<PathBuf>) -> Self {
        let (maps, formats, upstreams) = (Maps::default(), LogFormats::default(), Upstreams::default());
        let zones = LimitZones::default();
        ReadContext {
            remarks: Remarks::new(sources),
            maps,
            zones,
            formats,
            upstreams,
            folder,
            prefix,
            has_server_captures: false,
            locations: 0,
        }
    }

    /// Returns the current state, for [`back_to`](Self::back_to).
    pub(crate) fn mark(&self) -> [usize; 3] {
        [self.locations, self.remarks.ignored.len(), self.remarks.notes.len()]
    }

    /// Discards everything that was read since a mark, because the block is left out.
    pub(crate) fn back_to(&mut self, [locations, ignored, notes]: [usize; 3]) {
        self.locations = locations;
        self.remarks.ignored.truncate(ignored);
        self.remarks.notes.truncate(notes);
    }

    /// Returns a new location number.
    pub(crate) fn next_location(&mut self) -> usize {
        self.locations += 1;
        self.locations - 1
    }
}
