//! Targets of requests as logs may show them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What stands in place of a value that is not shown.
const MASK: &str = "***";

/// Returns a target of a request, a path with or without a query, as logs may show it: without the values of path parameters, and
/// with `***` in place of values of the query that may be secret, such as `sql`, passwords, tokens and session ids.
///
/// ```
/// let masked = kylin_lb::observe::masked_target("/kylin/query;jsessionid=AB?sql=select+1&limit=10");
/// assert_eq!(masked, "/kylin/query;***?sql=***&limit=10");
/// ```
pub fn masked_target(target: &str) -> Cow<'_, str> {
    masked(target, false)
}

/// [`masked_target`]; `shows_sql`: SQL is not secret.
pub(super) fn masked(target: &str, shows_sql: bool) -> Cow<'_, str> {
    match target.split_once('?') {
        None => mask_path(target),
        Some((path, query)) => match (mask_path(path), mask_query(query, shows_sql)) {
            (Cow::Borrowed(_), Cow::Borrowed(_)) => Cow::Borrowed(target),
            (path, query) => Cow::Owned(format!("{path}?{query}")),
        },
    }
}

/// Returns `path` without the values of path parameters: servers write session ids there (`;jsessionid=`).
pub(super) fn mask_path(path: &str) -> Cow<'_, str> {
    if !path.contains([';', '%']) {
        return Cow::Borrowed(path);
    }
    let mut masked = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            masked.push('/');
        }
        match parameters(segment) {
            Some(start) => {
                masked.push_str(&segment[..start]);
                masked.push(';');
                masked.push_str(MASK);
            }
            None => masked.push_str(segment),
        }
    }
    Cow::Owned(masked)
}

/// Returns where the parameters of a path segment begin, if it has any, with an escaped semicolon too.
fn parameters(segment: &str) -> Option<usize> {
    let plain = segment.find(';');
    let escaped = segment.as_bytes().windows(3).position(|letters| letters.eq_ignore_ascii_case(b"%3b"));
    plain.into_iter().chain(escaped).min()
}

/// Returns `query` without the values of parameters that may be secret. `shows_sql`: SQL is not secret.
pub(super) fn mask_query(query: &str, shows_sql: bool) -> Cow<'_, str> {
    if !query.split('&').any(|pair| masked_name(pair, shows_sql).is_some()) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match masked_name(pair, shows_sql) {
        Some(name) => Cow::Owned(format!("{name}={MASK}")),
        None => Cow::Borrowed(pair),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}

/// Parts of the names of parameters that are secret: passwords, sessions and what single sign-on sends (SAML 2.0, OAuth 2.0).
const SECRET_PARTS: [&str; 13] = [
    "passw",
    "pwd",
    "token",
    "secret",
    "session",
    "credential",
    "authorization",
    "apikey",
    "api_key",
    "samlresponse",
    "samlrequest",
    "samlart",
    "assertion",
];
/// Whole names: `code` of OAuth 2.0 and `ticket` of CAS.
const SECRET_NAMES: [&str; 2] = ["code", "ticket"];

/// Returns the name of a parameter, as it is written, if its value is not shown.
fn masked_name(pair: &str, shows_sql: bool) -> Option<&str> {
    // Some servers read a semicolon as a separator too. A pair with one is hidden from its first `=` if any name in it is secret.
    let (name, value) = pair.split_once('=')?;
    let of_semicolons = value.split(';').skip(1).filter_map(|part| Some(part.split_once('=')?.0));
    let mut names = name.split(';').chain(of_semicolons);
    names.any(|name| is_hidden(name, shows_sql)).then_some(name)
}

fn is_hidden(name: &str, shows_sql: bool) -> bool {
    let decoded = percent_decode_str(name).decode_utf8_lossy().to_ascii_lowercase();
    let name = decoded.trim();
    SECRET_NAMES.contains(&name) || SECRET_PARTS.iter().any(|part| name.contains(part)) || !shows_sql && name == "sql"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_in_paths_are_masked() {
        for (path, masked) in [
            ("/kylin/api/query", "/kylin/api/query"),
            ("/kylin/api;jsessionid=0123ABCD/query", "/kylin/api;***/query"),
            ("/kylin/a%3Bjsessionid=0123ABCD", "/kylin/a;***"),
            ("/kylin/;a=1;JSESSIONID=2", "/kylin/;***"),
            ("/a%20b/é", "/a%20b/é"),
            ("", ""),
        ] {
            assert_eq!(mask_path(path), masked);
        }
    }

    #[test]
    fn sql_and_secrets_in_queries_are_masked() {
        for (query, masked) in [
            ("project=p&sql=select%201&limit=5", "project=p&sql=***&limit=5"),
            ("s%71l=select%201", "s%71l=***"),
            ("SQL=select+1&sql=", "SQL=***&sql=***"),
            ("password=x&access_token=y&jsessionid=z", "password=***&access_token=***&jsessionid=***"),
            ("SAMLResponse=PHNhbWw%2B&RelayState=x", "SAMLResponse=***&RelayState=x"),
            ("SAMLRequest=x&SAMLart=y&SAML%61rt=z", "SAMLRequest=***&SAMLart=***&SAML%61rt=***"),
            ("ticket=ST-1&code=c&client_assertion=e30", "ticket=***&code=***&client_assertion=***"),
            ("codes=1&encoded=x&ticketing=y", "codes=1&encoded=x&ticketing=y"),
            ("a=1;sql=select%201", "a=***"),
            ("a=1;password=x&b=2", "a=***&b=2"),
            ("a;b=1;x;c%6fde=y", "a;b=***"),
            ("a;ticket=ST-1", "a;ticket=***"),
            ("a=1;b=2", "a=1;b=2"),
            ("sql", "sql"),
            ("a=1&b", "a=1&b"),
            ("", ""),
        ] {
            assert_eq!(mask_query(query, false), masked);
        }
        assert_eq!(mask_query("sql=select%201&token=x", true), "sql=select%201&token=***");
    }
}
