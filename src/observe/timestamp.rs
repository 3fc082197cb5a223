use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A time of day in UTC, formatted for logs.
///
/// ```
/// use kylin_lb::observe::Timestamp;
/// use std::time::{Duration, UNIX_EPOCH};
///
/// let time = Timestamp::from(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
/// assert_eq!(time.to_string(), "2023-11-14T22:13:20.123Z");
/// assert_eq!(time.common_log().to_string(), "14/Nov/2023:22:13:20 +0000");
/// assert_eq!(time.iso8601().to_string(), "2023-11-14T22:13:20+00:00");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    millis: u64,
}

impl From<SystemTime> for Timestamp {
    /// A time before 1970 becomes the beginning of 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp { millis: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Timestamp {
    /// Returns the seconds since 1970, with milliseconds.
    pub fn unix_seconds(self) -> f64 {
        self.millis as f64 / 1000.0
    }

    /// Formats the time as the Common Log Format does.
    pub fn common_log(self) -> impl fmt::Display {
        CommonLog(self.parts())
    }

    /// Formats the time as nginx's `$time_iso8601` does: to the second, with the offset from UTC.
    pub fn iso8601(self) -> impl fmt::Display {
        Iso8601(self.parts())
    }

    fn parts(self) -> Parts {
        let seconds = self.millis / 1000;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // From days since 1970 to a date of the proleptic Gregorian calendar, in eras of 400 years
        // that begin in March (Howard Hinnant, "chrono-compatible low-level date algorithms").
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Parts {
            year,
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

struct CommonLog(Parts);

impl fmt::Display for CommonLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Parts { year, month, day, hour, minute, second } = &self.0;
        let month = MONTHS[usize::from(*month) - 1];
        write!(f, "{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000")
    }
}

struct Iso8601(Parts);

impl fmt::Display for Iso8601 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { year, month, day, hour, minute, second } = &self.0;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
    }
}

struct Parts {
    year: u64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl fmt::Display for Timestamp {
    /// Formats the time as RFC 3339 does, with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { year, month, day, hour, minute, second } = self.parts();
        let millis = self.millis % 1000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
