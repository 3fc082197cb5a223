//! The combined format. Its parts are appended as bytes, because formatting each part would cost
//! more than the rest of the observers' work.

use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Version;
use kylin_lb::EndpointId;
use kylin_lb::observe::{Attempt, Finished, Timestamp};

use super::line::Line;
use super::{CLIENT_CLOSED_REQUEST, MAX_VALUE, with_client};

/// Appends the line of a request.
pub(super) fn put_request(line: &mut Line, event: &Finished<'_>) {
    let request = event.request;
    with_client(request, |text| line.put(text));
    line.put_array(b" - ");
    match request.user() {
        Some(user) => put_value(line, user.as_bytes()),
        None => line.put_array(b"-"),
    }
    put_time_of_day(line, request.at());
    put(line, request.method().as_str());
    line.put_array(b" ");
    put_escaped(line, request.path().as_bytes());
    if let Some(query) = request.query() {
        line.put_array(b"?");
        put_escaped(line, query.as_bytes());
    }
    put_version(line, request.version());
    match event.status {
        Some(status) => put(line, status.as_str()),
        None => put_number(line, CLIENT_CLOSED_REQUEST.into()),
    }
    line.put_array(b" ");
    put_number(line, event.bytes);
    line.put_array(b" \"");
    match request.referer() {
        Some(referer) => put_value(line, referer.as_bytes()),
        None => line.put_array(b"-"),
    }
    line.put_array(b"\" \"");
    match request.user_agent() {
        Some(agent) => put_value(line, agent.as_bytes()),
        None => line.put_array(b"-"),
    }
    line.put_array(b"\"");
    let times = &event.times;
    put_named_time(line, b" rt=", times.total);
    put_named_time(line, b" wt=", times.waiting);
    put_named_time(line, b" qt=", times.queued);
    put_named_time(line, b" ct=", times.connecting);
    match times.first_byte {
        Some(time) => put_named_time(line, b" ht=", time),
        None => line.put_array(b" ht=-"),
    }
    line.put_array(b" end=");
    put(line, event.termination.as_str());
    line.put_array(b" class=");
    put(line, request.class().unwrap_or("-"));
    line.put_array(b" id=");
    put(line, request.id().unwrap_or("-"));
    line.put_array(b" node=");
    match event.shared {
        Some(endpoint) => put(line, EndpointId::as_str(endpoint)),
        None => put_list(line, event.attempts, ",", |line, attempt| put(line, attempt.endpoint.as_str())),
    }
    line.put_array(b" why=");
    put(line, why(event));
    line.put_array(b" us=\"");
    put_list(line, event.attempts, ", ", put_outcome);
    line.put_array(b"\" ut=\"");
    put_list(line, event.attempts, ", ", |line, attempt| put_time(line, attempt.total));
    line.put_array(b"\"");
}

/// Returns why the node of the response was picked.
fn why(event: &Finished<'_>) -> &'static str {
    match event.shared {
        Some(_) => "shared",
        None => event.attempts.last().map_or("-", |attempt| attempt.reason.as_str()),
    }
}

/// Appends the status of the response to an attempt, or why there is none.
fn put_outcome(line: &mut Line, attempt: &Attempt) {
    match (attempt.status, attempt.end) {
        (Some(status), _) => put(line, status.as_str()),
        (None, Some(end)) => put(line, end.as_str()),
        (None, None) => line.put_array(b"-"),
    }
}

#[inline]
fn put(line: &mut Line, text: &str) {
    line.put(text.as_bytes());
}

/// Appends the version after the target, and the end of the request line.
fn put_version(line: &mut Line, version: Version) {
    match version {
        Version::HTTP_11 => line.put_array(b" HTTP/1.1\" "),
        Version::HTTP_2 => line.put_array(b" HTTP/2.0\" "),
        // Writing to a line cannot fail.
        version => _ = write!(line, " {version:?}\" "),
    }
}

fn put_number(line: &mut Line, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.put(&digits[start..]);
}

/// Appends seconds with milliseconds, as nginx writes times.
fn put_time(line: &mut Line, duration: Duration) {
    let millis = millis(duration);
    match short_time(millis) {
        Some(text) => line.put_array(&text),
        None => {
            put_number(line, millis / 1000);
            // The digits after the point are those of the last second.
            line.put(&short_time(millis % 1000).unwrap_or_default()[1..]);
        }
    }
}

/// Appends a name and a time. Nearly all times have a single digit before the point, and are
/// appended as a whole.
fn put_named_time(line: &mut Line, name: &[u8; 4], duration: Duration) {
    let [a, b, c, d] = *name;
    match short_time(millis(duration)) {
        Some([seconds, point, tenths, hundredths, thousandths]) => {
            line.put_array(&[a, b, c, d, seconds, point, tenths, hundredths, thousandths]);
        }
        None => {
            line.put_array(name);
            put_time(line, duration);
        }
    }
}

/// Returns the duration in milliseconds, rounded.
fn millis(duration: Duration) -> u64 {
    duration.as_secs() * 1000 + u64::from((duration.subsec_nanos() + 500_000) / 1_000_000)
}

/// Returns a time of less than ten seconds as text.
fn short_time(millis: u64) -> Option<[u8; 5]> {
    if millis == 0 {
        return Some(*b"0.000");
    }
    let millis = u16::try_from(millis).ok().filter(|millis| *millis < 10_000)?;
    let digit = |unit: u16| b'0' + (millis / unit % 10) as u8;
    Some([digit(1000), b'.', digit(100), digit(10), digit(1)])
}

/// Appends a time of day in the Common Log Format, up to the quotation mark before the request
/// line. Many requests arrive within one second, for which a thread formats it only once.
fn put_time_of_day(line: &mut Line, at: SystemTime) {
    thread_local! {
        static LAST: RefCell<(Option<u64>, String)> = const { RefCell::new((None, String::new())) };
    }
    let second = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(last, text)| {
        if *last != Some(second) {
            *text = format!(" [{}] \"", Timestamp::from(at).common_log());
            *last = Some(second);
        }
        put(line, text);
    });
}

/// Appends one value per attempt, in nginx's form for several upstreams; `-` without attempts.
fn put_list(line: &mut Line, attempts: &[Attempt], separator: &str, value: impl Fn(&mut Line, &Attempt)) {
    let Some((first, others)) = attempts.split_first() else { return line.put_array(b"-") };
    value(line, first);
    for attempt in others {
        put(line, separator);
        value(line, attempt);
    }
}

/// Appends a value that a client chose, escaped; of a long value, only the beginning and an
/// ellipsis.
fn put_value(line: &mut Line, value: &[u8]) {
    if value.len() > MAX_VALUE {
        put_escaped(line, &value[..MAX_VALUE]);
        line.put_array(b"...");
    } else {
        put_escaped(line, value);
    }
}

/// Appends text, escaping bytes that could forge another value or another line, as in nginx
/// (`ngx_http_log_escape`). Quotes, backslashes and bytes that are not printable ASCII become
/// `\xXX`.
fn put_escaped(line: &mut Line, text: &[u8]) {
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    let are_all_plain = match text.last_chunk() {
        // The last bytes may be tested twice.
        Some(last) => are_plain(*last) && text.as_chunks().0.iter().all(|chunk| are_plain(*chunk)),
        None => text.iter().all(is_plain),
    };
    if are_all_plain {
        return line.put(text);
    }
    for byte in text {
        match is_plain(byte) {
            true => line.put_array(&[*byte]),
            false => _ = write!(line, "\\x{byte:02X}"),
        }
    }
}

/// Returns whether none of the bytes is escaped, for all of them at once.
fn are_plain(bytes: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let bytes = u64::from_le_bytes(bytes);
    // In each result, the highest bit of a byte is set if that byte is escaped. A borrow or carry
    // only comes from such a byte.
    let below = |limit: u8, bytes: u64| bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes;
    let equal = |byte: u8| below(1, bytes ^ (ONES * u64::from(byte)));
    let above = bytes.wrapping_add(ONES) | bytes;
    (below(0x20, bytes) | above | equal(b'"') | equal(b'\\')) & (ONES << 7) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_could_forge_a_field_is_escaped_wherever_it_stands() {
        for byte in 0..=u8::MAX {
            for length in [1, 7, 8, 9, 17] {
                for at in 0..length {
                    let mut text = vec![b'~'; length];
                    text[at] = byte;
                    let mut line = Line::new();
                    put_escaped(&mut line, &text);
                    let is_escaped = !(0x20..0x7f).contains(&byte) || b"\"\\".contains(&byte);
                    let shown = if is_escaped { format!("\\x{byte:02X}") } else { char::from(byte).to_string() };
                    let expected = format!("{}{shown}{}", "~".repeat(at), "~".repeat(length - at - 1));
                    assert_eq!(std::str::from_utf8(line.as_bytes()).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn times_are_seconds_with_three_digits() {
        for (micros, text) in [
            (0, "0.000"),
            (499, "0.000"),
            (500, "0.001"),
            (9_999_499, "9.999"),
            (9_999_500, "10.000"),
            (61_002_000, "61.002"),
            (7_200_999_600, "7201.000"),
        ] {
            let mut line = Line::new();
            put_time(&mut line, Duration::from_micros(micros));
            put_named_time(&mut line, b" rt=", Duration::from_micros(micros));
            assert_eq!(std::str::from_utf8(line.as_bytes()).unwrap(), format!("{text} rt={text}"));
        }
    }
}
