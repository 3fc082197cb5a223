use super::costs::Micros;
use super::credentials::Credential;
use super::pace::ByKey;

/// The minimum share of a user, in slots.
const MIN_SLOTS_OF_USER: u32 = 4;
/// The multiple of its share above which a user's share shrinks, counting running and waiting
/// requests. A share is an eighth of the slots, so such a user has more requests than all slots can
/// run. A few busy users may each have more than a share.
const MAX_SHARES: u32 = 8;
/// The multiple of its share above which a user floods, or of three eighths of the waiting places
/// if that is less. With a lower multiple, each of a few busy users would flood during an overload.
/// They would leave slots free while many requests wait, so that the overload lasts.
const SHARES_OF_FLOOD: u32 = 24;
/// How long a user counts as active after its last query.
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

    /// Returns whether the share of a user with `all` requests has no space for another one.
    pub(super) fn share_is_full(&self, slots: u32, all: u32) -> bool {
        self.taken + self.within >= share(slots, all)
    }

    /// Returns whether the user has so many requests that its share shrinks.
    pub(super) fn has_shrunken_share(&self, slots: u32) -> bool {
        self.all() > whole_share(slots).saturating_mul(MAX_SHARES)
    }

    /// Returns whether the user floods a cluster with this many slots and places.
    pub(super) fn floods(&self, slots: u32, places: usize) -> bool {
        self.all() > flood(slots, places)
    }
}

/// The last query, and the last query of another user.
#[derive(Debug, Default)]
pub(super) struct Activity([LastQuery; 2]);

#[derive(Debug, Default, Clone, Copy)]
struct LastQuery {
    user: u64,
    /// The credentials of the query, if no node has accepted them yet. The address then stands for
    /// the user.
    unproven: Option<Credential>,
    at: Option<Micros>,
}

impl Activity {
    pub(super) fn note(&mut self, user: u64, unproven: Option<Credential>, now: Micros) {
        if self.0[0].user != user {
            self.0[1] = self.0[0];
        }
        self.0[0] = LastQuery { user, unproven, at: Some(now) };
    }

    /// Learns whose credentials these are. Otherwise the first query of a user, whom the address
    /// represented, would make the user look like two users.
    pub(super) fn prove(&mut self, credential: Credential, user: u64) {
        for query in self.0.iter_mut().filter(|query| query.unproven == Some(credential)) {
            (query.user, query.unproven) = (user, None);
        }
        if self.0[0].user == self.0[1].user {
            self.0[1] = LastQuery::default();
        }
    }

    /// Returns whether another user has sent a query lately.
    pub(super) fn is_other_active(&self, user: u64, now: Micros) -> bool {
        let other = self.0.iter().find(|query| query.user != user);
        other.and_then(|query| query.at).is_some_and(|at| now.saturating_sub(at) < ACTIVE)
    }
}

/// Returns an eighth of the slots, at least the minimum.
fn whole_share(slots: u32) -> u32 {
    (slots / 8).max(MIN_SLOTS_OF_USER)
}

/// Returns the number of requests above which a user floods. It is never less than the number above
/// which the user's share shrinks.
fn flood(slots: u32, places: usize) -> u32 {
    let (share, of_places) = (whole_share(slots), u32::try_from(places / 8 * 3).unwrap_or(u32::MAX));
    share.saturating_mul(SHARES_OF_FLOOD).min(of_places).max(share.saturating_mul(MAX_SHARES))
}

/// Returns the share of a user with `all` requests. It shrinks as `all` grows beyond the maximum,
/// down to one.
fn share(slots: u32, all: u32) -> u32 {
    let (share, max) = (whole_share(slots), whole_share(slots).saturating_mul(MAX_SHARES));
    if all <= max { share } else { (u64::from(share) * u64::from(max) / u64::from(all)).max(1) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_whose_first_query_came_under_its_address_is_no_other_user() {
        let (credential, other) = (Credential(7), Credential(8));
        let mut activity = Activity::default();
        activity.note(100, Some(credential), 0);
        activity.note(101, Some(credential), 0);
        assert!(activity.is_other_active(1, 0) && activity.is_other_active(100, 0), "two addresses");
        activity.prove(other, 2);
        assert!(activity.is_other_active(1, 0), "the credentials of another user");
        activity.prove(credential, 1);
        assert!(!activity.is_other_active(1, 0), "both addresses are this user");
        assert!(activity.is_other_active(2, 0));
        activity.note(100, Some(other), 0);
        activity.note(1, None, 0);
        assert!(activity.is_other_active(1, ACTIVE - 1) && !activity.is_other_active(1, ACTIVE));
    }

    #[test]
    fn a_user_floods_with_24_shares_or_three_eighths_of_the_places() {
        let cases = [(64, 512, 192), (64, 100_000, 192), (8, 64, 32), (12, 192, 72), (256, 512, 256), (4, 8, 32)];
        for (slots, places, expected) in cases {
            assert_eq!(flood(slots, places), expected, "{slots} slots, {places} places");
        }
    }

    #[test]
    fn a_user_has_an_eighth_and_less_the_more_it_sends() {
        let cases = [(1, 1, 4), (32, 16, 4), (64, 8, 8), (64, 64, 8), (64, 65, 7), (64, 128, 4), (64, 1_000, 1)];
        for (slots, all, expected) in cases {
            assert_eq!(share(slots, all), expected, "{slots} slots, {all} queries");
        }
        assert!(share(u32::MAX, u32::MAX) > 1);
    }
}
