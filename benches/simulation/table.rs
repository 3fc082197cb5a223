//! The results as tables, and where the tables are written.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::Results;
use crate::figures::Figures;

const END: &str = "<!-- end of what is written -->\n";

/// Returns one table per load. `model` is in the heading of each.
pub(crate) fn markdown(results: &[(f64, Results)], model: &str) -> String {
    let mut text = String::new();
    for (load, rows) in results {
        let _ = writeln!(
            text,
            "\n| load {:.0} %{model} | mean s | p50 s | p99 s | p99 of quick s | waited s | cache hits | refused |",
            load * 100.0
        );
        text.push_str("|---|--:|--:|--:|--:|--:|--:|--:|\n");
        for (name, _, figures) in rows {
            let (low, high) = figures.range();
            let _ = writeln!(
                text,
                "| {name} | {} ({} to {}) | {} | {} | {} | {} | {:.1} % | {:.1} % |",
                short(figures.mean()),
                short(low),
                short(high),
                short(figures.within(0.5)),
                short(figures.within(0.99)),
                short(figures.quick_within(0.99)),
                short(figures.waited()),
                figures.hits() * 100.0,
                figures.refused() * 100.0
            );
        }
    }
    text
}

/// Returns the table of floods at one load: the name, the figures of the other users, and how many
/// queries of the flood were served.
pub(crate) fn floods(load: f64, rows: impl Iterator<Item = (String, Figures, u64)>) -> String {
    let mut text = format!(
        "\n| load of others {:.0} %, flood | mean s | p99 s | p99 of quick s | waited s | refused | served of the flood |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
        load * 100.0
    );
    let mut without = None;
    for (name, figures, served) in rows {
        let quick = figures.quick_within(0.99);
        let more = (quick / *without.get_or_insert(quick) - 1.0) * 100.0;
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {quick:.3} ({more:+.0} %) | {} | {:.1} % | {served} |",
            short(figures.mean()),
            short(figures.within(0.99)),
            short(figures.waited()),
            figures.refused() * 100.0,
        );
    }
    text
}

/// Puts `tables` between two marks in `file`. The first mark names the options of the run.
pub(crate) fn put_into(file: &Path, options: &str, tables: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(file)?;
    let begin = format!("<!-- written by cargo bench --bench simulation -- {options} -->\n");
    let parts = text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or_else(|| io::Error::other("the marks of the results are not in it"))?;
    std::fs::write(file, format!("{head}{begin}{tables}\n{END}{tail}"))
}

/// Formats a number with three digits.
fn short(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.2}"),
        seconds if seconds < 100.0 => format!("{seconds:.1}"),
        seconds => format!("{seconds:.0}"),
    }
}
