//! Reads `location` blocks.

use std::collections::HashSet;

use http::header;

use super::{Action, ByHost, LimitExcept, Location, Locations, Matcher, PassUri, ProxyPass};
use crate::nginx::directives::catalogue::{self, Block, arg};
use crate::nginx::directives::context::ReadContext;
use crate::nginx::directives::left_out;
use crate::nginx::directives::rewrite::{Step, note_files};
use crate::nginx::directives::settings::{BlockSettings, SettingsReader};
use crate::nginx::syntax::{Directive, Fault, Word};

/// Reads the locations among the directives of a block.
///
/// `outer` is the surrounding location, if any. `captures` says whether a surrounding regular
/// expression, or the server's name, sets `$1`.
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
        let (matcher, word) = Matcher::read(directive, &context.maps)?;
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
    let left_out = left_out::location(block);
    if let Some(reason) = &left_out {
        catalogue::check_names(block)?;
        let text = format!("location {matcher} is left out, its response is 404: {reason}");
        context.remarks.note(directive.span(), text);
    }
    let modelled = match &left_out {
        None => catalogue::modelled(block, Block::Location, &mut context.remarks)?,
        // The access rules of the location also protect inner locations.
        Some(_) if left_out::leads_inside(block) => {
            let settings = block.iter().filter(|inner| !left_out::is_handler(inner));
            catalogue::modelled(settings, Block::Location, &mut context.remarks)?
        }
        Some(_) => {
            // Error pages for refused clients stay. One for 404 would replace the missing handler.
            let keeps_out = |inner: &&Directive| {
                let has = |text| inner.args.iter().any(|arg| arg.text == text);
                ["allow", "deny", "internal"].iter().any(|name| inner.is(name))
                    || inner.is("error_page") && !has("404")
                    || inner.is("auth_basic") && has("off")
            };
            block.iter().filter(keeps_out).collect()
        }
    };
    let mut location = read_body(modelled, matcher, None, settings, captures, context)?;
    if let Some(reason) = left_out {
        location.adds_slash = block.iter().any(left_out::adds_slash);
        location.action = Action::LeftOut(reason);
    } else if location.script.is_empty() && !location.is_served() {
        let message = "location with neither proxy_pass nor return: static files are not served";
        return Err(directive.span().missing(message, "proxy_pass http://UPSTREAM; or return CODE;"));
    }
    if matches!(location.action, Action::LeftOut(_)) && location.is_served() {
        let text = format!(
            "location {}: static files are not served, so its error page or its steps serve every request",
            location.matcher
        );
        context.remarks.note(directive.span(), text);
    }
    note_auth(&location, directive, context);
    location.nested = read_all(block, Some(&location.matcher), &location.settings, captures, context)?;
    Ok(location)
}

/// Adds a remark on the effect of `auth_basic` on the nodes of a location.
fn note_auth(location: &Location, directive: &Directive, context: &mut ReadContext<'_>) {
    let settings = &location.settings;
    if settings.auth.lacks_file() {
        let text = "auth_basic without auth_basic_user_file: no password is asked for, as in nginx";
        context.remarks.note(directive.span(), text);
    }
    let is_sent = !settings.set_headers.iter().any(|header| header.name == header::AUTHORIZATION);
    if settings.auth.may_ask() && is_sent && matches!(location.action, Action::Proxy(_)) {
        let text = "auth_basic: the nodes get the header Authorization too, and Kylin reads it as a login; \
            proxy_set_header Authorization \"\"; keeps it from them";
        context.remarks.note(directive.span(), text);
    }
}

/// Reads the directives of a location, or of an `if` or `limit_except` in it. Without an action of
/// its own, a block has that of `outer`.
fn read_body(
    block: Vec<&Directive>,
    matcher: Matcher,
    outer: Option<&Location>,
    settings: &BlockSettings,
    captures: bool,
    context: &mut ReadContext<'_>,
) -> Result<Location, Fault> {
    let mut level = SettingsReader::inside(settings);
    let (mut pass, mut named, mut limit) = (None, None, None);
    let captures = captures || context.has_server_captures || block.iter().any(|inner| matches_an_expression(inner));
    for &inner in &block {
        if !captures {
            check_captures(inner)?;
        }
        match inner.name.text.as_str() {
            "location" | "rewrite" | "set" | "break" | "if" | "return" => {}
            "proxy_pass" => {
                level.once(inner)?;
                pass = Some(arg(inner)?);
            }
            "limit_except" if outer.is_some() => {
                let message = "\"limit_except\" is not allowed in \"if\"";
                return Err(inner.span().misplaced(message, "limit_except beside the if"));
            }
            "limit_except" => {
                level.once(inner)?;
                limit = Some(inner);
            }
            "try_files" => {
                level.once(inner)?;
                named = Some(named_of_files(inner, &matcher, context)?);
            }
            name @ ("keepalive_timeout" | "send_timeout") => {
                level.read(inner, context)?;
                let text = format!("{name} in a location: that of the address's default server applies");
                context.remarks.note(inner.span(), text);
            }
            _ => level.read(inner, context)?,
        }
    }
    let number = context.next_location();
    let static_files = || Action::LeftOut("static files are not served".into());
    let mut location = Location {
        number,
        matcher,
        action: outer.map_or_else(static_files, |outer| outer.action.clone()),
        settings: level.settings,
        script: Vec::new(),
        variants: Vec::new(),
        by_host: None,
        limit_except: None,
        adds_slash: pass.is_some(),
        nested: Locations::default(),
    };
    match pass {
        Some(word) => {
            set_pass(word, &mut location, context)?;
            if let (Some(_), Action::Proxy(ProxyPass { uri: PassUri::Replace { .. }, .. })) = (outer, &location.action)
            {
                let message = "proxy_pass cannot have a URI part inside \"if\" or \"limit_except\"";
                return Err(word.span.value(message, "http://UPSTREAM; with rewrite ... break; for another path"));
            }
        }
        // The block of an `if` is the surrounding location with other settings.
        None => {
            let by_host = outer.and_then(|outer| outer.by_host.clone());
            location.by_host = by_host.map(|by_host| with_settings(by_host, &location, context));
        }
    }
    if matches!(location.action, Action::Proxy(_)) {
        location.settings.check_pass()?;
    }
    if let Some(limit) = limit {
        location.limit_except = Some(read_limit_except(limit, &location, captures, context)?);
    }
    // The surrounding location reads the steps of an `if`.
    if outer.is_none() {
        read_script(&block, &mut location, named.is_some(), captures, context)?;
    }
    // As in nginx, inner blocks do not inherit `try_files`, and `return` takes precedence.
    if let Some(name) = named.filter(|_| !matches!(location.action, Action::Return(_))) {
        (location.action, location.by_host) = (Action::Named(name), None);
    }
    Ok(location)
}

/// Returns the locations of `by_host` with the settings of `location`.
fn with_settings(by_host: ByHost, location: &Location, context: &mut ReadContext<'_>) -> ByHost {
    let with_settings = |(value, pass)| {
        let (number, settings) = (context.next_location(), location.settings.clone());
        (value, Location { number, settings, ..pass })
    };
    ByHost { locations: by_host.locations.into_iter().map(with_settings).collect(), ..by_host }
}

/// Reads `limit_except` of a location before its steps and `try_files`, which the block must not
/// have.
fn read_limit_except(
    directive: &Directive,
    outer: &Location,
    captures: bool,
    context: &mut ReadContext<'_>,
) -> Result<LimitExcept, Fault> {
    let (matcher, settings) = (outer.matcher.clone(), outer.settings.clone());
    LimitExcept::read(directive, |block| read_body(block, matcher, Some(outer), &settings, captures, context))
}

/// Refuses groups of an expression if there is no expression.
fn check_captures(directive: &Directive) -> Result<(), Fault> {
    // Inner locations have expressions of their own.
    let is_filled = ["location", "proxy_redirect", "proxy_cookie_path", "proxy_cookie_domain"]
        .iter()
        .any(|name| directive.is(name));
    match directive.args.iter().find(|word| !is_filled && has_capture(word)) {
        Some(word) => {
            let message = "a capture, but neither the location nor the server's name is a regular expression";
            Err(word.span.value(message, "location ~ EXPRESSION"))
        }
        None => Ok(()),
    }
}

/// The directives other than steps that an `if` of a location may contain (`NGX_HTTP_LIF_CONF`).
/// `limit_except` has an error of its own.
const IN_IF: [&str; 10] = [
    "access_log",
    "add_header",
    "charset",
    "error_page",
    "expires",
    "limit_except",
    "more_clear_headers",
    "more_set_headers",
    "proxy_pass",
    "root",
];

/// Reads the steps of a location, and its variants for `if` blocks. With `try_files`, a block
/// without settings also makes a variant, which has no `try_files`.
fn read_script(
    block: &[&Directive],
    location: &mut Location,
    has_files: bool,
    captures: bool,
    context: &mut ReadContext<'_>,
) -> Result<(), Fault> {
    let root = location.settings.root.known(context.prefix.as_deref());
    for inner in block.iter().filter(|inner| Step::is(inner)) {
        let mut variant = None;
        if inner.is("if") {
            note_files(inner, &mut context.remarks);
            let body =
                catalogue::modelled(inner.block.as_deref().unwrap_or_default(), Block::Location, &mut context.remarks)?;
            if let Some(other) = body.iter().find(|inner| !Step::is(inner) && !IN_IF.contains(&&*inner.name.text)) {
                let message = format!("\"{}\" is not allowed in an \"if\"", other.name.text);
                let expected = "this line beside the if; a map gives it a value that depends on the request";
                return Err(other.span().misplaced(message, expected));
            }
            if has_files || body.iter().any(|inner| !Step::is(inner)) {
                let (matcher, settings) = (location.matcher.clone(), location.settings.clone());
                let form = read_body(body, matcher, Some(&*location), &settings, captures, context)?;
                variant = Some(location.variants.len());
                location.variants.push(form);
            }
        }
        match Step::read(inner, &context.maps, &root, variant)? {
            // nginx runs `return` before it passes the request. An earlier step may end the script
            // before the `return`.
            Step::Return(unconditional) if location.script.is_empty() => {
                (location.action, location.by_host) = (Action::Return(unconditional), None);
                break;
            }
            step => location.script.push(step),
        }
    }
    Ok(())
}

/// Returns the named location of `try_files FILE... @NAME`.
fn named_of_files(directive: &Directive, at: &Matcher, context: &mut ReadContext<'_>) -> Result<String, Fault> {
    let Some(last) = directive.args.last().filter(|last| last.text.starts_with('@')) else {
        let expected = "try_files FILE... @NAME; proxy_pass or return: static files are not served";
        return Err(directive.span().unsupported("\"try_files\" is supported with a named location only", expected));
    };
    if matches!(at, Matcher::Named(_)) {
        let message = "\"try_files\" from one named location to another";
        return Err(directive.span().unsupported(message, "the lines of the other location"));
    }
    let text = format!("try_files: {} serves every request, because static files are not served", last.text);
    context.remarks.note(directive.span(), text);
    Ok(last.text.clone())
}

/// Reads `proxy_pass`, whose variables may name several upstreams.
fn set_pass(word: &Word, location: &mut Location, context: &mut ReadContext<'_>) -> Result<(), Fault> {
    let Some((host, urls)) = ProxyPass::urls(word, &context.maps)? else {
        let known = context.upstreams.all.len();
        let pass = ProxyPass::read(word, &location.matcher, &location.settings, context)?;
        // As in nginx, a name without variables must be known, even if another directive has it as
        // a value of variables.
        let has_variables = word.text.contains('$');
        if pass.upstream >= known || !has_variables {
            let servers = &mut context.upstreams.all[pass.upstream].servers;
            servers.iter_mut().for_each(|server| server.is_of_variable = has_variables);
        }
        location.action = Action::Proxy(pass);
        return Ok(());
    };
    let mut locations = Vec::new();
    for (value, url) in urls {
        let url = Word { text: url, span: word.span };
        let known = context.upstreams.all.len();
        let pass = ProxyPass::read(&url, &location.matcher, &location.settings, context)?;
        let new = context.upstreams.all.iter_mut().skip(known).flat_map(|upstream| &mut upstream.servers);
        new.for_each(|server| server.is_of_variable = true);
        let mut pass_location = Location { action: Action::Proxy(pass.with_variables(word)), ..location.clone() };
        pass_location.number = context.next_location();
        locations.push((value, pass_location));
    }
    if let Some((_, first)) = locations.first() {
        location.action = first.action.clone();
    }
    location.by_host = Some(ByHost { host, locations });
    Ok(())
}

/// Returns whether a directive sets `$1`.
pub(crate) fn matches_an_expression(directive: &Directive) -> bool {
    let operators = ["~", "~*", "!~", "!~*"];
    directive.is("rewrite")
        || (directive.is("if") && directive.args.iter().any(|word| operators.contains(&word.text.as_str())))
}

fn has_capture(word: &Word) -> bool {
    let text = word.text.as_bytes();
    text.windows(2).any(|pair| matches!(pair, [b'$', b'1'..=b'9']))
        || text.windows(3).any(|three| matches!(three, [b'$', b'{', b'1'..=b'9']))
}
