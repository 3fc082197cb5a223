//! Recognises configurations of other programs, and full-width characters of Chinese input methods.

use super::error::{ErrorKind, Fault};
use super::source::{Sources, Span};
use super::suggest::find_full_width;

const INSTEAD: &str =
    "upstream kylin { server HOST:7070; } server { listen PORT; location / { proxy_pass http://kylin; } }";

/// Returns a clearer error than `fault`, if the main file belongs to another program or has
/// full-width punctuation at the place.
pub(crate) fn explain(fault: Fault, sources: &Sources) -> Fault {
    let text = sources.text(0);
    if let Some((program, span)) = program(&text) {
        let message = format!("this is a file of {program}, not of nginx");
        let expected = match program {
            "Apache httpd" => format!("the option --httpd of the example kylin_front, which reads it; or {INSTEAD}"),
            _ => INSTEAD.to_owned(),
        };
        return Fault::new(ErrorKind::Syntax, Some(span), message, expected);
    }
    let Some((span, c, ascii)) = fault.span().and_then(|span| full_width(span, sources)) else { return fault };
    let message = format!("full-width \"{c}\", which nginx reads as a letter");
    Fault::new(ErrorKind::Syntax, Some(span), message, format!("\"{ascii}\""))
}

/// Returns the program that a text is written for, and the line that shows it.
fn program(text: &str) -> Option<(&'static str, Span)> {
    let mut at = 0;
    // In HAProxy's files, braces occur only within lines.
    let has_blocks = || text.lines().any(|line| without_comment(line).trim_end().ends_with('{'));
    for (number, whole) in text.split_inclusive('\n').enumerate() {
        let line = without_comment(whole).trim();
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        let ends_open = line.ends_with(['{', ';', '}']);
        let program = match (first, second) {
            ("global" | "defaults", None) => Some("HAProxy"),
            ("frontend" | "backend" | "listen", Some(_)) if !ends_open && !has_blocks() => Some("HAProxy"),
            (
                "LoadModule" | "ProxyPass" | "ProxyPassMatch" | "BalancerMember" | "ServerRoot" | "ProxyRequests",
                Some(_),
            ) => Some("Apache httpd"),
            (tag, _)
                if ["<VirtualHost", "<Proxy", "<IfModule", "<Location", "<Directory"]
                    .iter()
                    .any(|known| tag.starts_with(known)) =>
            {
                Some("Apache httpd")
            }
            (
                "entryPoints:" | "routers:" | "providers:" | "[entryPoints]" | "[http.routers]" | "[http.services]",
                None,
            ) => Some("Traefik"),
            (section, None) if section.starts_with("[http.") || section.starts_with("[entryPoints") => Some("Traefik"),
            ("reverse_proxy", Some(_)) if !line.ends_with(';') => Some("Caddy"),
            ("static_resources:" | "admin:", None) => Some("Envoy"),
            ("apiVersion:", Some(_)) => Some("Kubernetes"),
            (property, _) if property.starts_with("kylin.") && line.contains('=') => Some("Kylin (kylin.properties)"),
            _ => None,
        };
        if let Some(program) = program {
            let line = u32::try_from(number + 1).unwrap_or(u32::MAX);
            return Some((program, Span { file: 0, line, at: u32::try_from(at).unwrap_or(u32::MAX) }));
        }
        at += whole.len();
    }
    None
}

fn without_comment(line: &str) -> &str {
    line.find('#').map_or(line, |comment| &line[..comment])
}

/// Full-width punctuation that occurs only in nginx's files, and the character that nginx expects.
const FULL_WIDTH: [(char, &str); 3] = [('\u{ff1b}', ";"), ('\u{ff5b}', "{"), ('\u{ff5d}', "}")];

/// Returns the first full-width character outside of comments in the line of a span, or in a line
/// before it.
fn full_width(span: Span, sources: &Sources) -> Option<(Span, char, &'static str)> {
    let text = sources.text(span.file);
    let mut at = 0;
    let lines = text.split_inclusive('\n').take(span.line.max(1) as usize + 1);
    for (number, line) in lines.enumerate() {
        if let Some((index, c, ascii)) = find_full_width(without_comment(line), &FULL_WIDTH) {
            let line = u32::try_from(number + 1).unwrap_or(u32::MAX);
            return Some((Span { file: span.file, line, at: u32::try_from(at + index).unwrap_or(u32::MAX) }, c, ascii));
        }
        at += line.len();
    }
    None
}
