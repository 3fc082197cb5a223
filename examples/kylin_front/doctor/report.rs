//! The checks, the requirement in a manual behind each check, and the report.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// A check. Each one comes from a sentence in a manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Source,
    Reachable,
    Probe,
    Version,
    Clock,
    Metastore,
    Storage,
    ClusterServers,
    JobEngine,
    Discovery,
    Users,
    Sessions,
    Timeouts,
}

impl Check {
    const ALL: [Check; 13] = [
        Check::Source,
        Check::Reachable,
        Check::Probe,
        Check::Version,
        Check::Clock,
        Check::Metastore,
        Check::Storage,
        Check::ClusterServers,
        Check::JobEngine,
        Check::Discovery,
        Check::Users,
        Check::Sessions,
        Check::Timeouts,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Check::Source => "source",
            Check::Reachable => "reachable",
            Check::Probe => "probe",
            Check::Version => "version",
            Check::Clock => "clock",
            Check::Metastore => "metastore",
            Check::Storage => "storage",
            Check::ClusterServers => "cluster-servers",
            Check::JobEngine => "job-engine",
            Check::Discovery => "discovery",
            Check::Users => "users",
            Check::Sessions => "sessions",
            Check::Timeouts => "timeouts",
        }
    }

    /// Returns the manual and its requirement, in our own words.
    fn rule(self) -> [&'static str; 2] {
        match self {
            Check::Source => ["KAP manual", "the load balancer is configured with the address of every node"],
            Check::Reachable => ["KAP manual", "each node serves every query, and stands in for the others"],
            Check::Probe => ["KAP manual", "a node that fails is taken out of service by itself"],
            Check::Version => ["Kylin documentation", "all nodes of a cluster run one version"],
            Check::Clock => ["Kylin 5 documentation", "the clocks of the nodes do not differ"],
            Check::Metastore => {
                ["KAP manual", "every node has the same kylin.metadata.url, because all state is in the metastore"]
            }
            Check::Storage => [
                "KAP manual",
                "the nodes use one Hadoop and one HBase; with read-write separation, those of each role do",
            ],
            Check::ClusterServers => [
                "Kylin FAQ",
                "kylin.server.cluster-servers of every node lists every node, or changes do not reach some",
            ],
            Check::JobEngine => [
                "Kylin documentation",
                "one node runs the jobs, unless the scheduler elects one or locks each job in ZooKeeper",
            ],
            Check::Discovery => ["KAP manual on service discovery", "the nodes find each other, with their roles"],
            Check::Users => ["KAP manual", "users and roles are managed in one place for all nodes, usually LDAP"],
            Check::Sessions => [
                "KAP manual",
                "a node knows only its own logins, so a client stays with its node or the nodes share their sessions",
            ],
            Check::Timeouts => {
                ["Kylin documentation", "the front end waits longer for a response than a query may take"]
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A problem that makes the cluster unsound.
    Fault,
    /// Information for the operator that is not a fault.
    Note,
    /// A check that could not be made.
    Unchecked,
}

struct Entry {
    check: Check,
    kind: Kind,
    nodes: Vec<String>,
    text: String,
}

/// The result of all checks.
#[derive(Default)]
pub struct Report {
    /// The report of `--check` on the source.
    pub understood: String,
    /// A JSON object for each node.
    pub nodes: Vec<Value>,
    /// The ways to keep logins, and whether each is sound with these nodes, by the name of the
    /// cluster.
    pub session_ways: serde_json::Map<String, Value>,
    entries: Vec<Entry>,
    ran: BTreeSet<Check>,
}

impl Report {
    /// Records that a check was made.
    pub fn ran(&mut self, check: Check) {
        self.ran.insert(check);
    }

    pub fn fault(&mut self, check: Check, nodes: &[&str], text: impl Into<String>) {
        self.add(check, Kind::Fault, nodes, text.into());
    }

    pub fn note(&mut self, check: Check, nodes: &[&str], text: impl Into<String>) {
        self.add(check, Kind::Note, nodes, text.into());
    }

    pub fn unchecked(&mut self, check: Check, nodes: &[&str], text: impl Into<String>) {
        self.add(check, Kind::Unchecked, nodes, text.into());
    }

    /// Records why the checks that are not yet in the report were not made.
    pub fn complete(&mut self, checks: &[Check], why: &str) {
        for check in checks {
            if !self.ran.contains(check) && !self.entries.iter().any(|entry| entry.check == *check) {
                self.unchecked(*check, &[], why);
            }
        }
    }

    fn add(&mut self, check: Check, kind: Kind, nodes: &[&str], text: String) {
        let nodes = nodes.iter().copied().map(str::to_owned);
        let is_same = |entry: &&mut Entry| entry.check == check && entry.kind == kind && entry.text == text;
        match self.entries.iter_mut().find(is_same) {
            Some(entry) => entry.nodes.extend(nodes),
            None => self.entries.push(Entry { check, kind, nodes: nodes.collect(), text }),
        }
    }

    pub fn is_sound(&self) -> bool {
        !self.entries.iter().any(|entry| entry.kind == Kind::Fault)
    }

    /// Returns the checks that were made and found no fault.
    fn passed(&self) -> impl Iterator<Item = &'static str> {
        let is_passed = |check: &Check| {
            self.ran.contains(check)
                && !self.entries.iter().any(|entry| entry.check == *check && entry.kind != Kind::Note)
        };
        Check::ALL.into_iter().filter(is_passed).map(Check::name)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        Check::ALL
            .into_iter()
            .flat_map(move |check| self.entries.iter().filter(move |entry| entry.check == check && entry.kind == kind))
    }

    pub fn to_json(&self) -> Value {
        let list = |kind| -> Vec<Value> {
            let entry = |entry: &Entry| {
                let [manual, sentence] = entry.check.rule();
                json!({
                    "check": entry.check.name(), "nodes": entry.nodes, "text": entry.text,
                    "because": sentence, "manual": manual,
                })
            };
            self.of(kind).map(entry).collect()
        };
        json!({
            "sound": self.is_sound(),
            "nodes": self.nodes,
            "session_ways": self.session_ways,
            "findings": list(Kind::Fault),
            "notes": list(Kind::Note),
            "not_checked": list(Kind::Unchecked),
            "passed": self.passed().collect::<Vec<_>>(),
            "understood": self.understood,
        })
    }

    pub fn to_text(&self) -> String {
        let mut text = self.understood.clone();
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let cells = |node: &Value| -> Vec<String> {
            let names = ["node", "address", "roles", "version", "probe"];
            names.map(|name| if node[name].is_null() { "-".into() } else { cell(&node[name]) }).into()
        };
        let rows: Vec<Vec<String>> = self.nodes.iter().map(cells).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        for row in &rows {
            let padded: Vec<_> = row.iter().enumerate().map(|(at, cell)| format!("{cell:0$}", width(at))).collect();
            _ = writeln!(text, "{}", padded.join("  ").trim_end());
        }
        for (cluster, ways) in &self.session_ways {
            let named = |is_sound: bool| -> String {
                let ways = ways.as_object().into_iter().flatten().filter(|(_, sound)| **sound == is_sound);
                ways.map(|(way, _)| way.as_str()).collect::<Vec<_>>().join(", ")
            };
            _ = writeln!(text, "logins at {cluster}: kept by {}; lost by {}", named(true), named(false));
        }
        for (kind, title) in [(Kind::Note, "note"), (Kind::Unchecked, "not checked"), (Kind::Fault, "finding")] {
            for Entry { check, nodes, text: about, .. } in self.of(kind) {
                let nodes = if nodes.is_empty() { String::new() } else { format!("{}: ", nodes.join(", ")) };
                _ = writeln!(text, "{title}: {}: {nodes}{about}", check.name());
                if kind == Kind::Fault {
                    let [manual, sentence] = check.rule();
                    _ = writeln!(text, "    {manual}: {sentence}");
                }
            }
        }
        let passed: Vec<_> = self.passed().collect();
        if !passed.is_empty() {
            _ = writeln!(text, "sound: {}", passed.join(", "));
        }
        match self.of(Kind::Fault).count() {
            0 => text += "no findings\n",
            1 => text += "1 finding\n",
            count => _ = writeln!(text, "{count} findings"),
        }
        // Names and values from other machines must not reach the terminal with control characters.
        text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}
