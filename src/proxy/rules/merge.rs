//! Merges the responses of several nodes.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};

use crate::body::Body;
use crate::buffer::Reservation;
use crate::cookie::SetCookie;
use crate::kylin::fan_out::{Merge, best, concat, worst};
use crate::proxy::error_response::{ErrorResponse, NO_MEMORY_FOR_RESPONSE};

/// Merges responses into one; returns `None` if there are none. `reservation` is for a list, which
/// holds it until it was sent. `now` is in seconds since 1970.
///
/// # Errors
/// [`ErrorResponse`] if the budget has no bytes left for the list.
pub(super) fn merge_all(
    merge: Merge,
    mut responses: Vec<Response<Bytes>>,
    mut reservation: Reservation,
    now: u64,
) -> Result<Option<Response<Body>>, ErrorResponse> {
    // If no response is a list, any of them is better than an empty list.
    let is_list = |response: &Response<Bytes>| {
        response.status().is_success() && response.body().trim_ascii_start().starts_with(b"[")
    };
    let list = match merge {
        Merge::Concat if responses.iter().any(is_list) => {
            responses.retain(is_list);
            if !reservation.grow(responses.iter().map(|response| response.body().len()).sum()) {
                return Err(NO_MEMORY_FOR_RESPONSE);
            }
            let (list, invalid) = concat(responses.iter().map(|response| &response.body()[..]));
            (invalid < responses.len()).then_some(list)
        }
        Merge::Concat | Merge::Best | Merge::Worst | Merge::Logout => None,
    };
    let statuses = responses.iter().map(|response| response.status());
    let index = if merge == Merge::Worst { worst(statuses) } else { best(statuses) };
    let Some(mut response) = index.and_then(|index| responses.into_iter().nth(index)) else { return Ok(None) };
    if let Some(list) = list {
        *response.body_mut() = reservation.hold(list);
    }
    let length = HeaderValue::from(response.body().len());
    let headers = response.headers_mut();
    // These headers describe the response of one node. A session at that node only is of no use to
    // the client.
    for name in [header::ETAG, header::CONTENT_ENCODING, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    match merge {
        Merge::Logout => keep_deletions(headers, now),
        Merge::Best | Merge::Concat | Merge::Worst => _ = headers.remove(header::SET_COOKIE),
    }
    headers.insert(header::CONTENT_LENGTH, length);
    Ok(Some(response.map(Body::from)))
}

/// Removes each `Set-Cookie` that does not delete a cookie.
fn keep_deletions(headers: &mut HeaderMap, now: u64) {
    if let header::Entry::Occupied(lines) = headers.entry(header::SET_COOKIE) {
        let (name, lines) = lines.remove_entry_mult();
        let deletes = |line: &HeaderValue| SetCookie::parse(line).is_some_and(|cookie| cookie.deletes(now));
        let lines: Vec<_> = lines.filter(deletes).collect();
        for line in lines {
            headers.append(&name, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::buffer::BufferBudget;

    fn merge_in(merge: Merge, responses: Vec<Response<Bytes>>, now: u64) -> Option<Response<Body>> {
        merge_all(merge, responses, BufferBudget::new(None).reservation(None), now).unwrap()
    }

    fn response(status: u16, body: &'static str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert(header::SET_COOKIE, "JSESSIONID=x".parse().unwrap());
        response
    }

    #[test]
    fn lists_are_joined_and_other_responses_are_returned_as_they_are() {
        let merged = |merge, responses: &[(u16, &'static str)]| {
            let response =
                merge_in(merge, responses.iter().map(|(status, body)| response(*status, body)).collect(), 0)?;
            assert!(!response.headers().contains_key(header::SET_COOKIE));
            let body = response.body().whole().unwrap().clone();
            assert_eq!(response.headers()["content-length"], body.len().to_string());
            Some((response.status().as_u16(), String::from_utf8(body.to_vec()).unwrap()))
        };
        let is = |status, body: &str| Some((status, body.to_owned()));
        let (list, one) = (Merge::Concat, Merge::Best);
        assert_eq!(merged(list, &[(200, "[1]"), (500, "[2]"), (200, " [3,4]")]), is(200, "[1,3,4]"));
        assert_eq!(merged(list, &[(200, "<html>"), (200, "[]"), (200, "[1]")]), is(200, "[1]"));
        assert_eq!(merged(list, &[(502, "x"), (200, "{\"data\":[1]}"), (200, "{}")]), is(200, "{\"data\":[1]}"));
        assert_eq!(merged(list, &[(200, "[oh]"), (200, "[dear]")]), is(200, "[oh]"));
        assert_eq!(merged(list, &[(403, "no"), (502, "x")]), is(403, "no"));
        assert_eq!(merged(one, &[(502, "x"), (200, "[1]"), (200, "[2]")]), is(200, "[1]"));
        assert_eq!(merged(one, &[]), None);
        assert_eq!(merged(list, &[]), None);
    }
    #[test]
    fn only_deletions_of_cookies_are_kept_of_a_logout() {
        let mut response = response(302, "");
        for line in [
            "JSESSIONID=; Path=/kylin",
            "a=b; Max-Age=0",
            "c=d; Expires=Thu, 01-Jan-1970 00:00:10 GMT; Path=/kylin",
            "e=f; Max-Age=60",
            "g=h; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
        ] {
            response.headers_mut().append(header::SET_COOKIE, line.parse().unwrap());
        }
        let merged = merge_in(Merge::Logout, vec![response], 1_767_225_600).unwrap();
        let names = merged.headers().get_all(header::SET_COOKIE).iter().map(|line| &line.to_str().unwrap()[..2]);
        assert_eq!(names.collect::<Vec<_>>(), ["JS", "a=", "c="]);
    }
}
