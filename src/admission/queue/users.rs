use super::slots::ByKey;

/// The slots that each user may have, however few there are.
const MIN_SLOTS_OF_USER: u32 = 4;
/// From so many shares on, of requests that run or wait, a user floods.
const SHARES_OF_FLOOD: u32 = 4;

/// The requests and slots of a user in all queues of a cluster.
#[derive(Debug, Default)]
pub(super) struct User {
    /// The requests that run.
    pub(super) taken: u32,
    /// Those that wait within the share.
    pub(super) within: u32,
    /// Those that wait beyond it.
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

    /// Returns whether the next request of the user, one of `all`, is beyond its share of `slots`.
    pub(super) fn has_share(&self, slots: u32, all: u32) -> bool {
        self.taken + self.within >= share(slots, all)
    }

    /// Returns whether the user floods a cluster with so many slots.
    pub(super) fn floods(&self, slots: u32) -> bool {
        self.all() > SHARES_OF_FLOOD * whole_share(slots)
    }
}

/// An eighth of the slots.
fn whole_share(slots: u32) -> u32 {
    (slots / 8).max(MIN_SLOTS_OF_USER)
}

/// Returns how many requests of a user with `all` of them may have a slot before those of others that come later. A user who floods
/// has the less the more there are, and at least one.
fn share(slots: u32, all: u32) -> u32 {
    let (share, flood) = (whole_share(slots), SHARES_OF_FLOOD * whole_share(slots));
    if all <= flood { share } else { (u64::from(share) * u64::from(flood) / u64::from(all)).max(1) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_an_eighth_and_less_the_more_he_floods() {
        let cases = [(1, 1, 4), (32, 16, 4), (64, 8, 8), (64, 32, 8), (64, 33, 7), (64, 64, 4), (64, 1_000, 1)];
        for (slots, all, expected) in cases {
            assert_eq!(share(slots, all), expected, "{slots} slots, {all} queries");
        }
        assert!(share(u32::MAX, u32::MAX) > 1);
    }
}
