//! Active checks: what asks the nodes how they are.

pub(crate) mod ask;
mod checks;
mod kylin_probes;
mod matcher;
mod metastore;
mod probe;

pub use checks::{HealthCheck, HealthChecker};
pub use matcher::ResponseMatcher;
pub use metastore::{MetastoreCheck, MetastoreChecker};
pub use probe::{InvalidProbe, Probe};
