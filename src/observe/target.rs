//! Masks secrets in the targets of requests, for logs.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The text that replaces a value that is not shown.
const MASK: &str = "***";

/// Masks the secrets in the target of a request or in another URL. `***` replaces
///
/// - the values of path parameters;
/// - a user with a password;
/// - values of the query and the fragment that may be secret, such as `sql`, passwords, keys,
///   tokens, signatures and session ids.
///
/// ```
/// let masked = kylin_lb::observe::masked_target("/kylin/query;jsessionid=AB?sql=select+1&limit=10");
/// assert_eq!(masked, "/kylin/query;***?sql=***&limit=10");
/// assert_eq!(kylin_lb::observe::masked_target("http://ADMIN:KYLIN@kylin:7070/#token=AB"), "http://***@kylin:7070/#token=***");
/// ```
pub fn masked_target(target: &str) -> Cow<'_, str> {
    if let Some((rest, fragment)) = target.split_once('#') {
        // Pages of single-page applications put a path and a query into the fragment.
        let fragment = fragment.split('?').map(mask_query).collect::<Vec<_>>().join("?");
        return Cow::Owned(format!("{}#{fragment}", masked_target(rest)));
    }
    let masked = match target.split_once('?') {
        None => mask_path(target),
        Some((path, query)) => match (mask_path(path), mask_query(query)) {
            (Cow::Borrowed(_), Cow::Borrowed(_)) => Cow::Borrowed(target),
            (path, query) => Cow::Owned(format!("{path}?{query}")),
        },
    };
    match mask_users(&masked) {
        Some(masked) => Cow::Owned(masked),
        None => masked,
    }
}

/// Returns the URL with `***` in place of the user and the password, which are between `//` and the
/// last `@` of an authority. Returns `None` if there are none.
fn mask_users(url: &str) -> Option<String> {
    let (mut masked, mut written, mut rest) = (String::new(), 0, url);
    while let Some((_, after)) = rest.split_once("//") {
        let start = url.len() - after.len();
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                masked.extend([&url[written..start], MASK]);
                written = start + at;
                &after[at..]
            }
            None => after,
        };
    }
    (written > 0).then(|| masked + &url[written..])
}

/// Returns `path` without the values of path parameters: servers write session ids there
/// (`;jsessionid=`).
pub(super) fn mask_path(path: &str) -> Cow<'_, str> {
    // Without a branch per byte: most paths are too short for `memchr2` to pay off.
    let is_marked = path.bytes().fold(false, |is_marked, byte| is_marked | matches!(byte, b';' | b'%'));
    if !is_marked || !path.split('/').any(|segment| parameters(segment).is_some()) {
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

/// Returns where the parameters of a path segment begin, if it has any. An escaped semicolon counts
/// too.
fn parameters(segment: &str) -> Option<usize> {
    let plain = segment.find(';');
    let escaped = segment.as_bytes().windows(3).position(|letters| letters.eq_ignore_ascii_case(b"%3b"));
    plain.into_iter().chain(escaped).min()
}

/// Masks the secrets in a query, as [`masked_target`] does in the query of a URL.
///
/// ```
/// assert_eq!(kylin_lb::observe::masked_query("limit=10&sig=AB"), "limit=10&sig=***");
/// ```
pub fn masked_query(query: &str) -> Cow<'_, str> {
    if query.contains('#') {
        return Cow::Owned(masked_target(&format!("?{query}"))[1..].to_owned());
    }
    let masked = mask_query(query);
    match mask_users(&masked) {
        Some(masked) => Cow::Owned(masked),
        None => masked,
    }
}

/// Returns `query` without the values of parameters that may be secret.
pub(super) fn mask_query(query: &str) -> Cow<'_, str> {
    if !query.split('&').any(|pair| masked_name(pair).is_some()) {
        return Cow::Borrowed(query);
    }
    let pairs = query.split('&').map(|pair| match masked_name(pair) {
        Some(name) => Cow::Owned(format!("{name}={MASK}")),
        None => Cow::Borrowed(pair),
    });
    Cow::Owned(pairs.collect::<Vec<_>>().join("&"))
}

/// Parts of the names of secret parameters and headers, without separators between words. They
/// cover passwords, keys, sessions, and the values of single sign-on (SAML 2.0, OAuth 2.0).
const SECRET_PARTS: [&str; 18] = [
    "session",
    "cookie",
    "passw",
    "passphrase",
    "pwd",
    "token",
    "jwt",
    "secret",
    "credential",
    "authorization",
    "apikey",
    "authkey",
    "accesskey",
    "privatekey",
    "samlresponse",
    "samlrequest",
    "samlart",
    "assertion",
];
/// Whole names of parameters: `code` of OAuth 2.0, `ticket` of CAS, and names of keys and
/// signatures, such as `sig` of Azure.
const SECRET_NAMES: [&str; 7] = ["sql", "code", "ticket", "auth", "sig", "signature", "key"];

/// Returns the name of a parameter, as it is written, if its value is not shown.
fn masked_name(pair: &str) -> Option<&str> {
    // Some servers also treat a semicolon as a separator. A pair with a semicolon is hidden from
    // its first `=` if any name in it is secret.
    let (name, value) = pair.split_once('=')?;
    let of_semicolons = value.split(';').skip(1).filter_map(|part| Some(part.split_once('=')?.0));
    let mut names = name.split(';').chain(of_semicolons);
    names.any(is_hidden).then_some(name)
}

/// Returns whether the value of the parameter with this name is hidden. Allocates nothing, because
/// it runs for each logged request.
fn is_hidden(name: &str) -> bool {
    if name.contains('%') { is_hidden_name(percent_decode_str(name)) } else { is_hidden_name(name.bytes()) }
}

fn is_hidden_name(name: impl Iterator<Item = u8> + Clone) -> bool {
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'+';
    let trimmed = name.clone().skip_while(is_space);
    let is_whole = |whole: &&str| match rest_behind(trimmed.clone(), whole) {
        Some(mut rest) => rest.all(|byte| is_space(&byte)),
        None => false,
    };
    SECRET_NAMES.iter().any(is_whole) || has_secret_part(name)
}

/// Returns the rest of the name after `start`, which matches in either case; `None` if the name
/// does not begin with it.
fn rest_behind<I: Iterator<Item = u8>>(mut name: I, start: &str) -> Option<I> {
    let mut letters = start.bytes();
    letters.all(|letter| name.next().is_some_and(|byte| byte.eq_ignore_ascii_case(&letter))).then_some(name)
}

/// Returns whether the parameter or header with this name, in lower case, may be secret. Its name
/// suggests passwords, keys, tokens, cookies or sessions, with or without `-` and `_` between its
/// words.
///
/// ```
/// use kylin_lb::observe::is_secret_name;
///
/// assert!(is_secret_name("x-api-key") && is_secret_name("x_apikey") && !is_secret_name("x-request-id"));
/// ```
pub fn is_secret_name(name: &str) -> bool {
    has_secret_part(name.bytes())
}

/// The first letters of [`SECRET_PARTS`], one bit each. Most letters of a name begin none of them.
const FIRST_LETTERS: u32 = {
    let (mut letters, mut part) = (0, 0);
    while part < SECRET_PARTS.len() {
        letters |= 1 << (SECRET_PARTS[part].as_bytes()[0] - b'a');
        part += 1;
    }
    letters
};

fn has_secret_part(name: impl Iterator<Item = u8> + Clone) -> bool {
    let mut rest = name.filter(|byte| !matches!(byte, b'-' | b'_'));
    loop {
        let start = rest.clone();
        let Some(first) = rest.next().map(|byte| byte.to_ascii_lowercase()) else { return false };
        if first.is_ascii_lowercase()
            && FIRST_LETTERS >> (first - b'a') & 1 == 1
            && SECRET_PARTS.iter().any(|part| rest_behind(start.clone(), part).is_some())
        {
            return true;
        }
    }
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
    fn a_target_without_secrets_is_not_copied() {
        for target in ["/kylin/api/a%20b?Page_Size=1&%41=b&x-y=%zz&=", "http://host/a@b?to=//h", "//h//", "é?é=é"] {
            assert!(matches!(masked_target(target), Cow::Borrowed(_)), "{target}");
        }
    }

    #[test]
    fn users_and_fragments_of_urls_are_masked() {
        for (url, shown) in [
            ("http://ADMIN:KYLIN@host/", "http://***@host/"),
            ("http://ADMIN:KY@LIN@host:7070?a=b@c", "http://***@host:7070?a=b@c"),
            ("//token@host", "//***@host"),
            ("5; url=http://a:b@h/;x", "5;***//***@h/;***"),
            ("/login?next=http://a:b@h/&to=http://h/@", "/login?next=http://***@h/&to=http://h/@"),
            ("http://host/a@b", "http://host/a@b"),
            ("///a@b//c:d@e", "///a@b//***@e"),
            ("/x#access_token=t&a=1", "/x#access_token=***&a=1"),
            ("/x;a=1?pwd=2#/q?sql=1", "/x;***?pwd=***#/q?sql=***"),
            ("/x#top", "/x#top"),
        ] {
            assert_eq!(masked_target(url), shown);
        }
    }

    #[test]
    fn names_of_secrets_are_known_with_any_sign_between_their_words() {
        for name in [
            "apikey",
            "x-api-key",
            "x_apikey",
            "passwd",
            "pwd",
            "auth-key",
            "access_key",
            "access-key",
            "x-jwt",
            "set-cookie",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["key", "x-request-id", "author", "access", "cube"] {
            assert!(!is_secret_name(name), "{name}");
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
            (
                "auth=a&sig=b&signature=c&key=d&apikey=e&api_key=f",
                "auth=***&sig=***&signature=***&key=***&apikey=***&api_key=***",
            ),
            ("token=a&id_token=b&passwd=c&pwd=d&secret=e", "token=***&id_token=***&passwd=***&pwd=***&secret=***"),
            ("KEY=a&s%69g=b&%41uth=c&+Sig=d&%20key%09=e", "KEY=***&s%69g=***&%41uth=***&+Sig=***&%20key%09=***"),
            ("author=a&keys=b&design=c&monkey=d&signatures=e", "author=a&keys=b&design=c&monkey=d&signatures=e"),
            ("a=1;sql=select%201", "a=***"),
            ("a=1;password=x&b=2", "a=***&b=2"),
            ("a;b=1;x;c%6fde=y", "a;b=***"),
            ("a;ticket=ST-1", "a;ticket=***"),
            ("a=1;b=2", "a=1;b=2"),
            ("sql", "sql"),
            ("a=1&b", "a=1&b"),
            ("", ""),
        ] {
            assert_eq!(mask_query(query), masked);
        }
    }
}
