use super::max_list_len;
use super::modulus::Modulus;

/// The owner of each unit of the total weight. Each member owns as many consecutive units as its
/// weight, whether or not it is in service.
pub(crate) struct Weights {
    /// The sum of the weights of members 0 to i.
    until: Vec<u64>,
    /// The owner of each unit; empty if there are too many units.
    owners: Vec<u32>,
    total: Modulus,
}

impl Weights {
    pub(super) fn new(weights: impl ExactSizeIterator<Item = u32> + Clone) -> Self {
        let add = |sum: &mut u64, weight| {
            *sum += u64::from(weight);
            Some(*sum)
        };
        let until: Vec<u64> = weights.clone().scan(0_u64, add).collect();
        let total = until.last().copied().unwrap_or(0);
        let is_listed = total <= max_list_len(until.len());
        let listed = (0_u32..).zip(weights).filter(|_| is_listed);
        let owners = listed.flat_map(|(index, weight)| std::iter::repeat_n(index, weight as usize)).collect();
        Weights { until, owners, total: Modulus::new(total) }
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.length()
    }

    /// Returns the owner of `unit`, which is below the total.
    #[inline]
    pub(crate) fn owner(&self, unit: u64) -> usize {
        match self.owners.get(unit as usize) {
            Some(index) => *index as usize,
            None => self.until.partition_point(|until| *until <= unit),
        }
    }

    /// Returns the owner of unit `number` modulo the total.
    #[inline]
    pub(crate) fn owner_modulo(&self, number: u32) -> usize {
        self.owner(self.total.remainder(number.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_unit_of_weight_has_its_owner(
            weights in proptest::collection::vec(1_u32..40, 1..20),
            heavy in proptest::option::of(70_000_u32..),
            number: u32,
        ) {
            let weights: Vec<u32> = weights.into_iter().chain(heavy).collect();
            let owners = Weights::new(weights.iter().copied());
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            proptest::prop_assert_eq!(owners.total(), total);
            let mut before = 0;
            for (index, weight) in weights.iter().enumerate() {
                proptest::prop_assert_eq!(owners.owner(before), index);
                before += u64::from(*weight);
                proptest::prop_assert_eq!(owners.owner(before - 1), index);
            }
            proptest::prop_assert_eq!(owners.owner_modulo(number), owners.owner(u64::from(number) % total));
        }
    }
}
