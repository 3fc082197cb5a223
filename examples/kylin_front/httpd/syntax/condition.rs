//! Suggests what to write instead of `<If>`.

use super::{Directive, Fault};

/// Refuses `<If>`, `<ElseIf>` and `<Else>`.
pub(super) fn check(section: &Directive) -> Result<(), Fault> {
    match ["<If", "<ElseIf", "<Else"].iter().any(|name| section.is(name)) {
        true => Err(section.fault(format!("{}> is not supported", section.name.text), instead(section))),
        false => Ok(()),
    }
}

/// Returns the directives that replace an `<If>`, as far as they can be derived.
fn instead(section: &Directive) -> String {
    const ELSE: &str = "RewriteCond and RewriteRule, or <Location> and <VirtualHost>";
    let words: Vec<_> = section.args.iter().map(|word| word.text.as_str()).collect();
    let Some(condition) = condition(&words.join(" ")) else { return ELSE.into() };
    let lines = section.section.as_deref().unwrap_or_default();
    let redirect = lines.iter().find(|line| line.is("Redirect") || line.is("RedirectPermanent"));
    let rule = redirect.and_then(|line| {
        let texts: Vec<_> = line.args.iter().map(|word| word.text.as_str()).collect();
        let (status, rest) = match &texts[..] {
            ["permanent" | "301", rest @ ..] => ("301", rest),
            ["temp" | "302", rest @ ..] => ("302", rest),
            rest if line.is("RedirectPermanent") => ("301", rest),
            rest => ("302", rest),
        };
        match rest {
            [from, to] => {
                let from = if *from == "/" { "/(.*)".to_owned() } else { format!("{from}(.*)") };
                Some(format!("RewriteRule ^{from}$ {to}$1 [R={status},L]"))
            }
            [to] => Some(format!("RewriteRule ^ {to} [R={status},L]")),
            _ => None,
        }
    });
    let rule = rule.unwrap_or_else(|| "RewriteRule EXPRESSION URL [R,F,P or L]".into());
    format!("these lines: RewriteEngine On, RewriteCond {condition}, {rule}")
}

/// Translates a comparison of one variable.
fn condition(expression: &str) -> Option<String> {
    let (variable, rest) = expression.trim().split_once('}')?;
    let variable = variable.strip_prefix("%{").filter(|name| !name.contains(' '))?;
    let (operator, value) = rest.trim().split_once(' ')?;
    let value = value.trim();
    let quoted = || {
        let text = value.strip_prefix(['\'', '"'])?.strip_suffix(['\'', '"'])?;
        (!text.contains(['\'', '"', '%'])).then_some(text)
    };
    let pattern = || {
        let bare = value.strip_prefix('m').unwrap_or(value);
        let delimiter = bare.chars().next().filter(|first| !first.is_alphanumeric())?;
        let (pattern, flags) = bare[delimiter.len_utf8()..].rsplit_once(delimiter)?;
        let flags = if flags.contains('i') { " [NC]" } else { "" };
        (!pattern.contains(' ')).then(|| format!("{pattern}{flags}"))
    };
    let test = match operator {
        "==" | "=" | "-eq" => format!("={}", quoted()?),
        "!=" | "-ne" => format!("!={}", quoted()?),
        "=~" => pattern()?,
        "!~" => format!("!{}", pattern()?),
        _ => return None,
    };
    Some(format!("%{{{variable}}} {test}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_become_conditions_of_rewrites() {
        for (expression, expected) in [
            ("%{HTTPS} == 'off'", Some("%{HTTPS} =off")),
            ("%{HTTP_HOST} != 'kylin.example'", Some("%{HTTP_HOST} !=kylin.example")),
            ("%{REQUEST_URI} =~ m#^/old#", Some("%{REQUEST_URI} ^/old")),
            ("%{HTTP_USER_AGENT} !~ /bot/i", Some("%{HTTP_USER_AGENT} !bot [NC]")),
            ("%{HTTP:X-Forwarded-Proto} == \"http\"", Some("%{HTTP:X-Forwarded-Proto} =http")),
            ("-R '10.0.0.0/8'", None),
            ("%{A} == 'a' && %{B} == 'b'", None),
            ("", None),
        ] {
            assert_eq!(condition(expression).as_deref(), expected, "{expression}");
        }
    }
}
