//! The servers' `# kylin_lb:` comments, which apply to the upstreams that their locations pass
//! requests to.

use std::collections::{BTreeSet, HashMap};

use super::{Directive, Fault, Server, Span, Upstream};
use crate::nginx::directives::comments::CommentOptions;
use crate::nginx::directives::location::{Action, Locations};

/// Returns, for each group, the comments of the servers whose locations pass requests to it.
///
/// # Errors
/// [`Fault`] if a comment applies to no group, or two servers contradict each other.
pub(super) fn server_comments(
    http: &[Directive],
    servers: &[(Server, Span)],
    targets: &[BTreeSet<usize>],
    upstreams: &[Upstream],
) -> Result<Vec<CommentOptions>, Fault> {
    let mut merged = vec![CommentOptions::default(); upstreams.len()];
    let by_span: HashMap<Span, &BTreeSet<usize>> = servers.iter().map(|(_, span)| *span).zip(targets).collect();
    for directive in http.iter().filter(|directive| directive.is("server")) {
        // A server that is left out passes requests to none.
        let targets = by_span.get(&directive.span()).into_iter().flat_map(|targets| targets.iter());
        check(directive, targets.map(|target| &upstreams[*target]))?;
    }
    for ((server, span), targets) in servers.iter().zip(targets) {
        for upstream in targets {
            merged[*upstream].merge(&server.comments).map_err(|name| {
                let message = format!("two servers set \"{name}\" of kylin_lb for one upstream, to different values");
                span.duplicate(message, format!("# kylin_lb: {name} ...; in the upstream"))
            })?;
        }
    }
    Ok(merged)
}

/// Checks that each comment of a server applies to one of `upstreams`.
fn check<'u>(server: &Directive, upstreams: impl Iterator<Item = &'u Upstream> + Clone) -> Result<(), Fault> {
    let block = server.block.as_deref().unwrap_or_default();
    for comment in block.iter().filter(|inner| inner.in_comment) {
        let name = comment.name.text.as_str();
        if upstreams.clone().next().is_none() {
            let message = "a \"# kylin_lb:\" comment in a server that passes requests to no upstream";
            let expected = "the comment in a server with proxy_pass, or in an upstream";
            return Err(comment.span().misplaced(message, expected));
        }
        if upstreams.clone().all(|upstream| upstream.overrides(name)) {
            let message = format!("{name} of kylin_lb, which a directive in each upstream of the server overrides");
            return Err(comment.span().duplicate(message, "one of the two"));
        }
    }
    Ok(())
}

/// Returns the positions of the groups that the locations of a server pass requests to.
pub(super) fn targets(server: &Server) -> BTreeSet<usize> {
    let mut targets = BTreeSet::new();
    collect_targets(&server.locations, &mut targets);
    targets
}

fn collect_targets(locations: &Locations, targets: &mut BTreeSet<usize>) {
    for location in locations.iter() {
        targets.extend(location.forms().iter().filter_map(|form| match &form.action {
            Action::Proxy(pass) => Some(pass.upstream),
            Action::Return(_) | Action::Named(_) | Action::LeftOut(_) => None,
        }));
        collect_targets(&location.nested, targets);
    }
}
