//! A site that replaces a running one.

use std::collections::BTreeMap;
use std::fmt;

use super::{Site, SiteParts};
use crate::cluster::{Cluster, EndpointStatus};
use crate::nginx::options::ProbeMode;

/// A site that is ready to replace a running one, from
/// [`SiteBuilder::build_successor`](super::SiteBuilder::build_successor).
///
/// The running site is unchanged until [`activate`](Self::activate) is called.
#[must_use = "nothing changes before the successor is activated"]
pub struct SiteSuccessor {
    pub(super) site: Site,
    pub(super) before: Site,
}

impl SiteSuccessor {
    /// Returns the new site, from which the new listeners are built. The successor is to be
    /// activated when they take over.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Applies the new configuration to the clusters, and returns the new site and the changes.
    ///
    /// Before this call, drop the [`NameLookups`](super::NameLookups) of the old site. After it,
    /// start those of the new site.
    pub fn activate(self) -> (Site, SiteChanges) {
        let SiteSuccessor { site, before } = self;
        let old = states(&before.parts);
        for (number, pending) in site.parts.pending.iter().enumerate() {
            let cluster = &site.parts.clusters[number];
            if let Some(settings) = pending.lock().take() {
                // The ids were checked when the site was built.
                if let Err(error) = settings.apply(cluster, site.parts.endpoints[number].lock().endpoints()) {
                    tracing::error!(%error, "the servers of an upstream cannot be exchanged");
                }
            }
        }
        let changes = SiteChanges::between(&old, &before.parts, &site.parts);
        (site, changes)
    }
}

impl fmt::Debug for SiteSuccessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteSuccessor").field("site", &self.site).finish_non_exhaustive()
    }
}

/// The changes that [`SiteSuccessor::activate`] has made. `Display` prints it in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SiteChanges {
    /// The names of new upstreams.
    pub upstreams_added: Vec<String>,
    /// The names of removed upstreams.
    pub upstreams_removed: Vec<String>,
    /// New endpoints in upstreams that stay, as `upstream/id`.
    pub endpoints_added: Vec<String>,
    /// Endpoints that were removed from upstreams that stay. Their requests in flight finish.
    pub endpoints_removed: Vec<String>,
    /// Endpoints that stay, but whose settings changed.
    pub endpoints_changed: Vec<String>,
    /// Upstreams that stay, but whose policy changed.
    pub policies_changed: Vec<String>,
    /// The settings that differ, but take effect only after a restart of the process.
    pub kept_settings: Vec<String>,
    /// Whether directives outside of upstreams differ: servers, locations or their settings. Files
    /// of passwords and certificates do not count.
    pub servers: bool,
    /// Whether [`Site::start_probes`] has to be called again, because upstreams are new or their
    /// probes changed. If not, the checkers of the old site continue.
    pub probes: bool,
}

type States = BTreeMap<String, (String, Vec<EndpointStatus>)>;

fn states(parts: &SiteParts) -> States {
    let state = |cluster: &Cluster| {
        let status = cluster.status();
        (status.balancer, status.endpoints)
    };
    let named = parts.config.upstreams.iter().zip(&parts.clusters);
    named.map(|(upstream, cluster)| (upstream.name.clone(), state(cluster))).collect()
}

impl SiteChanges {
    fn between(old: &States, before: &SiteParts, after: &SiteParts) -> Self {
        let new = states(after);
        let mut changes = SiteChanges {
            upstreams_added: new.keys().filter(|name| !old.contains_key(*name)).cloned().collect(),
            upstreams_removed: old.keys().filter(|name| !new.contains_key(*name)).cloned().collect(),
            kept_settings: after.kept_settings.clone(),
            probes: probes(before) != probes(after),
            servers: before.config.text != after.config.text,
            ..SiteChanges::default()
        };
        for (name, (policy, endpoints)) in &new {
            let Some((old_policy, old_endpoints)) = old.get(name) else { continue };
            let find =
                |all: &[EndpointStatus], one: &EndpointStatus| all.iter().find(|other| other.id == one.id).cloned();
            for endpoint in endpoints {
                let place = format!("{name}/{}", endpoint.id);
                match find(old_endpoints, endpoint) {
                    None => changes.endpoints_added.push(place),
                    Some(old) if settings(&old) != settings(endpoint) => changes.endpoints_changed.push(place),
                    Some(_) => {}
                }
            }
            let gone = old_endpoints.iter().filter(|old| find(endpoints, old).is_none());
            changes.endpoints_removed.extend(gone.map(|old| format!("{name}/{}", old.id)));
            if policy != old_policy {
                changes.policies_changed.push(name.clone());
            }
        }
        changes
    }
}

/// Returns the upstreams and their probe modes.
fn probes(parts: &SiteParts) -> BTreeMap<&str, ProbeMode> {
    let named = parts.config.upstreams.iter().zip(&parts.probes);
    named.map(|(upstream, probe)| (upstream.name.as_str(), *probe)).collect()
}

fn settings(status: &EndpointStatus) -> impl PartialEq + use<> {
    (status.weight, status.backup, status.admin_state, status.max_in_flight, status.roles)
}

impl fmt::Display for SiteChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("upstreams added", &self.upstreams_added),
            ("upstreams removed", &self.upstreams_removed),
            ("endpoints added", &self.endpoints_added),
            ("endpoints removed", &self.endpoints_removed),
            ("endpoints changed", &self.endpoints_changed),
            ("policies changed", &self.policies_changed),
            ("until a restart the same", &self.kept_settings),
        ];
        let mut changes: Vec<String> = lists
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(what, list)| format!("{what}: {}", list.join(" ")))
            .collect();
        if self.servers {
            changes.push("servers or locations changed".into());
        }
        match changes.is_empty() {
            true => f.write_str("no change of servers, upstreams or endpoints"),
            false => f.write_str(&changes.join("; ")),
        }
    }
}
