//! The table: a row for each drill and front end, with minimum, median and maximum over the runs.

use std::collections::BTreeMap;
use std::fmt;

use crate::support::drills::Tally;

#[derive(Default)]
pub(crate) struct Report {
    /// In the order of their first run.
    rows: Vec<(&'static str, &'static str, Vec<Tally>)>,
}

impl Report {
    pub(crate) fn add(&mut self, drill: &'static str, mode: &'static str, tally: Tally) {
        match self.rows.iter_mut().find(|(d, m, _)| (*d, *m) == (drill, mode)) {
            Some((_, _, tallies)) => tallies.push(tally),
            None => self.rows.push((drill, mode, vec![tally])),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| drill | front end | requests | failed | in the outage | honest 502 | closed without a byte | reads twice | \
             writes twice | logins lost with their node | logins lost otherwise | slowest ms |"
        )?;
        writeln!(f, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for (drill, mode, tallies) in &self.rows {
            let range = |figure: &dyn Fn(&Tally) -> u64| {
                let mut figures: Vec<u64> = tallies.iter().map(figure).collect();
                figures.sort_unstable();
                let [least, median, most] = [0, figures.len() / 2, figures.len() - 1].map(|at| figures[at]);
                if least == most { least.to_string() } else { format!("{least}-{median}-{most}") }
            };
            let figures: [&dyn Fn(&Tally) -> u64; 10] = [
                &|tally| tally.requests,
                &Tally::failed,
                &|tally| tally.failed_in_outage,
                &|tally| tally.broken_writes,
                &|tally| tally.silent,
                &|tally| tally.repeated_reads,
                &|tally| tally.repeated_writes,
                &|tally| tally.lost,
                &|tally| tally.lost_wrongly,
                &|tally| tally.slowest.as_millis() as u64,
            ];
            let cells: Vec<String> = figures.iter().map(|figure| range(figure)).collect();
            writeln!(f, "| {drill} | {mode} | {} |", cells.join(" | "))?;
        }
        writeln!(f, "\nWhat failed, over all runs:\n")?;
        for (drill, mode, tallies) in &self.rows {
            let mut failures = BTreeMap::<&str, u64>::new();
            for (what, times) in tallies.iter().flat_map(|tally| &tally.failures) {
                *failures.entry(what).or_default() += times;
            }
            for (what, times) in failures {
                writeln!(f, "- {drill}, {mode}: {times} times {:?}", what.lines().next().unwrap_or_default())?;
            }
        }
        Ok(())
    }
}
