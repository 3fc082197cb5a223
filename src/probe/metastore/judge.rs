//! Who belongs to the cluster? What is known of all nodes in, a word on each out. Pure.

use crate::kylin::identity::{Difference, Evidence, Identity};

/// What is known of a node.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Was it looked at, whatever came of that?
    pub(super) checked: bool,
    pub(super) evidence: Evidence,
    /// The number of the look that was the last, over all nodes.
    pub(super) seen: u64,
    /// Was the last word that it is in?
    admitted: bool,
    /// The number of the look since which its projects are not those of the others.
    suspected: Option<u64>,
}

/// The word on a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is too early for one.
    Open,
    In,
    Out(Difference),
}

/// What is worth a line in the log when it is so for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remark {
    /// Every node contradicts the configured reference.
    Contradicted,
    /// Nothing is known of any node.
    Blind,
}

#[derive(Debug)]
pub(super) struct Judge {
    configured: Option<Evidence>,
    /// What the nodes themselves have, by their majority; kept as long as one of them has it.
    elected: Option<Evidence>,
    pub(super) remark: Option<Remark>,
    /// Should all nodes be looked at again, soon?
    pub(super) in_doubt: bool,
}

impl Judge {
    pub(super) fn new(configured: Option<Evidence>) -> Self {
        Judge { configured, elected: None, remark: None, in_doubt: false }
    }

    /// Rules on all nodes, which are in the order of configuration.
    pub(super) fn rule(&mut self, nodes: &mut [&mut Node]) -> Vec<Ruling> {
        self.remark = self.remark_on(nodes);
        let measure = match &self.configured {
            Some(configured) if self.remark != Some(Remark::Contradicted) => Some(configured.clone()),
            _ => {
                self.elect(nodes);
                self.elected.clone()
            }
        };
        let opinions: Vec<Option<Identity>> = nodes
            .iter()
            .map(|node| match &measure {
                _ if !node.checked => None,
                _ if node.evidence.is_empty() => Some(Identity::Unknown),
                measure => measure.as_ref().map(|measure| node.evidence.compare(measure)),
            })
            .collect();
        let same = |(node, opinion): (&&mut Node, _)| (opinion == &Some(Identity::Same)).then_some(node.seen);
        let confirmed = nodes.iter().zip(&opinions).filter_map(same).max();
        let now = nodes.iter().map(|node| node.seen).max().unwrap_or(0);
        self.in_doubt = false;
        let rulings = nodes.iter_mut().zip(opinions).map(|(node, opinion)| {
            let ruling = match opinion {
                None => Ruling::Open,
                Some(Identity::Different(Difference::Project(name))) if node.admitted => {
                    // A project that is dropped and made again has another id, and this may be the first node to show it. Only
                    // when another was seen later that still has the old one it is this node that is another.
                    self.in_doubt |= node.suspected.is_none();
                    let since = *node.suspected.get_or_insert(now);
                    if confirmed > Some(since) { Ruling::Out(Difference::Project(name)) } else { Ruling::Open }
                }
                Some(Identity::Different(difference)) => Ruling::Out(difference),
                Some(_) => Ruling::In,
            };
            if ruling != Ruling::Open {
                (node.admitted, node.suspected) = (ruling == Ruling::In, None);
            }
            ruling
        });
        rulings.collect()
    }

    fn remark_on(&self, nodes: &[&mut Node]) -> Option<Remark> {
        let all_checked = nodes.iter().all(|node| node.checked);
        let blind = !nodes.is_empty() && all_checked && nodes.iter().all(|node| node.evidence.is_empty());
        let contradicted = !nodes.is_empty()
            && self.configured.as_ref().is_some_and(|configured| {
                nodes
                    .iter()
                    .all(|node| node.checked && matches!(node.evidence.compare(configured), Identity::Different(_)))
            });
        match (contradicted, blind) {
            (true, _) => Some(Remark::Contradicted),
            (_, true) => Some(Remark::Blind),
            _ => None,
        }
    }

    /// Sees to it that a measure is at hand that some node has, if enough is known for one.
    fn elect(&mut self, nodes: &[&mut Node]) {
        let known = || nodes.iter().filter(|node| node.checked && !node.evidence.is_empty());
        if let Some(elected) = &mut self.elected {
            if let Some(same) = known().find(|node| node.evidence.compare(elected) == Identity::Same) {
                // What is known of a metastore grows: a node may show signs that others did not.
                elected.add(&same.evidence);
                return;
            }
            if known().next().is_none() {
                return;
            }
        }
        // Each with the first node that is alike, and how many are.
        let mut groups: Vec<(&Evidence, usize)> = Vec::new();
        for node in known() {
            match groups.iter_mut().find(|(first, _)| node.evidence.compare(first) == Identity::Same) {
                Some((_, count)) => *count += 1,
                None => groups.push((&node.evidence, 1)),
            }
        }
        // The first of those with the most.
        let Some((first, count)) = groups.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best })
        else {
            return;
        };
        let settled = nodes.iter().all(|node| node.checked) || 2 * count > nodes.len();
        self.elected = settled.then(|| first.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kylin::metadata_url::MetadataUrl;

    fn at(url: &str) -> Node {
        let mut node = Node { checked: true, ..Node::default() };
        node.evidence.learn_url(MetadataUrl::parse(url));
        node
    }

    fn silent() -> Node {
        Node { checked: true, ..Node::default() }
    }

    fn early() -> Node {
        Node::default()
    }

    /// `i` in, `o` out, `?` open.
    fn rule(judge: &mut Judge, nodes: &[Node]) -> String {
        let mut nodes: Vec<Node> = nodes
            .iter()
            .map(|Node { checked, evidence, .. }| Node {
                checked: *checked,
                evidence: evidence.clone(),
                ..Node::default()
            })
            .collect();
        rule_on(judge, &mut nodes)
    }

    fn rule_on(judge: &mut Judge, nodes: &mut [Node]) -> String {
        let word = |ruling: Ruling| match ruling {
            Ruling::Open => '?',
            Ruling::In => 'i',
            Ruling::Out(_) => 'o',
        };
        judge.rule(&mut nodes.iter_mut().collect::<Vec<_>>()).into_iter().map(word).collect()
    }

    fn configured(url: &str) -> Judge {
        Judge::new(Some(at(url).evidence))
    }

    #[test]
    fn the_majority_is_the_measure_and_the_first_at_a_tie() {
        let fresh = || Judge::new(None);
        assert_eq!(rule(&mut fresh(), &[at("b@jdbc"), at("a@jdbc"), at("a@jdbc")]), "oii");
        assert_eq!(rule(&mut fresh(), &[at("b@jdbc"), at("a@jdbc")]), "io");
        assert_eq!(rule(&mut fresh(), &[at("b@jdbc"), at("a@jdbc"), at("c@jdbc"), at("a@jdbc")]), "oioi");
        assert_eq!(rule(&mut fresh(), &[]), "");
        assert_eq!(rule(&mut fresh(), &[at("b@jdbc")]), "i");
    }

    #[test]
    fn what_is_not_known_keeps_nobody_out() {
        let mut judge = Judge::new(None);
        assert_eq!(rule(&mut judge, &[silent(), silent()]), "ii");
        assert_eq!(judge.remark, Some(Remark::Blind));
        assert_eq!(rule(&mut judge, &[silent(), at("a@jdbc"), at("b@jdbc")]), "iio");
        assert_eq!(judge.remark, None);
        assert_eq!(rule(&mut configured("a@jdbc"), &[silent(), at("b@jdbc")]), "io");
    }

    #[test]
    fn nodes_are_counted_when_all_were_looked_at_or_most_agree() {
        let mut judge = Judge::new(None);
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), early(), early()]), "???");
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), silent(), early()]), "?i?");
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), at("a@jdbc"), early()]), "ii?");
        assert_eq!(rule(&mut configured("a@jdbc"), &[at("a@jdbc"), early(), at("b@jdbc")]), "i?o");
    }

    #[test]
    fn the_measure_holds_against_any_number_of_newcomers_while_one_node_has_it() {
        let mut judge = Judge::new(None);
        assert_eq!(rule(&mut judge, &[at("a@jdbc")]), "i");
        assert_eq!(rule(&mut judge, &[at("b@jdbc"), at("b@jdbc"), at("a@jdbc"), at("b@jdbc")]), "ooio");
        assert_eq!(rule(&mut judge, &[at("b@jdbc"), at("c@jdbc"), at("b@jdbc")]), "ioi", "counted anew");
        // While nobody says anything the measure is not forgotten.
        assert_eq!(rule(&mut judge, &[silent()]), "i");
        assert_eq!(rule(&mut judge, &[at("c@jdbc"), at("b@jdbc")]), "oi");
    }

    #[test]
    fn a_reference_that_all_contradict_is_a_mistake() {
        let mut judge = configured("x@jdbc");
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), early()]), "o?");
        assert_eq!(rule(&mut judge, &[at("b@jdbc"), at("a@jdbc"), at("a@jdbc")]), "oii");
        assert_eq!(judge.remark, Some(Remark::Contradicted));
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), at("x@jdbc")]), "oi");
        assert_eq!(judge.remark, None);
    }

    #[test]
    fn what_one_node_shows_counts_for_those_that_are_like_it() {
        let mut by_both = at("a@jdbc");
        by_both.evidence.learn_projects(br#"[{"name":"p","uuid":"1"}]"#).unwrap();
        let mut judge = Judge::new(None);
        assert_eq!(rule(&mut judge, &[by_both]), "i");
        let mut by_project = silent();
        by_project.evidence.learn_projects(br#"[{"name":"p","uuid":"2"}]"#).unwrap();
        assert_eq!(rule(&mut judge, &[at("a@jdbc"), by_project]), "io");
    }

    #[test]
    fn a_project_that_is_made_again_throws_nobody_out_but_a_node_that_alone_has_another_goes() {
        let show = |node: &mut Node, look, uuid: &str| {
            (node.checked, node.seen) = (true, look);
            let projects = format!(r#"[{{"name":"p","uuid":"{uuid}"}}]"#);
            let mut evidence = Evidence::default();
            evidence.learn_projects(projects.as_bytes()).unwrap();
            node.evidence.renew(evidence);
        };
        let mut judge = Judge::new(None);
        let mut nodes = [silent(), silent(), silent()];
        for (look, node) in (1..).zip(&mut nodes) {
            show(node, look, "old");
        }
        assert_eq!(rule_on(&mut judge, &mut nodes), "iii");
        show(&mut nodes[1], 4, "new");
        assert_eq!((rule_on(&mut judge, &mut nodes), judge.in_doubt), ("i?i".to_owned(), true));
        show(&mut nodes[0], 5, "new");
        assert_eq!(rule_on(&mut judge, &mut nodes), "??i");
        show(&mut nodes[2], 6, "new");
        assert_eq!((rule_on(&mut judge, &mut nodes), judge.in_doubt), ("iii".to_owned(), false));

        show(&mut nodes[1], 7, "another");
        assert_eq!(rule_on(&mut judge, &mut nodes), "i?i");
        show(&mut nodes[2], 8, "new");
        assert_eq!(rule_on(&mut judge, &mut nodes), "ioi");
        assert_eq!(rule_on(&mut judge, &mut nodes), "ioi");
        show(&mut nodes[1], 9, "new");
        assert_eq!(rule_on(&mut judge, &mut nodes), "iii");
    }

    proptest::proptest! {
        #[test]
        fn somebody_is_always_in_once_all_were_looked_at(
            rounds in proptest::collection::vec(proptest::collection::vec(0_u8..5, 1..6), 1..6),
            reference in 0_u8..5,
        ) {
            let node = |kind: &u8| if *kind == 0 { silent() } else { at(&format!("m{kind}@jdbc")) };
            let mut judge = if reference == 0 { Judge::new(None) } else { configured(&format!("m{reference}@jdbc")) };
            for round in rounds {
                let words = rule(&mut judge, &round.iter().map(node).collect::<Vec<_>>());
                proptest::prop_assert!(words.contains('i') && !words.contains('?'), "{round:?} {words}");
            }
        }
    }
}
