//! Binds a client to an endpoint with a signed cookie of the front end.
//!
//! The value is base64 of 29 bytes:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the format |
//! | 8 | the hash of the endpoint's id, masked |
//! | 4 | the time of expiry in seconds since 1970, masked |
//! | 16 | the tag |
//!
//! The tag is an HMAC-SHA-256 of the 12 bytes before they are masked, truncated to 16 bytes. The
//! mask is an HMAC-SHA-256 of the tag under another key (a synthetic initialisation vector, as in
//! RFC 5297). So a cookie reveals only whether it equals another one. It stays valid when endpoints
//! change their order or address, and cannot be forged without the secret.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, Request, Response, header};

use super::hook::{AfterResponse, EndpointHint, ResponseContext, SessionContext};
use crate::body::Body;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, Attributes, InvalidCookie, SameSite};
use crate::request::RequestContext;
use crate::session::Secret;
use crate::session::secret::Tagger;

/// The cookie of the front end: its name, its attributes, and the secret that signs it.
///
/// By default it is called `kylin_lb`, is valid for 12 hours, is renewed while it is used, ends
/// with the browser's session, and has the attributes `Path=/; HttpOnly; SameSite=Lax`.
#[derive(Clone)]
#[must_use]
pub struct StickyCookie {
    tags: Arc<[Tagger]>,
    masks: Arc<[Tagger]>,
    attributes: Attributes,
    valid_for: Duration,
    is_persistent: bool,
    clock: Arc<dyn Clock>,
}

/// The state that the strategy keeps for a request.
#[derive(Clone, Copy)]
pub(crate) struct Renewal {
    /// Whether the response sets the cookie. It does not if another endpoint served this request
    /// only because the bound one is full.
    is_due: bool,
}

/// The minimum lifetime. A cookie is renewed after half of its lifetime, in whole seconds.
const MIN_LIFETIME: Duration = Duration::from_secs(2);

const FORMAT: u8 = 1;
const MASKED: usize = 12;
const TAG: usize = 16;
const BYTES: usize = 1 + MASKED + TAG;
/// `BYTES` in base64.
const DIGITS: usize = 39;

impl StickyCookie {
    /// Returns a cookie that is signed with `secret`. Front ends with the same secret and name
    /// share their cookies.
    pub fn new(secret: Secret) -> Self {
        StickyCookie {
            tags: secret.taggers("sticky-cookie-tag"),
            masks: secret.taggers("sticky-cookie-mask"),
            attributes: Attributes::new("kylin_lb", "/"),
            valid_for: Duration::from_secs(12 * 3600),
            is_persistent: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the name. Default: `kylin_lb`.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `name` is empty or has characters that a name cannot have (RFC 6265,
    /// 4.1.1).
    pub fn name(mut self, name: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.attributes.set_name(name.into())?;
        Ok(self)
    }

    /// Sets the path below which browsers send the cookie. Default: `/`.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `path` does not begin with `/` or has characters that end an attribute.
    pub fn path(mut self, path: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.attributes.set_path(path.into())?;
        Ok(self)
    }

    /// Sets the domain to which browsers send the cookie, including its subdomains. Default: only
    /// the host that set it.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `domain` is empty or has characters that end an attribute.
    pub fn domain(mut self, domain: impl Into<String>) -> Result<Self, InvalidCookie> {
        self.attributes.set_domain(domain.into())?;
        Ok(self)
    }

    /// Sets whether browsers send the cookie only over TLS. Default: no. Enable it if clients reach
    /// the application over TLS.
    pub fn secure(mut self, secure: bool) -> Self {
        self.attributes.secure = secure;
        self
    }

    /// Sets whether the cookie is hidden from scripts. Default: yes.
    pub fn http_only(mut self, http_only: bool) -> Self {
        self.attributes.http_only = http_only;
        self
    }

    /// Sets which cross-site requests carry the cookie; `None` omits the attribute. Default:
    /// [`SameSite::Lax`].
    pub fn same_site(mut self, same_site: Option<SameSite>) -> Self {
        self.attributes.same_site = same_site;
        self
    }

    /// Sets how long the cookie is valid; it is renewed after half of that time. Default: 12 h,
    /// which is more than the 8 h that a session of Kylin may be idle.
    ///
    /// # Errors
    /// [`InvalidCookie`] if `time` is below 2 s.
    pub fn valid_for(mut self, time: Duration) -> Result<Self, InvalidCookie> {
        if time < MIN_LIFETIME {
            return Err(InvalidCookie::new(format!("{time:?}"), "lifetime"));
        }
        self.valid_for = time;
        Ok(self)
    }

    /// Sets whether browsers keep the cookie for as long as it is valid (`Max-Age`), beyond their
    /// own session. Default: no.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.is_persistent = persistent;
        self
    }

    /// Sets the clock of expiry. Default: the system clock.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(super) fn begin(&self, request: &RequestContext, fallback: EndpointHint) -> SessionContext<Renewal> {
        let own = self.attributes.name().as_bytes();
        let mut values = request.cookies().filter(|(name, _)| *name == own).map(|(_, value)| value);
        // If there are several cookies, at least one was planted, so none of them counts.
        let value = values.next().filter(|_| values.next().is_none());
        let (hint, is_due) = match value.and_then(|value| self.read(value)) {
            Some((id_hash, expires)) => {
                let left = u64::from(expires).saturating_sub(self.clock.unix());
                (EndpointHint::IdHash(id_hash), left < self.valid_for.as_secs() / 2)
            }
            None => (fallback, true),
        };
        SessionContext::new(hint, Renewal { is_due })
    }

    /// Removes the cookie from the request to the node.
    pub(super) fn strip(&self, request: &mut Request<Body>) {
        let own = self.attributes.name().as_bytes();
        cookie::retain(request.headers_mut(), |name, _| name != own);
    }

    pub(super) fn settle(
        &self,
        renewal: Renewal,
        context: &ResponseContext<'_>,
        response: &mut Response<Body>,
    ) -> AfterResponse {
        let (hint, endpoint) = (context.hint, context.endpoint);
        // If the bound endpoint is only temporarily full, the login there remains useful.
        let stays = hint.is_binding() && !hint.names(endpoint) && !context.move_reasons.bound_unavailable;
        if stays || !renewal.is_due && hint.names(endpoint) {
            return AfterResponse::Return;
        }
        let Some(line) = self.line(endpoint.hash64()) else { return AfterResponse::Return };
        response.headers_mut().append(header::SET_COOKIE, line);
        // A cookie that is only renewed names the same endpoint.
        if hint.names(endpoint) { AfterResponse::Return } else { AfterResponse::Bound }
    }

    /// Returns the hash of the endpoint's id and the time of expiry, if the value is authentic and
    /// valid.
    fn read(&self, value: &[u8]) -> Option<(u64, u32)> {
        if value.len() != DIGITS {
            return None;
        }
        let mut bytes = [0; BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(value, &mut bytes).ok()?;
        let [FORMAT, rest @ ..] = &bytes[..length] else { return None };
        let (masked, tag) = rest.split_at_checked(MASKED)?;
        self.tags.iter().zip(&*self.masks).find_map(|(tagger, masker)| {
            let plain = mask(masker, tag, masked.try_into().ok()?);
            if !tagger.verifies(&[&[FORMAT], &plain], tag) {
                return None;
            }
            let (id_hash, expires) = plain.split_first_chunk::<8>()?;
            let expires = u32::from_be_bytes(expires.try_into().ok()?);
            (u64::from(expires) > self.clock.unix()).then_some((u64::from_be_bytes(*id_hash), expires))
        })
    }

    fn value(&self, id_hash: u64) -> String {
        let expires = self.clock.unix().saturating_add(self.valid_for.as_secs());
        let mut plain = [0; MASKED];
        plain[..8].copy_from_slice(&id_hash.to_be_bytes());
        plain[8..].copy_from_slice(&u32::try_from(expires).unwrap_or(u32::MAX).to_be_bytes());
        let tag = &self.tags[0].tag(&[&[FORMAT], &plain])[..TAG];
        let mut bytes = [FORMAT; BYTES];
        bytes[1..=MASKED].copy_from_slice(&mask(&self.masks[0], tag, plain));
        bytes[1 + MASKED..].copy_from_slice(tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn line(&self, id_hash: u64) -> Option<HeaderValue> {
        let mut line = String::new();
        self.attributes.write(&self.value(id_hash), self.is_persistent.then_some(self.valid_for), &mut line);
        HeaderValue::try_from(line).ok()
    }
}

fn mask(masker: &Tagger, tag: &[u8], mut bytes: [u8; MASKED]) -> [u8; MASKED] {
    for (byte, mask) in bytes.iter_mut().zip(masker.tag(&[tag])) {
        *byte ^= mask;
    }
    bytes
}

impl From<Secret> for StickyCookie {
    fn from(secret: Secret) -> Self {
        StickyCookie::new(secret)
    }
}

impl fmt::Debug for StickyCookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyCookie").field("name", &self.attributes.name()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn cookie(secret: u8) -> StickyCookie {
        StickyCookie::new(Secret::new([secret; 32])).clock(ManualClock::new())
    }

    #[test]
    fn a_cookie_is_valid_until_it_expires() {
        let clock = ManualClock::new();
        let cookie = cookie(1).clock(clock.clone()).valid_for(Duration::from_secs(60)).unwrap();
        let value = cookie.value(7);
        assert_eq!(value.len(), DIGITS);
        assert_eq!(cookie.read(value.as_bytes()).map(|(digest, _)| digest), Some(7));
        clock.advance(Duration::from_secs(59));
        assert!(cookie.read(value.as_bytes()).is_some());
        clock.advance(Duration::from_secs(1));
        assert_eq!(cookie.read(value.as_bytes()), None);
    }

    /// Clients keep cookies across an upgrade. The value was computed with Python's `hmac`.
    #[test]
    fn a_cookie_of_format_1_is_read_and_written_as_it_was_released() {
        let secret = Secret::new(std::array::from_fn(|index| index as u8));
        let cookie = StickyCookie::new(secret).clock(ManualClock::new());
        let released = "ASCjlaBV2856WLKvXPbQ3xj4OmhhcLrsajAVIPI";
        assert_eq!(cookie.read(released.as_bytes()), Some((7, 1_767_225_600 + 12 * 3600)));
        assert_eq!(cookie.value(7), released);
    }

    #[test]
    fn a_previous_secret_still_reads_and_no_longer_writes() {
        let old = cookie(1);
        let new = StickyCookie::new(Secret::new([2; 32]).with_previous(Secret::new([1; 32]))).clock(ManualClock::new());
        assert!(new.read(old.value(7).as_bytes()).is_some());
        assert!(old.read(new.value(7).as_bytes()).is_none());
        assert!(cookie(3).read(old.value(7).as_bytes()).is_none());
    }

    #[test]
    fn the_header_has_the_configured_attributes() {
        let line =
            |cookie: StickyCookie| cookie.line(7).unwrap().to_str().unwrap().split_once("; ").unwrap().1.to_owned();
        assert_eq!(line(cookie(1)), "Path=/; HttpOnly; SameSite=Lax");
        let every = cookie(1).path("/kylin").unwrap().domain("example.org").unwrap().secure(true).http_only(false);
        let every = every.same_site(Some(SameSite::None)).persistent(true).valid_for(Duration::from_secs(60)).unwrap();
        assert_eq!(line(every), "Path=/kylin; Domain=example.org; Max-Age=60; Secure; SameSite=None");
        assert!(cookie(1).name("a;b").is_err() && cookie(1).name("").is_err());
        assert!(cookie(1).path("kylin").is_err() && cookie(1).path("/a; Secure").is_err());
        assert!(cookie(1).domain("a\r\nb").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_forged_value_is_read(value in "[A-Za-z0-9_-]{0,60}", bytes in proptest::collection::vec(0_u8.., 0..100)) {
            proptest::prop_assert_eq!(cookie(1).read(value.as_bytes()), None);
            proptest::prop_assert_eq!(cookie(1).read(&bytes), None);
        }

        #[test]
        fn no_altered_value_is_read(digest: u64, at in 0..DIGITS, other in "[A-Za-z0-9_-]") {
            let cookie = cookie(1);
            let value = cookie.value(digest);
            let mut altered = value.clone();
            altered.replace_range(at..=at, &other);
            proptest::prop_assert_eq!(cookie.read(altered.as_bytes()).is_some(), altered == value);
            proptest::prop_assert_eq!(cookie.read(&value.as_bytes()[..at]), None);
        }
    }
}
