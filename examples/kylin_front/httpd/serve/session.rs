//! Finds the session of a request as mod_proxy_balancer does: first in the URL, then in the
//! cookies.

use http::header::{self, HeaderMap};
use kylin_lb::Cluster;
use kylin_lb::endpoint::AdminState;

use crate::httpd::directives::{Balancer, Member, Sticky};

/// The session of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked<'s> {
    /// The name of the cookie or of the path parameter.
    pub name: Option<&'s str>,
    pub route: Option<String>,
}

impl<'s> Asked<'s> {
    /// Finds the session in the target of the request, with its query, or else in its cookies.
    pub fn of(balancer: &'s Balancer, target: &str, headers: &HeaderMap) -> Self {
        let Some(Sticky { cookie, parameter }) = &balancer.sticky else { return Asked::default() };
        let in_cookies = || {
            let all = headers.get_all(header::COOKIE).iter();
            all.filter_map(|value| value.to_str().ok()).find_map(|cookies| in_cookies(cookies, cookie))
        };
        let (name, value) = match in_url(target, parameter, balancer.colon_delimits) {
            Some(value) => (parameter, value),
            None => match in_cookies() {
                Some(value) => (cookie, value),
                None => return Asked::default(),
            },
        };
        let route = match balancer.separator {
            Some(separator) => value.split_once(char::from(separator)).map(|(_, route)| route),
            None => Some(value),
        };
        Asked { name: Some(name), route: route.filter(|route| !route.is_empty()).map(str::to_owned) }
    }

    /// Returns the member that the session names, preferably not a standby. If the member cannot
    /// serve and has a `redirect`, returns the member to which that leads.
    pub fn member<'b>(&self, balancer: &'b Balancer, cluster: &Cluster) -> Option<&'b Member> {
        let find = |route: &str| {
            let with_route = || balancer.members.iter().filter(|member| member.route.as_deref() == Some(route));
            with_route().find(|member| !member.status.standby).or_else(|| with_route().next())
        };
        let mut member = find(self.route.as_deref()?)?;
        if member.redirect.is_none() {
            return Some(member);
        }
        let status = cluster.status();
        let serves = |member: &Member| {
            let known = status.endpoints.iter().find(|endpoint| endpoint.id.as_str() == member.address);
            known.is_some_and(|endpoint| endpoint.admin_state != AdminState::Maintenance && endpoint.is_up())
        };
        // Redirects may form a cycle.
        for _ in &balancer.members {
            match &member.redirect {
                Some(redirect) if !serves(member) => member = find(redirect)?,
                _ => break,
            }
        }
        Some(member)
    }
}

/// Finds `NAME=VALUE` anywhere in a URL (mod_proxy_balancer.c, get_path_param).
fn in_url<'t>(url: &'t str, name: &str, colon_delimits: bool) -> Option<&'t str> {
    let ends: &[char] = if colon_delimits { &[';', '?', '&'] } else { &['?', '&'] };
    let (_, value) = url.match_indices(name).find_map(|(at, _)| {
        url[at + name.len()..].split_once('=').filter(|(between, value)| between.is_empty() && !value.is_empty())
    })?;
    value.split(ends).find(|value| !value.is_empty())
}

/// Finds a cookie (mod_proxy_balancer.c, get_cookie_param).
fn in_cookies<'t>(cookies: &'t str, name: &str) -> Option<&'t str> {
    cookies.match_indices(name).find_map(|(at, _)| {
        let begins = cookies[..at]
            .chars()
            .next_back()
            .is_none_or(|before| matches!(before, ';' | ',') || before.is_ascii_whitespace());
        let value = cookies[at + name.len()..].trim_ascii_start().strip_prefix('=')?;
        (begins && !value.is_empty()).then(|| value.split([';', ',']).next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_as_httpd_finds_them() {
        assert_eq!(in_url("/kylin;jsessionid=1.n2?x=1", "jsessionid", false), Some("1.n2"));
        assert_eq!(in_url("/kylin;jsessionid=1.n2;a=b", "jsessionid", false), Some("1.n2;a=b"));
        assert_eq!(in_url("/kylin;jsessionid=1.n2;a=b", "jsessionid", true), Some("1.n2"));
        assert_eq!(in_url("/kylin?jsessionid=1.n2&x", "jsessionid", false), Some("1.n2"));
        assert_eq!(in_url("/jsessionid/;jsessionid=1.n2", "jsessionid", false), Some("1.n2"));
        assert_eq!(in_url("/kylin;jsessionid=", "jsessionid", false), None);
        assert_eq!(in_cookies("a=b; JSESSIONID=1.n2; c=d", "JSESSIONID"), Some("1.n2"));
        assert_eq!(in_cookies("XJSESSIONID=1.n1;JSESSIONID = 2.n2", "JSESSIONID"), Some(" 2.n2"));
        assert_eq!(in_cookies("JSESSIONIDX=1.n1", "JSESSIONID"), None);
    }
}
