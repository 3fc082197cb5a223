//! The patterns of a guard, compiled.

use std::net::IpAddr;

use http::Method;
use ipnet::IpNet;

use super::{Denied, Guard, READABLE, segment_matches};
use crate::kylin::path::NormalizedPath;

/// The number of a path's segments that patterns are compared with. No path of Kylin has more.
const MAX_SEGMENTS: usize = 24;

/// The closed paths as a trie over segments. The common beginning of several patterns is compared
/// once, and most requests leave the trie at the second segment.
#[derive(Debug)]
pub(crate) struct ClosedPaths {
    nodes: Vec<Node>,
    trusted: Vec<IpNet>,
}

/// A node of the trie: the patterns with a common beginning.
#[derive(Debug, Default)]
struct Node {
    /// The patterns whose next segment has no `*`, by that segment.
    literals: Vec<(Box<str>, usize)>,
    /// The patterns whose next segment has a `*`, by that segment.
    globs: Vec<(Box<str>, usize)>,
    /// The patterns whose next segment is `**`.
    any: Option<usize>,
    /// The pattern that ends here: its number, and the reason of its rule.
    end: Option<Rule>,
}

/// If several rules match, the first one counts. Only the reason shows which one matched.
type Rule = (usize, &'static str);

impl ClosedPaths {
    pub(crate) fn new(guard: &Guard) -> Self {
        let mut closed = ClosedPaths { nodes: vec![Node::default()], trusted: guard.trusted.clone() };
        for (number, rule) in guard.rules.iter().enumerate() {
            let mut at = 0;
            for segment in &rule.pattern {
                at = closed.child(at, segment);
            }
            closed.nodes[at].end.get_or_insert((number, rule.reason));
        }
        closed
    }

    /// Returns the child node for `segment`, which is created if it is new.
    fn child(&mut self, parent: usize, segment: &str) -> usize {
        let new = self.nodes.len();
        let node = &mut self.nodes[parent];
        let child = match segment {
            "**" => *node.any.get_or_insert(new),
            segment => {
                let children = if segment.contains('*') { &mut node.globs } else { &mut node.literals };
                let known = children.iter().find(|(known, _)| **known == *segment).map(|(_, child)| *child);
                known.unwrap_or_else(|| {
                    children.push((segment.into(), new));
                    new
                })
            }
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// Checks whether `client` may send this request. A client on a unix socket has no address and
    /// is not trusted.
    pub(crate) fn check(
        &self,
        client: Option<IpAddr>,
        method: &Method,
        path: &NormalizedPath<'_>,
    ) -> Result<(), Denied> {
        let Some(below) = path.as_str().strip_prefix("/kylin/") else { return Ok(()) };
        let mut all = [""; MAX_SEGMENTS];
        let segments = split(below, &mut all);
        let Some((_, reason)) = self.find(&self.nodes[0], segments) else { return Ok(()) };
        let is_readable =
            matches!(*method, Method::GET | Method::HEAD) && READABLE.split('/').eq(segments.iter().copied());
        let is_trusted = client.is_some_and(|ip| self.trusted.iter().any(|net| net.contains(&ip.to_canonical())));
        if is_readable || is_trusted { Ok(()) } else { Err(Denied { reason }) }
    }

    /// Returns the first rule whose pattern, from `node` on, matches the path. The last segment
    /// also matches with a suffix such as `.json`, because Spring before 5.3 treats `/spark.json`
    /// as `/spark`.
    fn find(&self, node: &Node, path: &[&str]) -> Option<Rule> {
        let mut found = if path.is_empty() { node.end } else { None };
        if let Some(any) = node.any.map(|any| &self.nodes[any]) {
            let behind = match any.is_leaf() {
                true => any.end,
                false => (0..=path.len()).filter_map(|skipped| self.find(any, &path[skipped..])).min(),
            };
            found = first(found, behind);
        }
        let Some((&segment, rest)) = path.split_first() else { return found };
        let stem = if rest.is_empty() { stem(segment) } else { None };
        let is_segment = |text: &str| text == segment || stem.is_some_and(|stem| text == stem);
        for (_, child) in node.literals.iter().filter(|(literal, _)| is_segment(literal)) {
            found = first(found, self.find(&self.nodes[*child], rest));
        }
        let matches =
            |glob: &str| segment_matches(glob, segment) || stem.is_some_and(|stem| segment_matches(glob, stem));
        for (_, child) in node.globs.iter().filter(|(glob, _)| matches(glob)) {
            found = first(found, self.find(&self.nodes[*child], rest));
        }
        found
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.literals.is_empty() && self.globs.is_empty() && self.any.is_none()
    }
}

fn first(one: Option<Rule>, other: Option<Rule>) -> Option<Rule> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Returns the segment without its last dot and the text after it.
fn stem(segment: &str) -> Option<&str> {
    let dot = segment.bytes().rposition(|byte| byte == b'.')?;
    Some(&segment[..dot])
}

/// Splits a path into its non-empty segments, at most as many as `all` holds.
fn split<'s, 'p>(path: &'p str, all: &'s mut [&'p str; MAX_SEGMENTS]) -> &'s [&'p str] {
    let (mut len, mut begin) = (0, 0);
    for end in 0..=path.len() {
        if path.as_bytes().get(end).is_none_or(|byte| *byte == b'/') {
            if end > begin && len < MAX_SEGMENTS {
                all[len] = &path[begin..end];
                len += 1;
            }
            begin = end + 1;
        }
    }
    &all[..len]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::OUTSIDE;
    use super::*;

    proptest! {
        /// The trie agrees with the list that it is compiled from.
        #[test]
        fn the_compiled_patterns_match_what_the_list_matches(
            path in "/kylin(/(api|cache|cachex|jobs|spark|stage|status|epoch|maintenance_mode|snapshotLocalCache|system|backup|x|x1y|z|\
                user|update_user|metastore|cleanup_a|kg|a\\.b)){0,6}(\\.json|\\.)?/?",
            method in "GET|PUT|HEAD",
            own in proptest::collection::vec("(/(api|x|z|a\\.b|\\*|x\\*y|\\*\\*|c\\*e\\*)){1,4}", 0..3),
            version in 0..3_usize,
        ) {
            let mut guard = Guard::new();
            if let Some(version) = [None, Some(crate::kylin::KylinVersion::V4), Some(crate::kylin::KylinVersion::V5)][version] {
                guard = guard.version(version);
            }
            for pattern in &own {
                guard = guard.close(pattern).unwrap();
            }
            let (method, path) = (method.parse().unwrap(), NormalizedPath::parse(&path).unwrap());
            let compiled = ClosedPaths::new(&guard).check(OUTSIDE, &method, &path);
            prop_assert_eq!(compiled, guard.check(OUTSIDE, &method, &path));
        }
    }

    #[test]
    fn empty_segments_and_those_beyond_the_limit_do_not_count() {
        let mut all = [""; MAX_SEGMENTS];
        assert_eq!(split("a//b/", &mut all), ["a", "b"]);
        assert_eq!(split("", &mut all), [""; 0]);
        assert_eq!(split(&"x/".repeat(30), &mut all).len(), MAX_SEGMENTS);
    }
}
