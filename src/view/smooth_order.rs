use super::max_list_len;

/// Returns one round of nginx's smooth weighted round robin over `(index, weight)` in configuration
/// order.
///
/// nginx adds every peer's weight to its current weight, picks the highest (the first among equals)
/// and subtracts the total from it (ngx_http_upstream_get_peer). So before pick t, the current
/// weight of peer i is `t * w_i - total * picks_i`. Among peers of equal weight, the one with the
/// fewest picks leads; among those, the first in order. So only the leaders of the *distinct*
/// weights need to be compared, which makes this fast for thousands of endpoints.
pub(super) fn smooth_order(ready: &[(u32, u32)]) -> Vec<u32> {
    struct WeightClass {
        weight: u64,
        members: Vec<u32>,
        picks: u64,
    }

    let mut classes: Vec<WeightClass> = Vec::new();
    for (index, weight) in scaled(ready) {
        match classes.iter_mut().find(|class| class.weight == weight) {
            Some(class) => class.members.push(index),
            None => classes.push(WeightClass { weight, members: vec![index], picks: 0 }),
        }
    }
    let total: u64 = classes.iter().map(|class| class.weight * class.members.len() as u64).sum();
    let mut order = Vec::with_capacity(total as usize);
    for pick in 1..=total {
        let current_weight = |class: &WeightClass| {
            let size = class.members.len() as u64;
            let (rounds, next) = (class.picks / size, (class.picks % size) as usize);
            let current = i128::from(pick) * i128::from(class.weight) - i128::from(total) * i128::from(rounds);
            (current, std::cmp::Reverse(class.members[next]))
        };
        let Some(leader) = classes.iter_mut().max_by_key(|class| current_weight(class)) else { break };
        order.push(leader.members[(leader.picks % leader.members.len() as u64) as usize]);
        leader.picks += 1;
    }
    order
}

/// Returns the weights divided by their greatest common divisor, and scaled down if one round would
/// still be too long to keep.
fn scaled(ready: &[(u32, u32)]) -> Vec<(u32, u64)> {
    let divisor = ready.iter().fold(0, |gcd, (_, weight)| greatest_common_divisor(gcd, u64::from(*weight))).max(1);
    let total: u64 = ready.iter().map(|(_, weight)| u64::from(*weight) / divisor).sum();
    let limit = max_list_len(ready.len());
    let scale = |weight: u64| match total {
        total if total <= limit => weight,
        total => (weight * limit / total).max(1),
    };
    ready.iter().map(|(index, weight)| (*index, scale(u64::from(*weight) / divisor))).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(weights: &[u32]) -> String {
        let ready: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
        smooth_order(&ready).into_iter().map(|index| char::from(b'a' + index as u8)).collect()
    }

    /// nginx's loop, statement by statement.
    fn nginx_order(weights: &[u32]) -> Vec<u32> {
        let total: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
        let mut current = vec![0_i64; weights.len()];
        (0..total)
            .map(|_| {
                let mut best = 0;
                for i in 0..weights.len() {
                    current[i] += i64::from(weights[i]);
                    if current[i] > current[best] {
                        best = i;
                    }
                }
                current[best] -= total;
                best as u32
            })
            .collect()
    }

    #[test]
    fn smooth_order_equals_the_golden_sequences_of_nginx() {
        assert_eq!(order(&[5, 1, 1]), "aabacaa");
        assert_eq!(order(&[4, 2, 1]), "abacaba");
        assert_eq!(order(&[3, 2]), "ababa");
        assert_eq!(order(&[1, 1, 1]), "abc");
        assert_eq!(order(&[100, 100]), "ab", "a common divisor shortens the round");
        assert_eq!(order(&[]), "");
    }

    #[test]
    fn a_huge_round_is_scaled_down_and_keeps_its_shares() {
        let order = smooth_order(&[(0, u32::MAX), (1, u32::MAX / 3), (2, 1)]);
        assert!(order.len() as u64 <= max_list_len(3) + 3);
        let share = |index| order.iter().filter(|at| **at == index).count() as f64 / order.len() as f64;
        assert!((share(0) - 0.75).abs() < 0.001);
        assert!(share(2) > 0.0, "the lightest endpoint gets its share");
    }

    proptest::proptest! {
        #[test]
        fn smooth_order_equals_nginx_for_any_weights(weights in proptest::collection::vec(1_u32..30, 1..20)) {
            let ready: Vec<(u32, u32)> = (0..).zip(weights.iter().copied()).collect();
            let ours = smooth_order(&ready);
            let nginx = nginx_order(&weights);
            // With a common divisor, nginx repeats this round.
            proptest::prop_assert!(nginx.chunks(ours.len()).all(|round| round == ours));
        }
    }
}
