//! Reads `location` blocks.

use std::collections::HashSet;

use super::super::directives::{self, Block, Verdict};
use super::super::error::{ErrorKind, Fault};
use super::super::level::{Level, words};
use super::super::lexer::Word;
use super::super::parser::Directive;
use super::super::reader::Reader;
use super::super::settings::Settings;
use super::*;

/// Reads the locations among the directives of a block. `captures`: whether a regular expression around them, or the
/// server's name, gives `$1` a meaning.
pub(in super::super) fn read_all(
    block: &[Directive],
    outer: Option<&Matcher>,
    settings: &Settings,
    captures: bool,
    reader: &mut Reader<'_>,
) -> Result<Locations, Fault> {
    let mut all = Vec::new();
    let mut seen = HashSet::new();
    for directive in block.iter().filter(|directive| directive.is("location")) {
        let (matcher, word) = matcher(directive)?;
        let kind = matches!(matcher, Matcher::Exact(_));
        if !matches!(matcher, Matcher::Regex(_)) && !seen.insert((kind, matcher.text().to_owned())) {
            return Err(Fault::new(ErrorKind::Duplicate, word.span, format!("duplicate location \"{}\"", word.text))
                .expecting("another path"));
        }
        match outer {
            Some(Matcher::Exact(path)) => {
                let message = format!("location \"{}\" cannot be inside the exact location \"{path}\"", word.text);
                return Err(Fault::new(ErrorKind::Misplaced, word.span, message).expecting("it beside that location"));
            }
            Some(outer) if !matches!(matcher, Matcher::Regex(_)) && !matcher.text().starts_with(outer.text()) => {
                let message = format!("location \"{}\" is outside location \"{}\"", word.text, outer.text());
                return Err(Fault::new(ErrorKind::Misplaced, word.span, message)
                    .expecting("a path that begins with the outer location's"));
            }
            _ => {}
        }
        all.push(read(directive, matcher, settings, captures, reader)?);
    }
    Ok(Locations::new(all))
}

fn read(
    directive: &Directive,
    matcher: Matcher,
    settings: &Settings,
    captures: bool,
    reader: &mut Reader<'_>,
) -> Result<Location, Fault> {
    let block = directive.block.as_deref().unwrap_or_default();
    let captures = captures || matches!(matcher, Matcher::Regex(_));
    let mut level = Level::inside(settings);
    let (mut pass, mut reply) = (None, None);
    for inner in block {
        if directives::judge(inner, Block::Location)? == Verdict::Harmless {
            reader.harmless(inner);
            continue;
        }
        let unfilled = |word: &&Word| !captures && !inner.is("location") && has_capture(word);
        if let Some(word) = inner.args.iter().find(unfilled) {
            let message = "a capture, but neither the location nor the server's name is a regular expression";
            return Err(Fault::new(ErrorKind::Value, word.span, message).expecting("location ~ EXPRESSION"));
        }
        match inner.name.text.as_str() {
            "location" => {}
            "proxy_pass" => {
                level.once(inner)?;
                let [word] = words(inner)?;
                pass = Some(word);
            }
            "return" => {
                level.once(inner)?;
                reply = Some(Reply::read(inner, reader.maps())?);
            }
            "keepalive_timeout" | "send_timeout" => {
                level.read(inner, reader)?;
                let text = format!("{} in a location: that of the address's default server holds", inner.name.text);
                reader.note(inner.span(), text);
            }
            _ => level.read(inner, reader)?,
        }
    }
    // `return` is obeyed before the request could be passed.
    let action = match (reply, pass) {
        (Some(reply), _) => Action::Return(reply),
        (None, Some(word)) => Action::Proxy(ProxyPass::read(word, &matcher, &level.settings.redirect, reader)?),
        (None, None) => {
            let message = "location with neither proxy_pass nor return: static files are not served";
            return Err(Fault::new(ErrorKind::Missing, directive.span(), message)
                .expecting("proxy_pass http://UPSTREAM; or return CODE;"));
        }
    };
    let number = reader.next_location();
    let nested = read_all(block, Some(&matcher), &level.settings, captures, reader)?;
    Ok(Location { number, matcher, action, settings: level.settings, nested })
}

fn has_capture(word: &Word) -> bool {
    let text = word.text.as_bytes();
    text.windows(2).any(|pair| matches!(pair, [b'$', b'1'..=b'9']))
        || text.windows(3).any(|three| matches!(three, [b'$', b'{', b'1'..=b'9']))
}

/// `location = /x`, and without the space as nginx also takes it.
fn matcher(directive: &Directive) -> Result<(Matcher, &Word), Fault> {
    let usage = "location [= | ^~ | ~ | ~*] PATH { ... }";
    let (modifier, word, skip) = match &directive.args[..] {
        [word] => {
            let modifier =
                ["=", "^~", "~*", "~"].into_iter().find(|modifier| word.text.starts_with(modifier)).unwrap_or_default();
            (modifier, word, modifier.len())
        }
        [modifier, word] if matches!(modifier.text.as_str(), "=" | "^~" | "~*" | "~") => {
            (modifier.text.as_str(), word, 0)
        }
        [modifier, _] => return Err(super::super::values::invalid(modifier, "location modifier").expecting(usage)),
        _ => {
            return Err(Fault::new(ErrorKind::Value, directive.span(), "invalid number of arguments of \"location\"")
                .expecting(usage));
        }
    };
    let text = &word.text[skip..];
    if modifier.is_empty() && text.starts_with('@') {
        return Err(Fault::new(
            ErrorKind::Unsupported,
            word.span,
            "named locations are not supported: nothing here jumps to one",
        )
        .expecting(usage));
    }
    if modifier.starts_with('~') {
        let any_case = modifier == "~*";
        if text.is_empty() {
            return Err(super::super::values::invalid(word, "regular expression").expecting(usage));
        }
        return Ok((
            Matcher::Regex(PathPattern { pattern: Pattern::new(text, any_case, word, skip)?, any_case }),
            word,
        ));
    }
    if !text.starts_with('/') {
        return Err(super::super::values::invalid(word, "location")
            .expecting("a path that begins with \"/\": no other path is ever asked for"));
    }
    let path = text.to_owned();
    Ok((
        if modifier == "=" { Matcher::Exact(path) } else { Matcher::Prefix { path, no_regex: modifier == "^~" } },
        word,
    ))
}
