//! The calls that log in, log out or need a login.

use http::Method;

use crate::kylin::path::NormalizedPath;

/// The path at which clients, and the crate itself, log in.
pub(crate) const AUTHENTICATION: &str = "/kylin/api/user/authentication";

/// Calls that Kylin serves without a login, by the beginning of their path below `/kylin/api/`.
/// Sources: apache/kylin 3.1.3 kylinSecurity.xml:234-267, and the calls that the security of Kylin
/// 5 permits to all.
const OPEN: [&str; 14] = [
    "user/authentication",
    "j_spring_security_check",
    "j_spring_security_logout",
    "logout",
    "admin/public_config",
    "admin/version",
    "health",
    "prometheus",
    "cache",
    "streaming_coordinator",
    "service_discovery",
    "jobs/spark",
    "epoch",
    "broadcast",
];

/// The effect of a request on the session of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionCall {
    /// `POST /user/authentication`: logs in with the credentials in `Authorization`.
    Login,
    /// Logs in with the form in the body.
    LoginForm,
    /// `GET /user/authentication`: asks who is logged in. Without a login the response is 200
    /// (3.1.3 UserController.java).
    WhoAmI,
    /// Logs out.
    Logout,
    /// Any other request.
    Other,
}

impl SessionCall {
    /// Classifies a request by its method and its path.
    pub(crate) fn of(method: &Method, path: &NormalizedPath<'_>) -> Self {
        // Spring treats a path with a trailing slash like the path without it.
        let path = path.as_str().trim_end_matches('/');
        let Some(below) = path.strip_prefix("/kylin/") else { return SessionCall::Other };
        let is_api = path.starts_with("/kylin/api/");
        match (method, below.strip_prefix("api/").unwrap_or(below)) {
            (&Method::POST, "user/authentication") if is_api => SessionCall::Login,
            (&Method::GET, "user/authentication") if is_api => SessionCall::WhoAmI,
            (&Method::DELETE, "user/authentication") if is_api => SessionCall::Logout,
            (&Method::POST, "login") if !is_api => SessionCall::LoginForm,
            (&Method::POST, "j_spring_security_check") => SessionCall::LoginForm,
            (&Method::GET | &Method::POST, "logout" | "j_spring_security_logout") => SessionCall::Logout,
            _ => SessionCall::Other,
        }
    }
}

/// Returns whether Kylin serves the path only to clients that are logged in.
///
/// The pages of the web interface are open, and so are a few calls. The list of projects is open in
/// Kylin 2.6 (2.6.6 kylinSecurity.xml), so a response to it shows no login.
pub(crate) fn needs_login(path: &NormalizedPath<'_>) -> bool {
    path.as_str().strip_prefix("/kylin/api/").is_some_and(|call| {
        let is_open = call.trim_end_matches('/') == "projects" || OPEN.iter().any(|open| call.starts_with(open));
        !is_open && !call.contains("/metrics")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> NormalizedPath<'_> {
        NormalizedPath::parse(path).unwrap()
    }

    #[test]
    fn logins_and_logouts_of_both_versions_are_recognised() {
        let call = |method: &str, path: &str| SessionCall::of(&method.parse().unwrap(), &normal(path));
        assert_eq!(call("POST", AUTHENTICATION), SessionCall::Login);
        assert_eq!(call("POST", "/kylin/api/user/authentication/"), SessionCall::Login);
        assert_eq!(call("GET", AUTHENTICATION), SessionCall::WhoAmI);
        assert_eq!(call("DELETE", AUTHENTICATION), SessionCall::Logout);
        assert_eq!(call("GET", "/kylin/j_spring_security_logout"), SessionCall::Logout);
        assert_eq!(call("POST", "/kylin/api/j_spring_security_logout"), SessionCall::Logout);
        assert_eq!(call("GET", "/kylin/logout"), SessionCall::Logout);
        assert_eq!(call("POST", "/kylin/login"), SessionCall::LoginForm);
        assert_eq!(call("POST", "/kylin/api/j_spring_security_check"), SessionCall::LoginForm);
        assert_eq!(call("GET", "/kylin/login"), SessionCall::Other);
        assert_eq!(call("POST", "/kylin/api/login"), SessionCall::Other);
        assert_eq!(call("POST", "/kylin/user/authentication"), SessionCall::Other);
        assert_eq!(call("POST", "/kylin/api/query"), SessionCall::Other);
        assert_eq!(call("GET", "/"), SessionCall::Other);
    }

    #[test]
    fn pages_and_public_calls_need_no_login() {
        for path in ["/kylin/api/projects/x", "/kylin/api/query", "/kylin/api/admin/config", "/kylin/api/user/x"] {
            assert!(needs_login(&normal(path)), "{path}");
        }
        for path in [
            "/kylin/",
            "/kylin/js/app.js",
            "/",
            AUTHENTICATION,
            "/kylin/api/j_spring_security_check",
            "/kylin/api/j_spring_security_logout",
            "/kylin/api/logout",
            "/kylin/api/admin/version",
            "/kylin/api/x/metrics",
            "/kylin/api/projects",
            "/kylin/api/projects/",
        ] {
            assert!(!needs_login(&normal(path)), "{path}");
        }
    }
}
