//! httpd's policies (`mod_lbmethod_byrequests`, `mod_lbmethod_bybusyness`), with `lbset`, hot
//! spares, hot standbys and the routes of sessions.
//!
//! Each member has a status. A pick adds the load factor of each eligible member to its status. It
//! picks the member with the highest status (`byrequests`) or with the fewest requests in flight
//! (`bybusyness`). It then subtracts the sum of the factors from the status of that member.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use kylin_lb::RequestView;
use kylin_lb::balance::{Balancer, Candidate, Candidates, Table};
use kylin_lb::cluster::PickReason;
use kylin_lb::observe::{EndpointPicked, Observer};

use super::directives::{self, Method};

/// The policy of a balancer.
pub struct LbMethod {
    method: Method,
    members: Vec<Member>,
    /// The `lbset` of the members, each once, lowest first.
    sets: Vec<u32>,
    /// The number of session picks that the statuses do not yet include.
    bound: AtomicU32,
}

struct Member {
    id: String,
    factor: i64,
    set: u32,
    spare: bool,
    standby: bool,
    /// Whether the member gets no new sessions. httpd still counts it as usable.
    drain: bool,
    disabled: bool,
    route: Option<String>,
    redirect: Option<String>,
    status: AtomicI64,
    /// The number of picks of the member's sessions that its status does not yet include.
    bound: AtomicU32,
}

/// A request extension: the route that the session of a request names.
#[derive(Clone)]
pub struct AskedRoute(pub Arc<str>);

/// The members at the indices of a group's candidates.
struct Indices(Vec<Option<usize>>);

impl LbMethod {
    pub fn new(balancer: &directives::Balancer, method: Method) -> Self {
        let member = |member: &directives::Member| Member {
            id: member.address.clone(),
            factor: i64::from(balancer.weight(member).get()),
            set: member.set,
            spare: member.status.spare,
            standby: member.status.standby,
            drain: member.status.drain,
            disabled: member.status.disabled,
            route: member.route.clone(),
            redirect: member.redirect.clone(),
            status: AtomicI64::new(0),
            bound: AtomicU32::new(0),
        };
        let members: Vec<_> = balancer.members.iter().map(member).collect();
        let mut sets: Vec<_> = members.iter().map(|member| member.set).collect();
        sets.sort_unstable();
        sets.dedup();
        LbMethod { method, members, sets, bound: AtomicU32::new(0) }
    }

    /// Returns the candidates of this group with their members.
    fn members<'s, 'c>(
        &'s self,
        from: &Candidates<'c>,
    ) -> impl Iterator<Item = (Candidate<'c>, &'s Member)> + use<'s, 'c> {
        let indices = from.table::<Indices>().map(|indices| &indices.0[..]).unwrap_or_default();
        from.all().zip(indices).filter_map(|(candidate, index)| Some((candidate, &self.members[(*index)?])))
    }

    /// Adds the picks of sessions since the last pick to the statuses, as httpd does.
    fn count_bound(&self, from: &Candidates<'_>) {
        if self.bound.load(Ordering::Relaxed) == 0 || self.bound.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        // Members of the other group count as usable, because their health is not known here.
        let is_usable = |member: &Member| {
            let here = self.members(from).find(|(_, other)| std::ptr::eq(*other, member));
            here.map_or(!member.disabled, |(candidate, _)| from.is_eligible(candidate) || member.drain)
        };
        for bound in &self.members {
            let picks = i64::from(bound.bound.swap(0, Ordering::Relaxed));
            if picks == 0 {
                continue;
            }
            let mut total = 0;
            for member in self.members.iter().filter(|member| is_usable(member)) {
                member.status.fetch_add(member.factor * picks, Ordering::Relaxed);
                total += member.factor * picks;
            }
            bound.status.fetch_sub(total, Ordering::Relaxed);
        }
    }

    /// Finds an eligible member with this route, or one to which its `redirect` leads.
    fn of_route<'c>(&self, route: &str, from: &Candidates<'c>, depth: usize) -> Option<(Candidate<'c>, &Member)> {
        for standby in [false, true] {
            for (candidate, member) in self.members(from).filter(|(_, member)| member.standby == standby) {
                if member.route.as_deref() != Some(route) {
                    continue;
                }
                if from.is_eligible(candidate) {
                    return Some((candidate, member));
                }
                if let (Some(redirect), true) = (&member.redirect, depth < self.members.len())
                    && let Some(found) = self.of_route(redirect, from, depth + 1)
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Picks the best member of the first `lbset` with an eligible member.
    fn best<'c>(&self, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        for set in &self.sets {
            let mut best = Best::new(self.method);
            let mut unusable = 0;
            let of_set = || self.members(from).filter(|(_, member)| member.set == *set);
            for (candidate, member) in of_set().filter(|(_, member)| !member.spare && !member.standby) {
                match from.is_eligible(candidate) {
                    true => best.offer(candidate, member),
                    false => unusable += 1,
                }
            }
            let spares = of_set().filter(|(candidate, member)| member.spare && from.is_eligible(*candidate));
            spares.take(unusable).for_each(|(candidate, member)| best.offer(candidate, member));
            if best.chosen.is_none() {
                let standbys = of_set().filter(|(candidate, member)| member.standby && from.is_eligible(*candidate));
                standbys.for_each(|(candidate, member)| best.offer(candidate, member));
            }
            if let Some((candidate, member, _)) = best.chosen {
                member.status.fetch_sub(best.total, Ordering::Relaxed);
                return Some(candidate);
            }
        }
        None
    }
}

/// The best of the members that were offered.
struct Best<'s, 'c> {
    method: Method,
    total: i64,
    chosen: Option<(Candidate<'c>, &'s Member, i64)>,
}

impl<'s, 'c> Best<'s, 'c> {
    fn new(method: Method) -> Self {
        Best { method, total: 0, chosen: None }
    }

    fn offer(&mut self, candidate: Candidate<'c>, member: &'s Member) {
        let status = member.status.fetch_add(member.factor, Ordering::Relaxed) + member.factor;
        self.total += member.factor;
        let is_better = match (&self.chosen, self.method) {
            (None, _) => true,
            (Some((.., best)), Method::ByRequests) => status > *best,
            (Some((other, _, best)), Method::ByBusyness) => {
                let busy = candidate.in_flight().cmp(&other.in_flight());
                busy.is_lt() || busy.is_eq() && status > *best
            }
        };
        if is_better {
            self.chosen = Some((candidate, member, status));
        }
    }
}

impl Balancer for LbMethod {
    fn pick<'c>(&self, request: &RequestView<'_>, from: &Candidates<'c>) -> Option<Candidate<'c>> {
        self.count_bound(from);
        if let Some(AskedRoute(route)) = request.extensions().get::<AskedRoute>()
            && let Some((candidate, member)) = self.of_route(route, from, 1)
        {
            self.note_bound(member);
            return Some(candidate);
        }
        self.best(from)
    }

    fn reads_query(&self) -> bool {
        false
    }

    fn prepare(&self, members: &Candidates<'_>) -> Table {
        let index =
            |candidate: Candidate<'_>| self.members.iter().position(|member| member.id == candidate.id().as_str());
        Table::new(Indices(members.all().map(index).collect()))
    }
}

impl LbMethod {
    fn note_bound(&self, member: &Member) {
        member.bound.fetch_add(1, Ordering::Relaxed);
        self.bound.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for LbMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.method {
            Method::ByRequests => "byrequests",
            Method::ByBusyness => "bybusyness",
        })
    }
}

/// Counts the picks by session for a policy.
pub struct BoundPicks(pub Arc<LbMethod>);

impl Observer for BoundPicks {
    fn picked(&self, event: &EndpointPicked<'_>) {
        if event.reason == PickReason::Bound
            && let Some(member) = self.0.members.iter().find(|member| member.id == event.endpoint.as_str())
        {
            self.0.note_bound(member);
        }
    }
}
