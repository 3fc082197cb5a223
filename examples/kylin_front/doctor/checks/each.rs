//! The checks of each node by itself, and the comparison of its clock with the others.

use std::time::Duration;

use kylin_lb::cluster::ClusterStatus;
use kylin_lb::health::ProbeLevel;
use kylin_lb::kylin::properties::Properties;
use kylin_lb::nginx::ProbeMode;

use super::{Seen, responding};
use crate::doctor::node::Node;
use crate::doctor::report::{Check, Report};

/// Kylin 5 ends a query after this time if nothing else is configured; older versions have no
/// limit.
const KYLIN_5_QUERY_TIMEOUT: Duration = Duration::from_secs(300);
/// Kylin raises lower limits to this (2.x-4.x).
const MIN_QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks that each node responds, and that it is Kylin.
pub fn reachable(nodes: &[Seen], report: &mut Report) {
    report.ran(Check::Reachable);
    for (Node { id, address, is_down, .. }, facts) in nodes {
        if *is_down {
            report.note(Check::Reachable, &[id], "is down by its setting, and is not asked");
        } else if let Some(error) = &facts.unreachable {
            report.fault(Check::Reachable, &[id], format!("does not respond at {address}: {error}"));
        } else if !facts.down_parts.is_empty() {
            report.fault(
                Check::Reachable,
                &[id],
                format!("reports that these are down: {}", facts.down_parts.join(", ")),
            );
        }
    }
}

/// Checks that a probe shows the health of each node.
pub fn probe(nodes: &[Seen], mode: Option<ProbeMode>, report: &mut Report) {
    report.ran(Check::Probe);
    for (Node { id, .. }, facts) in responding(nodes) {
        let has = match facts.level {
            None => {
                report.fault(Check::Probe, &[id], "responds with a server error to each probe");
                continue;
            }
            Some(ProbeLevel::Tcp) => {
                let text =
                    "responds, but not as Kylin: neither /kylin/api/admin/version nor /kylin/api/user/authentication";
                report.fault(Check::Probe, &[id], text);
                continue;
            }
            Some(level) => level,
        };
        let lacks = match mode {
            Some(ProbeMode::Version) if has < ProbeLevel::Version => Some("version, which Kylin 3.1 and later offer"),
            Some(ProbeMode::Health) if !facts.is_kylin5 => Some("health, which Kylin 5 offers"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            report.fault(
                Check::Probe,
                &[id],
                format!("does not offer the chosen probe {lacks}; --probe auto takes {has}"),
            );
        }
    }
    match mode {
        Some(ProbeMode::None) => {
            report.note(Check::Probe, &[], "is off: only failing requests take a node out of service")
        }
        Some(ProbeMode::Tcp) => {
            report.note(Check::Probe, &[], "tcp shows a Tomcat whose Kylin failed as healthy; --probe auto does not");
        }
        _ => {}
    }
}

/// Checks that the clocks agree. Apart from rounding, the spans of two clocks that agree overlap.
pub fn clock(nodes: &[Seen], report: &mut Report) {
    let clocks: Vec<_> = nodes.iter().filter_map(|(node, facts)| Some((&*node.id, facts.clock?))).collect();
    let silent: Vec<&str> =
        responding(nodes).filter(|(_, facts)| facts.clock.is_none()).map(|(node, _)| &*node.id).collect();
    if !silent.is_empty() {
        report.unchecked(Check::Clock, &silent, "sends no valid Date header, so its clock is unknown");
    }
    if clocks.len() < 2 {
        return;
    }
    report.ran(Check::Clock);
    let rounding = i64::try_from(ClusterStatus::MAX_CLOCK_SKEW).unwrap_or_default() - 1;
    let mut sorted: Vec<i64> = clocks.iter().map(|(_, (at_least, _))| *at_least).collect();
    sorted.sort_unstable();
    let middle = sorted[(sorted.len() - 1) / 2];
    let reference = clocks.iter().find(|(_, (at_least, _))| *at_least == middle).map_or((0, 0), |(_, clock)| *clock);
    let differs = |(at_least, at_most): (i64, i64)| (at_least - reference.1).max(reference.0 - at_most) > rounding;
    for (id, clock) in clocks.iter().filter(|(_, clock)| differs(*clock)) {
        let ahead = clock.0 - middle;
        let text = format!(
            "its clock is {} s {} that of other nodes",
            ahead.abs(),
            if ahead > 0 { "ahead of" } else { "behind" }
        );
        report.fault(Check::Clock, &[id], text);
    }
}

/// Checks that the front end waits longer than a query may take. For a node without a limit, it
/// must wait longer than the web interface does. `follows_kylin` says whether the time comes from
/// Kylin's own file.
pub fn timeouts(nodes: &[Seen], head_timeout: Duration, follows_kylin: bool, report: &mut Report) {
    let seconds = |time: Duration| time.as_secs_f64();
    for (Node { id, .. }, facts) in responding(nodes) {
        let (config, public) = (facts.config.as_ref(), facts.public_config.as_ref());
        let limit = match config.map(Properties::query_timeout) {
            Some(Ok(Some(limit))) if limit.is_zero() => None,
            Some(Ok(Some(limit))) if facts.is_kylin5 => Some(limit),
            Some(Ok(Some(limit))) => Some(limit.max(MIN_QUERY_TIMEOUT)),
            _ if facts.is_kylin5 => Some(KYLIN_5_QUERY_TIMEOUT),
            _ => None,
        };
        let page = [public, config].into_iter().flatten().find_map(|config| config.get("kylin.web.query-timeout"));
        let page = page.and_then(|milliseconds| milliseconds.parse().ok()).map(Duration::from_millis);
        if config.is_some() || page.is_some() || facts.is_kylin5 {
            report.ran(Check::Timeouts);
        }
        let waits = seconds(head_timeout);
        if let Some(limit) = limit.filter(|limit| head_timeout <= *limit) {
            let limit = seconds(limit);
            if config.is_some() {
                let text = format!("a query may take {limit} s, and the front end waits for {waits} s");
                report.fault(Check::Timeouts, &[id], text);
            } else {
                let text = format!(
                    "Kylin 5 does not tell how long a query may take: {limit} s by default, and the front end waits for {waits} s"
                );
                report.unchecked(Check::Timeouts, &[id], text);
            }
        } else if let Some(page) =
            page.filter(|page| limit.is_none() && head_timeout <= *page && (config.is_some() || !follows_kylin))
        {
            let text = format!("its web interface waits for {} s, and the front end for {waits} s", seconds(page));
            report.fault(Check::Timeouts, &[id], text);
        } else if limit.is_none() && config.is_some() {
            let text = format!(
                "its queries have no limit, and the front end waits for {waits} s: kylin.query.timeout-seconds sets one"
            );
            report.note(Check::Timeouts, &[id], text);
        }
    }
}
