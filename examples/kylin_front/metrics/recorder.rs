//! A recorder that keeps counters and histograms in atomics, with fixed buckets. The recorder of
//! `metrics-exporter-prometheus` keeps each value of a histogram with its time until it is put into
//! a bucket. That costs a request more than all other metrics. Gauges stay with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_exporter_prometheus::formatting::{sanitize_label_value, write_help_line, write_type_line};
use parking_lot::Mutex;

/// The upper bounds of the buckets, in seconds. A query takes from milliseconds to minutes.
const BOUNDS: [f64; 14] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Keeps counters and histograms, and leaves gauges to the recorder of Prometheus.
pub struct FrontRecorder {
    pub gauges: PrometheusRecorder,
    pub counts: Counts,
}

/// The counters and histograms of the process. Clones share them.
#[derive(Clone, Default)]
pub struct Counts {
    counters: Families<AtomicU64>,
    histograms: Families<Buckets>,
}

/// Metrics, by name.
type Families<M> = Arc<Mutex<BTreeMap<String, Family<M>>>>;

/// The metrics of one name.
struct Family<M> {
    help: SharedString,
    /// By label, in the text format.
    metrics: BTreeMap<String, Arc<M>>,
}

/// The number of values in each bucket, the last of which has no bound, and the sum of the values.
#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        self.record_many(seconds, 1);
    }

    fn record_many(&self, seconds: f64, count: usize) {
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(count as u64, Ordering::Relaxed);
        self.nanoseconds.fetch_add((seconds * 1e9) as u64 * count as u64, Ordering::Relaxed);
    }
}

impl Counts {
    /// Appends all counters and histograms in the text format.
    pub fn render(&self, text: &mut String) {
        render(&self.counters, "counter", text, |text, name, labels, counter| {
            let count = counter.load(Ordering::Relaxed);
            // Writing to a string cannot fail.
            _ = writeln!(text, "{name}{} {count}", braced(labels));
        });
        render(&self.histograms, "histogram", text, |text, name, labels, buckets| buckets.render(text, name, labels));
    }
}

fn render<M>(families: &Families<M>, kind: &str, text: &mut String, put: impl Fn(&mut String, &str, &str, &M)) {
    let families = families.lock();
    for (name, family) in families.iter().filter(|(_, family)| !family.metrics.is_empty()) {
        write_help_line(text, name, None, None, &family.help);
        write_type_line(text, name, None, None, kind);
        family.metrics.iter().for_each(|(labels, metric)| put(text, name, labels, metric));
        text.push('\n');
    }
}

impl Buckets {
    fn render(&self, text: &mut String, name: &str, labels: &str) {
        let separator = if labels.is_empty() { "" } else { "," };
        let bounds = BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut count = 0;
        for (bound, bucket) in bounds.zip(&self.counts) {
            count += bucket.load(Ordering::Relaxed);
            _ = writeln!(text, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}");
        }
        let (labels, sum) = (braced(labels), self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9);
        _ = writeln!(text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
    }
}

fn braced(labels: &str) -> String {
    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") }
}

/// Returns the metric with a name and labels. The first call creates it.
fn registered<M: Default>(families: &Families<M>, key: &Key) -> Arc<M> {
    let label = |label: &metrics::Label| format!("{}=\"{}\"", label.key(), sanitize_label_value(label.value()));
    let labels = key.labels().map(label).collect::<Vec<_>>().join(",");
    let mut families = families.lock();
    let family = families.entry(key.name().to_owned()).or_default();
    Arc::clone(family.metrics.entry(labels).or_default())
}

fn describe<M>(families: &Families<M>, name: &KeyName, help: SharedString) {
    families.lock().entry(name.as_str().to_owned()).or_default().help = help;
}

impl<M> Default for Family<M> {
    fn default() -> Self {
        Family { help: SharedString::const_str(""), metrics: BTreeMap::new() }
    }
}

impl Recorder for FrontRecorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        describe(&self.counts.counters, &name, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.gauges.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        describe(&self.counts.histograms, &name, help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(registered(&self.counts.counters, key))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.gauges.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(registered(&self.counts.histograms, key))
    }
}
