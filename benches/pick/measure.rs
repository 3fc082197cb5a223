//! The timing of a comparison: subjects x endpoints x threads. The rounds are interleaved over all
//! of them, so that other load on the machine affects all alike. Independent of load balancing; the
//! peers are timed with it too.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// The work of one thread: makes the given number of picks, a multiple of [`MIN_PICKS`]. Each
/// thread has its own.
pub(crate) type Worker = Box<dyn FnMut(u64)>;

/// A subject that is timed.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) endpoints: usize,
    /// The maximum number of threads that may share it.
    pub(crate) max_threads: usize,
    pub(crate) worker: Box<dyn Fn(usize) -> Worker + Sync>,
}

/// The options of the command line.
pub(crate) struct Options {
    rounds: usize,
    batch: Duration,
    only: Option<String>,
    endpoints: Option<usize>,
    threads: Option<usize>,
    json: Option<PathBuf>,
}

const USAGE: &str = "[--quick] [--json FILE] [--only NAME] [--endpoints N] [--threads N]

  --quick        fewer rounds, about a minute
  --json FILE    writes the figures there too
  --only NAME    only subjects whose name contains NAME
  --endpoints N  only this size
  --threads N    only so many threads";

/// The numbers of endpoints. Most published figures are for 8.
pub(crate) const SIZES: [usize; 5] = [3, 8, 16, 128, 10_000];

const THREADS: [usize; 3] = [1, 2, 4];

impl Options {
    /// Parses the command line. Invalid arguments end the program.
    pub(crate) fn from_args() -> Self {
        let mut options = Options {
            rounds: 9,
            batch: Duration::from_millis(60),
            only: None,
            endpoints: None,
            threads: None,
            json: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let parsed = match argument.as_str() {
                "--bench" => Some(()), // passed by `cargo bench`
                "--quick" => {
                    (options.rounds, options.batch) = (3, Duration::from_millis(50));
                    Some(())
                }
                "--help" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                "--json" => arguments.next().map(|file| options.json = Some(file.into())),
                "--only" => arguments.next().map(|name| options.only = Some(name)),
                "--endpoints" => number(arguments.next()).map(|count| options.endpoints = Some(count)),
                "--threads" => number(arguments.next()).map(|count| options.threads = Some(count)),
                _ => None,
            };
            if parsed.is_none() {
                eprintln!("{argument}: unknown or incomplete\n\n{USAGE}");
                std::process::exit(2);
            }
        }
        options
    }

    /// Returns whether this subject is selected, so that large clusters are not built in vain.
    pub(crate) fn wants(&self, name: &str, endpoints: usize) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
            && self.endpoints.is_none_or(|only| only == endpoints)
    }
}

fn number(text: Option<String>) -> Option<usize> {
    text?.parse().ok()
}

/// The figures of one subject with this many threads: medians over the rounds.
struct Figure {
    name: &'static str,
    endpoints: usize,
    threads: usize,
    /// Nanoseconds from one pick of a thread to its next.
    nanos: f64,
    /// The fastest and the slowest round.
    range: (f64, f64),
    /// Picks per second over all threads.
    rate: f64,
}

/// Times all `subjects`, prints a table under `title`, and writes JSON if the options request it.
pub(crate) fn run(title: &str, options: &Options, subjects: &[Subject]) {
    let wanted = THREADS.into_iter().filter(|threads| options.threads.is_none_or(|only| only == *threads));
    let mut cases: Vec<(&Subject, usize, Vec<Sample>)> = wanted
        .flat_map(|threads| subjects.iter().map(move |subject| (subject, threads, Vec::new())))
        .filter(|(subject, threads, _)| *threads <= subject.max_threads)
        .collect();
    let began = Instant::now();
    for _ in 0..options.rounds {
        for (subject, threads, samples) in &mut cases {
            samples.push(sample(subject, *threads, options.batch));
        }
    }
    let figures: Vec<Figure> =
        cases.iter().map(|(subject, threads, samples)| figure(subject, *threads, samples)).collect();

    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{title}: {} rounds of {} ms, {cores} cores, {:.0} s in all\n",
        options.rounds,
        options.batch.as_millis(),
        began.elapsed().as_secs_f64()
    );
    print!("{}", table(&figures));
    if let Some(file) = &options.json {
        std::fs::write(file, json(title, options, cores, &figures)).expect("the JSON file can be written");
    }
}

/// One round of one case.
struct Sample {
    nanos: f64,
    rate: f64,
}

fn sample(subject: &Subject, threads: usize, batch: Duration) -> Sample {
    let barrier = Barrier::new(threads);
    let round = |thread| {
        let mut work = (subject.worker)(thread);
        let chunk = warm_up(&mut work);
        barrier.wait();
        let began = Instant::now();
        let mut picks = 0;
        loop {
            work(chunk);
            picks += chunk;
            let elapsed = began.elapsed();
            if elapsed >= batch {
                return (picks, elapsed);
            }
        }
    };
    let round = &round;
    let results: Vec<(u64, Duration)> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || round(thread))).collect();
        handles.into_iter().map(|handle| handle.join().expect("no worker panics")).collect()
    });
    let nanos = results.iter().map(|(picks, elapsed)| elapsed.as_nanos() as f64 / *picks as f64).sum::<f64>();
    let rate = results.iter().map(|(picks, elapsed)| *picks as f64 / elapsed.as_secs_f64()).sum();
    Sample { nanos: nanos / threads as f64, rate }
}

/// The minimum number of picks per call of a worker. Calls are for multiples of it.
pub(crate) const MIN_PICKS: u64 = 64;

/// Fills caches, and finds the number of picks that takes about 100 us, so that the clock is rarely
/// read.
fn warm_up(work: &mut Worker) -> u64 {
    let mut chunk = MIN_PICKS;
    loop {
        let began = Instant::now();
        work(chunk);
        if began.elapsed() >= Duration::from_micros(100) || chunk >= 1 << 20 {
            work(chunk);
            return chunk;
        }
        chunk *= 2;
    }
}

fn figure(subject: &Subject, threads: usize, samples: &[Sample]) -> Figure {
    let mut nanos: Vec<f64> = samples.iter().map(|sample| sample.nanos).collect();
    nanos.sort_by(f64::total_cmp);
    let mut rates: Vec<f64> = samples.iter().map(|sample| sample.rate).collect();
    rates.sort_by(f64::total_cmp);
    Figure {
        name: subject.name,
        endpoints: subject.endpoints,
        threads,
        nanos: nanos[nanos.len() / 2],
        range: (nanos[0], nanos[nanos.len() - 1]),
        rate: rates[rates.len() / 2],
    }
}

/// Prints one table per number of threads, with a row per name and a column per size. The unit is
/// nanoseconds per pick for one thread, and millions of picks per second over all threads for
/// several.
fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for threads in distinct(figures.iter().map(|figure| figure.threads)) {
        let of_threads = || figures.iter().filter(move |figure| figure.threads == threads);
        let sizes = distinct(of_threads().map(|figure| figure.endpoints));
        let heading = match threads {
            1 => "1 thread, ns per pick".to_owned(),
            _ => format!("{threads} threads, M picks/s in all"),
        };
        let _ = write!(text, "{heading:<width$}");
        for size in &sizes {
            let _ = write!(text, " {size:>9}");
        }
        text.push('\n');
        for name in distinct(of_threads().map(|figure| figure.name)) {
            let _ = write!(text, "{name:<width$}");
            for size in &sizes {
                let _ = match of_threads().find(|figure| figure.name == name && figure.endpoints == *size) {
                    Some(figure) if threads == 1 => write!(text, " {:>9.1}", figure.nanos),
                    Some(figure) => write!(text, " {:>9.2}", figure.rate / 1e6),
                    None => write!(text, " {:>9}", "-"),
                };
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// Returns the distinct items in order of first appearance.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.fold(Vec::new(), |mut seen, item| {
        if !seen.contains(&item) {
            seen.push(item);
        }
        seen
    })
}

/// Names are plain ASCII without quotes, so nothing needs to be escaped.
fn json(title: &str, options: &Options, cores: usize, figures: &[Figure]) -> String {
    let rows: Vec<String> = figures
        .iter()
        .map(|figure| {
            format!(
                "    {{\"name\": \"{}\", \"endpoints\": {}, \"threads\": {}, \"ns_per_pick\": {:.2}, \
                 \"ns_least\": {:.2}, \"ns_most\": {:.2}, \"picks_per_second\": {:.0}}}",
                figure.name,
                figure.endpoints,
                figure.threads,
                figure.nanos,
                figure.range.0,
                figure.range.1,
                figure.rate
            )
        })
        .collect();
    format!(
        "{{\n  \"title\": \"{title}\",\n  \"cores\": {cores},\n  \"rounds\": {},\n  \"batch_ms\": {},\n  \"figures\": [\n{}\n  ]\n}}\n",
        options.rounds,
        options.batch.as_millis(),
        rows.join(",\n")
    )
}
