//! `GET /metrics` on the listener for operators, in the text format of Prometheus.

#[cfg(feature = "prometheus")]
mod recorder;

use std::sync::Arc;

use kylin_lb::observe::Observer;

#[cfg(feature = "prometheus")]
pub use self::with_prometheus::Exporter;
use crate::status::Monitored;

/// The text format of Prometheus.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4";

/// The response of `/metrics` in a build without metrics.
pub const MISSING: &str = "this build has no metrics: build it with --features prometheus";

#[cfg(feature = "prometheus")]
mod with_prometheus {
    use std::time::{Duration, UNIX_EPOCH};

    use ::metrics::{Unit, describe_gauge, gauge};
    use kylin_lb::observe::Metrics;
    use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
    use metrics_util::MetricKindMask;

    use super::recorder::{Counts, FrontRecorder};
    use super::{Arc, Monitored, Observer};
    use crate::log_file::LogFile;

    /// A gauge that is not set at a scrape is removed, because the endpoint that it described was
    /// removed.
    const GAUGE_TIMEOUT: Duration = Duration::from_millis(500);

    /// 1 if the last reload was successful, else 0: the old configuration is still in use. The
    /// start counts as a reload.
    const RELOAD_SUCCESSFUL: &str = "kylin_front_config_last_reload_successful";
    /// The time of the last successful reload, in seconds since 1970.
    const RELOAD_SUCCESS_TIME: &str = "kylin_front_config_last_reload_success_timestamp_seconds";

    /// The recorder of the process.
    #[derive(Clone)]
    pub struct Exporter {
        handle: PrometheusHandle,
        counts: Counts,
        metrics: Metrics,
    }

    impl Exporter {
        /// Installs the recorder.
        pub fn install() -> Result<Option<Self>, String> {
            let builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_TIMEOUT));
            let (gauges, counts) = (builder.build_recorder(), Counts::default());
            let handle = gauges.handle();
            let recorder = FrontRecorder { gauges, counts: counts.clone() };
            ::metrics::set_global_recorder(recorder).map_err(|error| format!("metrics: {error}"))?;
            describe_gauge!(RELOAD_SUCCESSFUL, "1 if the last reload was successful, 0 if the old configuration stays");
            describe_gauge!(RELOAD_SUCCESS_TIME, Unit::Seconds, "the time of the last successful reload");
            Ok(Some(Exporter { handle, counts, metrics: Metrics::new() }))
        }

        pub fn observer(&self) -> Arc<dyn Observer> {
            Arc::new(self.metrics.clone())
        }

        pub fn render(&self, monitored: &Monitored) -> String {
            for (name, cluster) in &monitored.clusters() {
                self.metrics.record_cluster(name, &cluster.status());
            }
            if let Some(sessions) = &monitored.sessions() {
                self.metrics.record_sessions("sessions", sessions);
            }
            if let Some(status) = &monitored.discovery() {
                self.metrics.record_discovery("nodes", status);
            }
            self.metrics.record_buffers(&monitored.buffers.status());
            for (name, logs) in monitored.logs() {
                self.metrics.record_lost_log_lines(&name, logs.iter().map(LogFile::dropped).sum());
            }
            let proxy = monitored.proxy();
            if let Some(status) = proxy.as_ref().and_then(|proxy| proxy.single_flight()) {
                self.metrics.record_single_flight("kylin", &status);
            }
            #[cfg(feature = "cache")]
            if let Some(status) = proxy.and_then(|proxy| proxy.cache()) {
                self.metrics.record_cache("results", &status);
            }
            if let Some(count) = monitored.connections() {
                self.metrics.record_connections(count);
            }
            self.metrics.record_refused();
            let reload = monitored.last_reload();
            gauge!(RELOAD_SUCCESSFUL).set(if reload.is_success { 1.0 } else { 0.0 });
            // A clock before 1970 is wrong anyway.
            let time = reload.last_success.duration_since(UNIX_EPOCH).unwrap_or_default();
            gauge!(RELOAD_SUCCESS_TIME).set(time.as_secs_f64().floor());
            let mut text = self.handle.render();
            self.counts.render(&mut text);
            text
        }
    }
}

/// In a build without metrics.
#[cfg(not(feature = "prometheus"))]
#[derive(Clone)]
pub enum Exporter {}

#[cfg(not(feature = "prometheus"))]
impl Exporter {
    pub fn install() -> Result<Option<Self>, String> {
        Ok(None)
    }

    pub fn observer(&self) -> Arc<dyn Observer> {
        match *self {}
    }

    pub fn render(&self, _: &Monitored) -> String {
        match *self {}
    }
}
