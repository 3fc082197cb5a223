//! "Did you mean": the known word nearest to a mistyped one.

/// The candidate that is fewest edits away, if that is few for a word of its length.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Nobody mistypes a name of this length, and the distance costs its square.
    if word.len() > 64 {
        return None;
    }
    let most = 1 + word.len() / 5;
    let with_distance =
        candidates.into_iter().map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate));
    with_distance
        .filter(|&(distance, _)| distance <= most)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Damerau's distance with adjacent transpositions: `wieght` is one edit from `weight`.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (above[j + 1] + 1).min(row[j] + 1).min(above[j] + usize::from(x != y));
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found_and_far_ones_are_not() {
        assert_eq!(nearest("wieght", ["weight", "backup"]), Some("weight"));
        assert_eq!(
            nearest("proxy_read_timout", ["proxy_send_timeout", "proxy_read_timeout"]),
            Some("proxy_read_timeout")
        );
        assert_eq!(nearest("frobnicate", ["weight", "backup"]), None);
        assert_eq!(distance(b"", b"abc"), 3);
    }
}
