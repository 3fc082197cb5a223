use super::{InvalidOption, one_of};
use crate::Cluster;
use crate::InvalidSetting;
use crate::probe::{HealthCheck, HealthChecker, Probe};

/// The kind of probe: `auto`, `version`, `health`, `tcp` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbeMode {
    /// The probe that each node offers: [`Probe::kylin`].
    Auto,
    /// [`Probe::kylin_version`].
    Version,
    /// [`Probe::kylin5_health`].
    Health,
    /// [`Probe::tcp`].
    Tcp,
    /// No probe.
    None,
}

const NAMES: [(&str, ProbeMode); 5] = [
    ("auto", ProbeMode::Auto),
    ("version", ProbeMode::Version),
    ("health", ProbeMode::Health),
    ("tcp", ProbeMode::Tcp),
    ("none", ProbeMode::None),
];

impl ProbeMode {
    /// Starts to probe the endpoints of `cluster`, until the returned checker is dropped. It must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// None at present: the settings of the check are the defaults.
    pub fn start(self, cluster: &Cluster) -> Result<Option<HealthChecker>, InvalidSetting> {
        let probe = match self {
            ProbeMode::Auto => Probe::kylin(),
            ProbeMode::Version => Probe::kylin_version(),
            ProbeMode::Health => Probe::kylin5_health(),
            ProbeMode::Tcp => Probe::tcp(),
            ProbeMode::None => return Ok(None),
        };
        HealthCheck::new(probe).start(cluster).map(Some)
    }

    /// Returns whether the probe sends a request that only Kylin knows.
    pub(crate) fn asks_kylin(self) -> bool {
        match self {
            ProbeMode::Auto | ProbeMode::Version | ProbeMode::Health => true,
            ProbeMode::Tcp | ProbeMode::None => false,
        }
    }
}

named!(ProbeMode, NAMES);
