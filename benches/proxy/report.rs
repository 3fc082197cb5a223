//! Medians over the rounds, and ratios within them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::load::Case;
use super::peers::Peer;

/// The figures of one peer in one case and one round.
pub struct Row {
    peer: &'static str,
    case: Case,
    figures: Vec<(&'static str, f64)>,
}

impl Row {
    pub fn new(peer: &Peer, case: Case) -> Self {
        Row { peer: peer.name, case, figures: Vec::new() }
    }

    pub fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }
}

/// Per case, the peers in the order of measurement; per peer, the figures; per figure, one value
/// per round.
#[derive(Default)]
pub struct Report {
    cases: BTreeMap<Case, Vec<(&'static str, Figures)>>,
}

type Figures = Vec<(&'static str, Vec<f64>)>;

/// The peers that all others are compared with.
const AGAINST: [&str; 3] = ["nginx", "haproxy", "relay"];

impl Report {
    pub fn add(&mut self, row: Row) {
        let peers = self.cases.entry(row.case).or_default();
        let at = peers.iter().position(|(peer, _)| *peer == row.peer).unwrap_or_else(|| {
            let empty = row.figures.iter().map(|(name, _)| (*name, Vec::new())).collect();
            peers.push((row.peer, empty));
            peers.len() - 1
        });
        for ((_, values), (_, value)) in peers[at].1.iter_mut().zip(row.figures) {
            values.push(value);
        }
    }

    pub fn json(&self) -> String {
        let mut root = Map::new();
        for (case, peers) in &self.cases {
            let mut by_peer = Map::new();
            for (peer, figures) in peers {
                let values = figures
                    .iter()
                    .map(|(name, values)| ((*name).to_owned(), json!({ "median": median(values), "rounds": values })));
                by_peer.insert((*peer).to_owned(), Value::Object(values.collect()));
            }
            root.insert(case.name().to_owned(), Value::Object(by_peer));
        }
        serde_json::to_string_pretty(&root).unwrap()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, peers) in &self.cases {
            let names: Vec<_> = peers[0].1.iter().map(|(name, _)| *name).collect();
            // The last figure is the one that is compared.
            let key = names.len() - 1;
            let of = |peer: &str| peers.iter().find(|(name, _)| *name == peer).map(|(_, figures)| &figures[key].1);
            let against: Vec<_> = AGAINST.iter().filter_map(|peer| of(peer).map(|values| (peer, values))).collect();
            write!(f, "\n| {:<20} |", case.name())?;
            names.iter().try_for_each(|name| write!(f, " {name:>10} |"))?;
            against.iter().try_for_each(|(peer, _)| write!(f, " {:>9} |", format!("/{peer}")))?;
            write!(f, "\n|{:-<22}|", "")?;
            names.iter().try_for_each(|_| write!(f, "{:->12}|", ":"))?;
            against.iter().try_for_each(|_| write!(f, "{:->11}|", ":"))?;
            writeln!(f)?;
            for (peer, figures) in peers {
                write!(f, "| {peer:<20} |")?;
                for (_, values) in figures {
                    write!(f, " {:>10} |", short(median(values)))?;
                }
                for (_, theirs) in &against {
                    // Ratios are computed within a round, because a machine that slows down slows
                    // both.
                    let ratios: Vec<_> =
                        figures[key].1.iter().zip(*theirs).map(|(ours, theirs)| ours / theirs).collect();
                    write!(f, " {:>9.3} |", median(&ratios))?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1000.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
