//! Reads `location` blocks.

use std::collections::HashSet;

use super::{Action, Location, Locations, Matcher, ProxyPass, Reply};
use crate::nginx::directives::catalogue::{self, Block, arg};
use crate::nginx::directives::context::ReadContext;
use crate::nginx::directives::left_out;
use crate::nginx::directives::settings::{BlockSettings, SettingsReader};
use crate::nginx::syntax::{Directive, Fault, Word};

/// Reads the locations among the directives of a block.
///
/// `outer` is the location around them, if there is one. `captures` says whether a regular
/// expression around them, or the server's name, gives `$1` a value.
pub(crate) fn read_all<'d>(
    block: impl IntoIterator<Item = &'d Directive>,
    outer: Option<&Matcher>,
    settings: &BlockSettings,
    captures: bool,
    context: &mut ReadContext<'_>,
) -> Result<Locations, Fault> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for directive in block.into_iter().filter(|directive| directive.is("location")) {
        let (matcher, word) = Matcher::read(directive)?;
        let is_exact = matches!(matcher, Matcher::Exact(_));
        let is_regex = matches!(matcher, Matcher::Regex(_));
        let is_named = matches!(matcher, Matcher::Named(_));
        if !is_regex && !seen.insert((is_exact, matcher.text().to_owned())) {
            return Err(word.span.duplicate(format!("duplicate location \"{}\"", word.text), "another path"));
        }
        match outer {
            Some(Matcher::Exact(path)) => {
                let message = format!("location \"{}\" cannot be inside the exact location \"{path}\"", word.text);
                return Err(word.span.misplaced(message, "this location beside the exact one"));
            }
            Some(_) if is_named => {
                let message = format!("location \"{}\" inside another location", word.text);
                return Err(word.span.misplaced(message, "a named location beside the others"));
            }
            Some(outer) if !is_regex && !matcher.text().starts_with(outer.text()) => {
                let message = format!("location \"{}\" is outside location \"{}\"", word.text, outer.text());
                return Err(word.span.misplaced(message, "a path that begins with the outer location's"));
            }
            _ => {}
        }
        all.push(read(directive, matcher, settings, captures || is_regex, context)?);
    }
    Ok(Locations::new(all))
}

fn read(
    directive: &Directive,
    matcher: Matcher,
    settings: &BlockSettings,
    captures: bool,
    context: &mut ReadContext<'_>,
) -> Result<Location, Fault> {
    let block = directive.block.as_deref().unwrap_or_default();
    if let Some(reason) = left_out::location(block) {
        context
            .remarks
            .note(directive.span(), format!("location {matcher} is left out, its response is 404: {reason}"));
        let number = context.next_location();
        let nested = read_all(block, Some(&matcher), settings, captures, context)?;
        let (action, settings) = (Action::LeftOut(reason), settings.clone());
        return Ok(Location { number, matcher, action, settings, nested });
    }
    let block = catalogue::modelled(block, Block::Location, &mut context.remarks)?;
    let mut level = SettingsReader::inside(settings);
    let (mut pass, mut reply) = (None, None);
    for &inner in &block {
        let is_unset = |word: &&Word| !captures && !inner.is("location") && has_capture(word);
        if let Some(word) = inner.args.iter().find(is_unset) {
            let message = "a capture, but neither the location nor the server's name is a regular expression";
            return Err(word.span.value(message, "location ~ EXPRESSION"));
        }
        match inner.name.text.as_str() {
            "location" => {}
            "proxy_pass" => {
                level.once(inner)?;
                pass = Some(arg(inner)?);
            }
            "return" => {
                level.once(inner)?;
                reply = Some(Reply::read(inner, &context.maps)?);
            }
            name @ ("keepalive_timeout" | "send_timeout") => {
                level.read(inner, context)?;
                let text = format!("{name} in a location: that of the address's default server applies");
                context.remarks.note(inner.span(), text);
            }
            _ => level.read(inner, context)?,
        }
    }
    // nginx runs `return` before it would pass the request.
    let action = match (reply, pass) {
        (Some(reply), _) => Action::Return(reply),
        (None, Some(word)) => Action::Proxy(ProxyPass::read(word, &matcher, &level.settings, context)?),
        (None, None) => {
            let message = "location with neither proxy_pass nor return: static files are not served";
            return Err(directive.span().missing(message, "proxy_pass http://UPSTREAM; or return CODE;"));
        }
    };
    let number = context.next_location();
    let nested = read_all(block, Some(&matcher), &level.settings, captures, context)?;
    Ok(Location { number, matcher, action, settings: level.settings, nested })
}

fn has_capture(word: &Word) -> bool {
    let text = word.text.as_bytes();
    text.windows(2).any(|pair| matches!(pair, [b'$', b'1'..=b'9']))
        || text.windows(3).any(|three| matches!(three, [b'$', b'{', b'1'..=b'9']))
}
