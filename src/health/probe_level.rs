use std::fmt;

use parking_lot::Mutex;

use super::CheckerId;

/// The request with which [`Probe::kylin`](crate::probe::Probe::kylin) finds a node healthy. A
/// higher level proves more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ProbeLevel {
    /// The node accepts connections and speaks HTTP. Nothing shows that it runs Kylin.
    Tcp,
    /// The node responds to `GET /kylin/api/user/authentication`, which every version of Kylin has.
    Authentication,
    /// The node responds to `GET /kylin/api/admin/version`, which Kylin 3.1 and later have.
    Version,
}

impl fmt::Display for ProbeLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProbeLevel::Tcp => "tcp",
            ProbeLevel::Authentication => "authentication",
            ProbeLevel::Version => "version",
        })
    }
}

/// The level at which the running checker last found an endpoint healthy.
#[derive(Debug, Default)]
pub(crate) struct LastProbeLevel(Mutex<Option<(CheckerId, Option<ProbeLevel>)>>);

impl LastProbeLevel {
    pub(crate) fn get(&self) -> Option<ProbeLevel> {
        (*self.0.lock()).and_then(|(_, level)| level)
    }

    /// Makes `checker` the one that sets the level. Forgets a level that another checker set.
    pub(crate) fn attach(&self, checker: CheckerId) {
        let mut found = self.0.lock();
        if found.is_none_or(|(attached, _)| attached != checker) {
            *found = Some((checker, None));
        }
    }

    /// Forgets the level, if `checker` set it.
    pub(crate) fn detach(&self, checker: CheckerId) {
        self.0.lock().take_if(|(attached, _)| *attached == checker);
    }

    /// Sets the level, if `checker` is the one that sets it. Returns whether the level changed.
    pub(crate) fn set(&self, checker: CheckerId, level: Option<ProbeLevel>) -> bool {
        match &mut *self.0.lock() {
            Some((attached, found)) if *attached == checker => std::mem::replace(found, level) != level,
            Some(_) | None => false,
        }
    }
}
