//! "Did you mean": the known word nearest to a mistyped one.

/// The longest word that a suggestion is looked for: the distance costs the square of its length.
const MAX_WORD_BYTES: usize = 64;

/// Returns `, did you mean "…"?` for the candidate nearest to `word`, or nothing.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    nearest(word, candidates).map(|meant| format!(", did you mean \"{meant}\"?")).unwrap_or_default()
}

/// Returns the candidate that is fewest edits away, if that is few for a word of its length.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > MAX_WORD_BYTES {
        return None;
    }
    let max_edits = 1 + word.len() / 5;
    let distances =
        candidates.into_iter().map(|candidate| (distance(word.as_bytes(), candidate.as_bytes()), candidate));
    let near = distances.filter(|&(edits, _)| edits <= max_edits);
    near.min_by_key(|&(edits, _)| edits).map(|(_, candidate)| candidate)
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
