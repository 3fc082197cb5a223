//! Decides which nodes are quarantined, as a pure function of the evidence of all nodes.

use std::cmp::Reverse;

use crate::endpoint::EndpointId;
use crate::kylin::MetadataUrl;
use crate::kylin::node::identity::{Comparison, Difference, Evidence};

/// The identity with which nodes are compared.
#[derive(Debug, Clone)]
pub(super) enum Reference {
    Majority,
    Url(MetadataUrl),
    Node(EndpointId),
}

/// The known facts of one node.
#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) id: EndpointId,
    pub(super) evidence: Evidence,
    /// Whether the node was checked, with any result.
    pub(super) checked: bool,
    /// Whether this check has admitted the node.
    pub(super) admitted: bool,
    /// Whether its projects contradict the reference since the last complete check.
    pub(super) suspected: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeDecision {
    /// No decision is possible yet, so the node stays as it is.
    Undecided,
    Admit,
    Quarantine(Difference),
}

/// A reason to warn the operator that the check is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Limitation {
    #[error("no endpoint shows its metastore, so none is quarantined; Kylin 2 to 4 show it to an administrator only")]
    NoEvidence,
    #[error("as many endpoints have one metastore as have another, so none is quarantined")]
    NoMajority,
    #[error("the reference endpoint does not show its metastore, so the majority of the endpoints is the reference")]
    NoReference,
    #[error("no endpoint has the configured metastore, so the majority of the endpoints is the reference")]
    Contradicted,
}

/// Decides on each node, in order. `complete` is false while checks of the current round are
/// outstanding. Nodes are then only admitted, and only if no outstanding check can change the
/// reference.
pub(super) fn decide(
    reference: &Reference,
    nodes: &mut [NodeRecord],
    complete: bool,
) -> (Vec<NodeDecision>, Option<Limitation>) {
    let (reference, limitation) = resolve(reference, nodes, complete);
    let decisions = nodes.iter_mut().map(|node| {
        let comparison = match &reference {
            Some(reference) if node.checked => node.evidence.compare(reference),
            _ => Comparison::Unknown,
        };
        let was_suspected = std::mem::take(&mut node.suspected);
        match comparison {
            Comparison::Same => NodeDecision::Admit,
            _ if !complete => {
                node.suspected = was_suspected;
                NodeDecision::Undecided
            }
            Comparison::Unknown => NodeDecision::Admit,
            // A project that is dropped and created again has another id, which one node may show
            // before the others. Only after all nodes were checked again is it clear that this node
            // differs.
            Comparison::Different(Difference::Project(_)) if node.admitted && !was_suspected => {
                node.suspected = true;
                NodeDecision::Undecided
            }
            Comparison::Different(difference) => NodeDecision::Quarantine(difference),
        }
    });
    (decisions.collect(), limitation)
}

/// Returns the identity to compare with, if one is known.
fn resolve(reference: &Reference, nodes: &[NodeRecord], complete: bool) -> (Option<Evidence>, Option<Limitation>) {
    let limitation = match reference {
        Reference::Majority => None,
        Reference::Url(url) => {
            let evidence = Evidence::of_url(url.clone());
            let contradicts = |node: &NodeRecord| matches!(node.evidence.compare(&evidence), Comparison::Different(_));
            if !complete || nodes.is_empty() || !nodes.iter().all(contradicts) {
                return (Some(evidence), None);
            }
            Some(Limitation::Contradicted)
        }
        Reference::Node(id) => match nodes.iter().find(|node| node.id == *id) {
            Some(node) if !node.evidence.is_empty() => return (Some(node.evidence.clone()), None),
            Some(node) if !node.checked => return (None, None),
            _ => Some(Limitation::NoReference),
        },
    };
    match majority(nodes, complete) {
        Ok(evidence) => (evidence, limitation),
        Err(majority_limitation) => (None, Some(limitation.unwrap_or(majority_limitation))),
    }
}

/// Returns the identity that most nodes share; `None` while outstanding checks can change it.
fn majority(nodes: &[NodeRecord], complete: bool) -> Result<Option<Evidence>, Limitation> {
    let known = || nodes.iter().filter(|node| !node.evidence.is_empty());
    let any_admitted = known().any(|node| node.admitted);
    let mut groups: Vec<(Evidence, usize)> = Vec::new();
    for node in known().filter(|node| node.admitted || !any_admitted) {
        match groups.iter_mut().find(|(evidence, _)| node.evidence.compare(evidence) == Comparison::Same) {
            Some((evidence, count)) => {
                evidence.merge(node.evidence.clone());
                *count += 1;
            }
            None => groups.push((node.evidence.clone(), 1)),
        }
    }
    groups.sort_by_key(|(_, count)| Reverse(*count));
    let Some((first, count)) = groups.first() else {
        return if complete && !nodes.is_empty() { Err(Limitation::NoEvidence) } else { Ok(None) };
    };
    let contradicts = |other: &Evidence| matches!(other.compare(first), Comparison::Different(_));
    if groups.iter().any(|(other, other_count)| other_count == count && contradicts(other)) {
        return if complete { Err(Limitation::NoMajority) } else { Ok(None) };
    }
    let settled = complete || any_admitted || 2 * count > nodes.len();
    Ok(settled.then(|| first.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> NodeRecord {
        NodeRecord {
            id: "x".parse().unwrap(),
            evidence: Evidence::default(),
            checked: true,
            admitted: false,
            suspected: false,
        }
    }

    fn unchecked() -> NodeRecord {
        NodeRecord { checked: false, ..silent() }
    }

    fn at(url: &str) -> NodeRecord {
        NodeRecord { evidence: Evidence::of_url(MetadataUrl::parse(url)), ..silent() }
    }

    fn serving(node: NodeRecord) -> NodeRecord {
        NodeRecord { admitted: true, ..node }
    }

    fn named(id: &str, node: NodeRecord) -> NodeRecord {
        NodeRecord { id: id.parse().unwrap(), ..node }
    }

    fn url(url: &str) -> Reference {
        Reference::Url(MetadataUrl::parse(url))
    }

    fn projects(id: &str) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.learn_projects(format!(r#"[{{"name":"p","uuid":"{id}"}}]"#).as_bytes()).unwrap();
        evidence
    }

    /// Decides; the round is complete if all nodes were checked. `a` is admitted, `q` quarantined,
    /// `?` undecided.
    fn decisions(reference: &Reference, nodes: &mut [NodeRecord]) -> (String, Option<Limitation>) {
        let complete = nodes.iter().all(|node| node.checked);
        let (decisions, limitation) = decide(reference, nodes, complete);
        let letter = |decision| match decision {
            NodeDecision::Undecided => '?',
            NodeDecision::Admit => 'a',
            NodeDecision::Quarantine(_) => 'q',
        };
        for (node, decision) in nodes.iter_mut().zip(&decisions) {
            node.admitted = *decision == NodeDecision::Admit || (node.admitted && *decision == NodeDecision::Undecided);
        }
        (decisions.into_iter().map(letter).collect(), limitation)
    }

    fn by_majority<const N: usize>(mut nodes: [NodeRecord; N]) -> String {
        decisions(&Reference::Majority, &mut nodes).0
    }

    #[test]
    fn the_majority_is_the_reference() {
        assert_eq!(by_majority([at("b@jdbc"), at("a@jdbc"), at("a@jdbc")]), "qaa");
        assert_eq!(by_majority([at("b@jdbc"), at("a@jdbc"), at("c@jdbc"), at("a@jdbc")]), "qaqa");
        assert_eq!(by_majority([]), "");
        assert_eq!(by_majority([at("b@jdbc")]), "a");
    }

    #[test]
    fn a_tie_quarantines_no_node_and_warns() {
        let decide = |nodes: &mut [NodeRecord]| decisions(&Reference::Majority, nodes);
        assert_eq!(decide(&mut [at("b@jdbc"), at("a@jdbc")]), ("aa".into(), Some(Limitation::NoMajority)));
        assert_eq!(decide(&mut [at("b@jdbc"), at("a@jdbc"), silent()]), ("aaa".into(), Some(Limitation::NoMajority)));
        let two_each = &mut [at("a@jdbc"), at("b@jdbc"), at("c@jdbc"), at("b@jdbc"), at("a@jdbc")];
        assert_eq!(decide(two_each), ("aaaaa".into(), Some(Limitation::NoMajority)));
        assert_eq!(decide(&mut [at("b@jdbc"), at("a@jdbc"), unchecked()]), ("???".into(), None), "too early");
        let different_evidence = &mut [at("a@jdbc"), NodeRecord { evidence: projects("1"), ..silent() }];
        assert_eq!(decide(different_evidence), ("aa".into(), None), "nothing is contradicted");
    }

    #[test]
    fn a_node_that_cannot_be_compared_is_not_quarantined() {
        let decide = |reference: &Reference, nodes: &mut [NodeRecord]| decisions(reference, nodes);
        let nothing_known = ("aa".into(), Some(Limitation::NoEvidence));
        assert_eq!(decide(&Reference::Majority, &mut [silent(), silent()]), nothing_known);
        let nodes = &mut [silent(), at("a@jdbc"), at("a@jdbc"), at("b@jdbc")];
        assert_eq!(decide(&Reference::Majority, nodes), ("aaaq".into(), None));
        assert_eq!(decide(&url("a@jdbc"), &mut [silent(), at("b@jdbc")]), ("aq".into(), None));
    }

    #[test]
    fn while_checks_are_outstanding_nodes_are_only_admitted_and_only_if_the_reference_is_certain() {
        assert_eq!(by_majority([at("a@jdbc"), unchecked(), unchecked()]), "???");
        assert_eq!(by_majority([at("a@jdbc"), silent(), unchecked()]), "???");
        assert_eq!(by_majority([at("a@jdbc"), at("a@jdbc"), unchecked()]), "aa?");
        assert_eq!(by_majority([serving(at("a@jdbc")), at("a@jdbc"), at("b@jdbc"), unchecked()]), "aa??");
        let configured = &mut [at("a@jdbc"), unchecked(), at("b@jdbc")];
        assert_eq!(decisions(&url("a@jdbc"), configured).0, "a??");
    }

    #[test]
    fn nodes_that_join_do_not_outvote_those_that_serve() {
        let right = || serving(at("a@jdbc"));
        assert_eq!(by_majority([at("b@jdbc"), at("b@jdbc"), right(), at("b@jdbc")]), "qqaq");
        assert_eq!(by_majority([right(), right(), serving(at("b@jdbc")), at("b@jdbc"), at("b@jdbc")]), "aaqqq");
        assert_eq!(by_majority([at("b@jdbc"), at("c@jdbc"), at("b@jdbc")]), "aqa", "none serves, so all count");
        assert_eq!(by_majority([serving(silent()), at("c@jdbc")]), "aa", "the one that serves shows nothing");
    }

    #[test]
    fn a_named_node_is_the_reference() {
        let reference = Reference::Node("q1".parse().unwrap());
        let others = || [at("a@jdbc"), at("a@jdbc")];
        let with = |node| {
            let mut nodes: Vec<_> = others().into_iter().collect();
            nodes.insert(0, named("q1", node));
            decisions(&reference, &mut nodes)
        };
        assert_eq!(with(at("b@jdbc")), ("aqq".into(), None));
        assert_eq!(with(unchecked()), ("???".into(), None));
        let mut nodes = [at("b@jdbc"), at("a@jdbc"), at("a@jdbc"), named("q1", silent())];
        assert_eq!(decisions(&reference, &mut nodes), ("qaaa".into(), Some(Limitation::NoReference)));
        assert_eq!(decisions(&reference, &mut others()), ("aa".into(), Some(Limitation::NoReference)));
    }

    #[test]
    fn a_configured_url_that_every_node_contradicts_is_a_mistake() {
        let reference = url("x@jdbc");
        assert_eq!(decisions(&reference, &mut [at("a@jdbc"), unchecked()]), ("??".into(), None));
        let nodes = &mut [at("b@jdbc"), at("a@jdbc"), at("a@jdbc")];
        assert_eq!(decisions(&reference, nodes), ("qaa".into(), Some(Limitation::Contradicted)));
        assert_eq!(decisions(&reference, &mut [at("a@jdbc"), at("x@jdbc")]), ("qa".into(), None));
    }

    #[test]
    fn nodes_of_one_metastore_complete_the_evidence_of_each_other() {
        let mut both = at("a@jdbc");
        both.evidence.merge(projects("1"));
        let by_project = NodeRecord { evidence: projects("2"), ..silent() };
        assert_eq!(by_majority([at("a@jdbc"), by_project, both]), "aqa");
    }

    #[test]
    fn a_project_that_is_created_again_quarantines_no_node_but_another_project_does() {
        let mut nodes = [silent(), silent(), silent()];
        let mut round = |shown: [&str; 3]| {
            for (node, id) in nodes.iter_mut().zip(shown) {
                node.evidence.merge(projects(id));
            }
            let (decisions, _) = decisions(&Reference::Majority, &mut nodes);
            decisions + if nodes.iter().any(|node| node.suspected) { " soon" } else { "" }
        };
        assert_eq!(round(["old", "old", "old"]), "aaa");
        assert_eq!(round(["old", "new", "old"]), "a?a soon");
        assert_eq!(round(["new", "new", "old"]), "aa? soon");
        assert_eq!(round(["new", "new", "new"]), "aaa");

        assert_eq!(round(["new", "another", "new"]), "a?a soon");
        assert_eq!(round(["new", "another", "new"]), "aqa");
        assert_eq!(round(["new", "another", "new"]), "aqa");
        assert_eq!(round(["new", "new", "new"]), "aaa");
    }

    proptest::proptest! {
        #[test]
        fn a_node_is_always_admitted_once_all_are_checked(
            rounds in proptest::collection::vec(proptest::collection::vec((0_u8..5, proptest::bool::ANY), 1..6), 1..6),
            reference in 0_u8..7,
        ) {
            let node = |(kind, admitted): &(u8, bool)| {
                let node = if *kind == 0 { silent() } else { at(&format!("m{kind}@jdbc")) };
                NodeRecord { admitted: *admitted, ..node }
            };
            let reference = match reference {
                0 => Reference::Majority,
                5 => Reference::Node("x".parse().unwrap()),
                6 => Reference::Node("gone".parse().unwrap()),
                kind => url(&format!("m{kind}@jdbc")),
            };
            for round in rounds {
                let (decisions, _) = decisions(&reference, &mut round.iter().map(node).collect::<Vec<_>>());
                proptest::prop_assert!(decisions.contains('a') && !decisions.contains('?'), "{round:?} {decisions}");
            }
        }
    }
}
