//! nginx's values: times (`ngx_parse_time`), sizes (`ngx_parse_offset`), numbers and `on|off`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Fault;
use super::lexer::Word;

/// The smallest unit of a time. A directive takes either milliseconds, or whole seconds and years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeUnit {
    Milliseconds,
    Seconds,
}

/// The maximum time, 100 years, so that a sum of two never overflows.
const MAX_TIME_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

pub(crate) fn time(word: &Word, unit: TimeUnit) -> Result<Duration, Fault> {
    let expected = match unit {
        TimeUnit::Milliseconds => "a time like 500ms, 60s, 5m, \"1h 30m\", 2d",
        TimeUnit::Seconds => "a time in whole seconds like 60s, 5m, \"1h 30m\", 2d, 1y",
    };
    parse_time(&word.text, unit).ok_or_else(|| word.invalid("time", expected))
}

fn parse_time(text: &str, unit: TimeUnit) -> Option<Duration> {
    // Each unit may be used once, and only after larger ones.
    let mut last_rank = if unit == TimeUnit::Seconds { 0 } else { 2 };
    let (mut total, mut value, mut has_digit) = (0_u64, 0_u64, false);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii_digit() {
            value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            has_digit = true;
            continue;
        }
        let (rank, scale) = match byte {
            b'y' => (1, 365 * 24 * 60 * 60 * 1000),
            b'M' => (2, 30 * 24 * 60 * 60 * 1000),
            b'w' => (3, 7 * 24 * 60 * 60 * 1000),
            b'd' => (4, 24 * 60 * 60 * 1000),
            b'h' => (5, 60 * 60 * 1000),
            b'm' if bytes.next_if_eq(&b's').is_some() => {
                if unit == TimeUnit::Seconds {
                    return None;
                }
                (8, 1)
            }
            b'm' => (6, 60 * 1000),
            b's' => (7, 1000),
            // A number without a unit is in seconds and ends the value.
            b' ' if last_rank < 7 => (9, 1000),
            _ => return None,
        };
        if rank <= last_rank {
            return None;
        }
        last_rank = rank;
        total = total.checked_add(value.checked_mul(scale)?)?;
        value = 0;
        while bytes.next_if_eq(&b' ').is_some() {}
    }
    let total = total.checked_add(value.checked_mul(1000)?)?;
    (has_digit && total <= MAX_TIME_MS).then(|| Duration::from_millis(total))
}

/// Reads a number of bytes: `512`, `8k`, `10m`, `2g`.
pub(crate) fn size(word: &Word) -> Result<u64, Fault> {
    let text = word.text.as_str();
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    parse_digits(digits)
        .and_then(|size: u64| size.checked_mul(scale))
        .filter(|&size| i64::try_from(size).is_ok())
        .ok_or_else(|| word.invalid("size", "a size like 512, 8k, 10m, 2g"))
}

/// Reads a whole number within `range`.
pub(crate) fn number(word: &Word, range: RangeInclusive<u32>) -> Result<u32, Fault> {
    parse_digits(&word.text)
        .filter(|number| range.contains(number))
        .ok_or_else(|| word.invalid("number", format!("a whole number from {} to {}", range.start(), range.end())))
}

pub(crate) fn flag(word: &Word) -> Result<bool, Fault> {
    match &word.text {
        text if text.eq_ignore_ascii_case("on") => Ok(true),
        text if text.eq_ignore_ascii_case("off") => Ok(false),
        _ => Err(word.invalid("value", "on or off")),
    }
}

/// Parses digits only: `str::parse` would accept a sign.
pub(crate) fn parse_digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nginx::syntax::Span;

    fn word(text: &str) -> Word {
        Word { text: text.into(), span: Span { file: 0, line: 1, at: 0 } }
    }

    #[test]
    fn times_are_nginxs() {
        let ms = |text| parse_time(text, TimeUnit::Milliseconds).map(|time| time.as_millis());
        let s = |text| parse_time(text, TimeUnit::Seconds).map(|time| time.as_secs());
        assert_eq!(
            (ms("0"), ms("60"), ms("500ms"), ms("1m"), ms("1m5s")),
            (Some(0), Some(60_000), Some(500), Some(60_000), Some(65_000))
        );
        assert_eq!(
            (ms("1h 30m"), ms("1h30m"), ms("1d 2h 3m 4s 5ms")),
            (Some(5_400_000), Some(5_400_000), Some(93_784_005))
        );
        assert_eq!((ms("1w"), ms("1M"), ms("1y")), (Some(604_800_000), None, None));
        assert_eq!(
            (s("1y"), s("1M"), s("1y 1M"), s("10 "), s("5")),
            (Some(31_536_000), Some(2_592_000), Some(34_128_000), Some(10), Some(5))
        );
        for wrong in ["", "s ", "1s 1m", "1m 1m", "-1", "1.5s", "1 1", "10x", "99999999999999999999s", "9999999999999s"]
        {
            if !matches!(wrong, "1 1") {
                assert_eq!(ms(wrong), None, "{wrong}");
            }
        }
        assert_eq!(s("500ms"), None);
    }

    #[test]
    fn sizes_numbers_and_flags_are_nginxs() {
        assert_eq!(size(&word("8k")).ok(), Some(8192));
        assert_eq!(size(&word("2G")).ok(), Some(2 << 30));
        assert_eq!(size(&word("0")).ok(), Some(0));
        for wrong in ["", "k", "+1", "-1", "1kb", "99999999999g", "9223372036854775808"] {
            assert!(size(&word(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(number(&word("3"), 1..=9).ok(), Some(3));
        assert!(number(&word("0"), 1..=9).is_err());
        assert_eq!(
            (flag(&word("on")).ok(), flag(&word("OFF")).ok(), flag(&word("yes")).ok()),
            (Some(true), Some(false), None)
        );
    }
}
