use super::costs::Micros;
use super::slots::ByKey;

/// The minimum share of a user, in slots.
const MIN_SLOTS_OF_USER: u32 = 4;
/// A user floods with requests, running or waiting, of more than this many shares.
/// With an eighth of the slots as its share, that is more than all slots could run. A few busy users each have more than a share.
const SHARES_OF_FLOOD: u32 = 8;
/// The time for which a user counts as active after its last query.
const ACTIVE: Micros = 10_000_000;

/// The requests and slots of a user in all queues of a cluster.
#[derive(Debug, Default)]
pub(super) struct User {
    /// The number of requests that run.
    pub(super) taken: u32,
    /// The number of requests that wait within the share.
    pub(super) within: u32,
    /// The requests that wait beyond the share.
    pub(super) beyond: ByKey,
}

impl User {
    pub(super) fn waiting(&self) -> usize {
        self.within as usize + self.beyond.len()
    }

    /// Returns how many requests run or wait.
    pub(super) fn all(&self) -> u32 {
        u32::try_from(self.waiting()).unwrap_or(u32::MAX).saturating_add(self.taken)
    }

    /// Returns whether the share of a user with `all` requests has no room for another one.
    pub(super) fn share_is_full(&self, slots: u32, all: u32) -> bool {
        self.taken + self.within >= share(slots, all)
    }

    /// Returns whether the user floods a cluster with so many slots.
    pub(super) fn floods(&self, slots: u32) -> bool {
        self.all() > SHARES_OF_FLOOD * whole_share(slots)
    }
}

/// The users of the last query and of the last query of another user, each with the time.
#[derive(Debug, Default)]
pub(super) struct Activity([(u64, Option<Micros>); 2]);

impl Activity {
    pub(super) fn note(&mut self, user: u64, now: Micros) {
        if self.0[0].0 != user {
            self.0 = [(user, None), self.0[0]];
        }
        self.0[0].1 = Some(now);
    }

    /// Returns whether another user has sent a query lately.
    pub(super) fn is_other_active(&self, user: u64, now: Micros) -> bool {
        let other = self.0.iter().find(|(of, _)| *of != user);
        other.and_then(|(_, at)| *at).is_some_and(|at| now.saturating_sub(at) < ACTIVE)
    }
}

/// Returns an eighth of the slots, at least the minimum.
fn whole_share(slots: u32) -> u32 {
    (slots / 8).max(MIN_SLOTS_OF_USER)
}

/// Returns the share of a user with `all` requests. The share of a user who floods shrinks as `all` grows, to one at least.
fn share(slots: u32, all: u32) -> u32 {
    let (share, flood) = (whole_share(slots), SHARES_OF_FLOOD * whole_share(slots));
    if all <= flood { share } else { (u64::from(share) * u64::from(flood) / u64::from(all)).max(1) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_an_eighth_and_less_the_more_it_floods() {
        let cases = [(1, 1, 4), (32, 16, 4), (64, 8, 8), (64, 64, 8), (64, 65, 7), (64, 128, 4), (64, 1_000, 1)];
        for (slots, all, expected) in cases {
            assert_eq!(share(slots, all), expected, "{slots} slots, {all} queries");
        }
        assert!(share(u32::MAX, u32::MAX) > 1);
    }
}
