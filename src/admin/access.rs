//! Decides which requests may read the status and change the state.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use hmac::{Hmac, Mac as _};
use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN, VIA};
use http::uri::Authority;
use http::{HeaderMap, Request, StatusCode, Version};
use sha2::Sha256;

use super::Shared;
use super::refusal::Refusal;
use crate::proxy::is_named_by_proxies;
use crate::request::ClientAddr;

/// The header in which browsers say which page sends a request (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Stands for a peer that is not on this machine.
#[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "only a tower service has unknown peers"))]
pub(super) const UNKNOWN_PEER: ClientAddr = ClientAddr::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));

/// The bearer token of operators (RFC 6750), as a digest.
///
/// ```
/// use kylin_lb::admin::AdminToken;
///
/// // From `openssl rand -hex 32`, in a file that only operators can read.
/// let token = AdminToken::parse("1f2e3d4c5b6a79881f2e3d4c5b6a7988\n")?;
/// assert_eq!(format!("{token:?}"), "AdminToken");
/// assert!(AdminToken::parse("secret").is_err());
/// # Ok::<(), kylin_lb::admin::InvalidToken>(())
/// ```
#[derive(Clone)]
pub struct AdminToken([u8; 32]);

/// The error for a text that is not a token. It does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a token: expected 16 to 1024 letters, digits or -._~+/ in one line, such as from openssl rand -hex 32")]
pub struct InvalidToken;

impl AdminToken {
    /// Parses a token: 16 to 1024 characters that RFC 6750 allows, with `=` only after 16 others.
    /// Surrounding white space is ignored.
    ///
    /// # Errors
    /// [`InvalidToken`] if the text has another length or other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let token = text.trim();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        // Base64 padding is not part of the secret.
        let secret = token.trim_end_matches('=');
        if secret.len() < 16 || token.len() > 1024 || !secret.bytes().all(allowed) {
            return Err(InvalidToken);
        }
        Ok(AdminToken(digest(token.as_bytes()).finalize().into_bytes().into()))
    }

    /// Returns whether `token` is this one. The time does not depend on where they differ.
    fn verifies(&self, token: &[u8]) -> bool {
        digest(token).verify_slice(&self.0).is_ok()
    }
}

/// Digests are compared instead of tokens, so that the time reveals nothing about a token, not even
/// its length.
fn digest(token: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::new(&[0; 64].into());
    mac.update(token);
    mac
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

impl Shared {
    /// Checks that the request names this host.
    pub(super) fn check_host<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let host = host_of(request).ok_or(Refusal::new(StatusCode::BAD_REQUEST, "the request needs one valid Host"))?;
        let name = host.host().trim_start_matches('[').trim_end_matches(']');
        let is_own = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name));
        if is_own { Ok(()) } else { Err(self.deny(StatusCode::FORBIDDEN, "this host has another name")) }
    }

    /// Checks that the sender of a request for data may read the data.
    pub(super) fn check_reader<B>(&self, peer: ClientAddr, request: &Request<B>) -> Result<(), Refusal> {
        self.check_origin(request, true)?;
        match self.check_token(request.headers()) {
            Some(true) => Ok(()),
            None if !self.token_for_reading && is_local(peer, request) => Ok(()),
            _ if self.token.read().is_none() => Err(self.deny(
                StatusCode::FORBIDDEN,
                match self.token_for_reading {
                    false => "there is no token: the status is readable on this machine only",
                    true => "there is no token: the status is not readable",
                },
            )),
            _ => Err(self.deny(StatusCode::UNAUTHORIZED, "the status needs the token")),
        }
    }

    /// Checks that the sender of a request may change the state.
    pub(super) fn check_operator<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        self.check_origin(request, false)?;
        match self.check_token(request.headers()) {
            Some(true) => Ok(()),
            _ if self.token.read().is_none() => {
                Err(self.deny(StatusCode::FORBIDDEN, "there is no token: actions are off"))
            }
            _ => Err(self.deny(StatusCode::UNAUTHORIZED, "actions need the token")),
        }
    }

    /// Checks that no page of another origin sent the request. `typed` admits a request that the
    /// user started, for example in the address bar.
    pub(super) fn check_origin<B>(&self, request: &Request<B>, typed: bool) -> Result<(), Refusal> {
        let headers = request.headers();
        let same_site =
            headers.get_all(SEC_FETCH_SITE).iter().all(|site| site == "same-origin" || typed && site == "none");
        let same_origin = headers.get_all(ORIGIN).iter().all(|origin| {
            let authority = origin.to_str().ok().and_then(|origin| {
                origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))?.parse::<Authority>().ok()
            });
            authority.is_some() && authority == host_of(request)
        });
        match same_site && same_origin {
            true => Ok(()),
            false => Err(self.deny(StatusCode::FORBIDDEN, "the request comes from a page of another origin")),
        }
    }

    /// Returns whether the token is the right one; `None` if there is no token.
    fn check_token(&self, headers: &HeaderMap) -> Option<bool> {
        let mut all = headers.get_all(AUTHORIZATION).iter();
        let given = all.next()?.as_bytes();
        let is_bearer = given.len() > 7 && given[..7].eq_ignore_ascii_case(b"bearer ") && all.next().is_none();
        Some(is_bearer && self.token.read().as_ref().is_some_and(|token| token.verifies(given[7..].trim_ascii())))
    }

    fn deny(&self, status: StatusCode, message: &'static str) -> Refusal {
        self.denied.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(status = status.as_u16(), "admin request denied: {message}");
        Refusal::new(status, message)
    }
}

/// Returns the host that the request names, unless it names none or several.
fn host_of<B>(request: &Request<B>) -> Option<Authority> {
    let mut all = request.headers().get_all(HOST).iter().map(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let host = match (all.next(), all.next()) {
        (Some(host), None) => Some(host?),
        (None, _) => None,
        (Some(_), Some(_)) => return None,
    };
    let host = match (host, request.uri().authority()) {
        (Some(host), Some(target)) if host != *target => return None,
        (host, target) => host.or_else(|| target.cloned())?,
    };
    // `Host` must not have user information, which could hide the name from a reader of logs.
    (!host.as_str().contains('@')).then_some(host)
}

/// Returns whether the request comes from this machine, with no sign of a local proxy that forwards
/// for a client elsewhere. By default nginx adds no header, but before 1.29.7 it speaks HTTP/1.0.
fn is_local<B>(peer: ClientAddr, request: &Request<B>) -> bool {
    let is_peer_local = match peer {
        ClientAddr::Inet(address) => address.ip().to_canonical().is_loopback(),
        ClientAddr::Unix => true,
    };
    let is_of_proxy = |name: &HeaderName| *name == VIA || is_named_by_proxies(name.as_str());
    is_peer_local && request.version() != Version::HTTP_10 && !request.headers().keys().any(is_of_proxy)
}
