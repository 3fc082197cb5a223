//! Finds names that are not directives, also in blocks that are left out.

use super::ignored::{IGNORED_UNLESS_ON, ignored};
use super::{Block, IGNORED_WITH, MODELLED, NOTED, OF_OTHER_MODULES, REFUSED, is_ignored, usage};
use crate::nginx::directives::left_out::HANDLERS;
use crate::nginx::syntax::{Directive, Fault, Word, nearest};

/// Checks the names of the directives in a block that is left out. Directives of other modules may
/// be unknown.
///
/// # Errors
/// A directive is unknown, and its name resembles a known one.
pub(crate) fn check_names(directives: &[Directive]) -> Result<(), Fault> {
    let lists = NOTED.iter().chain(REFUSED).flat_map(|(names, _)| names.split(' '));
    let with_value = IGNORED_WITH.iter().map(|(name, ..)| *name).chain(IGNORED_UNLESS_ON.iter().map(|(name, _)| *name));
    let modelled = MODELLED.iter().map(|(name, ..)| *name);
    let known: Vec<_> = lists.chain(with_value).chain(modelled).chain(HANDLERS).chain(OF_OTHER_MODULES).collect();
    check_names_of(directives, &known)
}

fn check_names_of(directives: &[Directive], known: &[&str]) -> Result<(), Fault> {
    for directive in directives.iter().filter(|directive| !directive.in_comment) {
        let name = directive.name.text.as_str();
        let is_known = known.contains(&name) || is_ignored(name) || name.ends_with("ssl_conf_command");
        if !is_known && let Some(meant) = nearest(name, known.iter().copied()) {
            return Err(misspelt(directive, meant));
        }
        // Inner locations are read separately.
        if matches!(name, "if" | "limit_except") {
            check_names_of(directive.block.as_deref().unwrap_or_default(), known)?;
        }
    }
    Ok(())
}

fn misspelt(directive: &Directive, meant: &str) -> Fault {
    let usage = Some(usage(meant)).filter(|usage| !usage.is_empty()).unwrap_or(meant);
    let message = format!("unknown directive \"{}\", did you mean \"{meant}\"?", directive.name.text);
    directive.span().unknown(message, usage).misspelt()
}

/// Returns the error for an unknown directive.
pub(super) fn unknown(directive: &Directive, block: Block) -> Fault {
    let name = &directive.name.text;
    let here = || MODELLED.iter().filter(|(_, blocks, _)| blocks & block as u8 != 0).map(|(known, ..)| *known);
    let ignored = ignored().filter(|name| block != Block::Upstream && !name.ends_with('*'));
    if let Some(meant) = nearest(name, here().chain(ignored)) {
        return misspelt(directive, meant);
    }
    let expected = format!("one of: {}", here().collect::<Vec<_>>().join(", "));
    directive.span().unknown(format!("unknown directive \"{name}\" {}", block.phrase()), expected)
}

/// Returns the error for a directive without its `;`, whose arguments include the next directive.
/// Returns `None` if no argument is one.
pub(in crate::nginx::directives) fn unended(directive: &Directive) -> Option<Fault> {
    let is_known =
        |word: &&Word| MODELLED.iter().map(|(known, ..)| *known).chain(ignored()).any(|known| known == word.text);
    let mut later = directive.args.iter().filter(|word| word.span.line > directive.span().line);
    let next = later.find(is_known)?;
    let name = &directive.name.text;
    let message = format!("\"{}\" inside \"{name}\", which is not ended", next.text);
    Some(next.span.syntax(message, format!("\";\" at the end of \"{name}\", in front of it")))
}
