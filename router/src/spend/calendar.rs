//! UTC days and months: the periods of a budget.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_S: u64 = 86_400;

/// A UTC day, in days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Day(pub(super) u32);

impl Day {
    /// The day of `now`; a clock before 1970 counts as 1970-01-01.
    pub(super) fn of(now: SystemTime) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Self(u32::try_from(seconds / DAY_S).unwrap_or(u32::MAX))
    }

    /// The first day of its month.
    pub(super) fn month(self) -> Self {
        Self(self.0 - (self.civil().2 - 1))
    }

    /// The first day of the next month.
    pub(super) fn next_month(self) -> Self {
        // 31 days after a first one is in the next month: no month is longer, and none is shorter than 28 days.
        Self(self.month().0.saturating_add(31)).month()
    }

    /// Time from `now` to the start of this day.
    pub(super) fn starts_in(self, now: SystemTime) -> Duration {
        let start = UNIX_EPOCH + Duration::from_secs(u64::from(self.0) * DAY_S);
        start.duration_since(now).unwrap_or_default()
    }

    /// Year, month (1 to 12) and day of the month (1 to 31), in the Gregorian calendar.
    /// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
    pub(super) fn civil(self) -> (u32, u32, u32) {
        let shifted = u64::from(self.0) + 719_468; // days since 0000-03-01
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100); // from 1 March
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        (year as u32, month as u32, day as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        // seconds since 1970, year, month, day
        let table = [
            (0, (1970, 1, 1)),
            (86_399, (1970, 1, 1)),
            (86_400, (1970, 1, 2)),
            (951_782_399, (2000, 2, 28)),
            (951_782_400, (2000, 2, 29)),
            (1_709_251_199, (2024, 2, 29)),
            (1_709_251_200, (2024, 3, 1)),
            (1_795_478_400, (2026, 11, 24)),
            (4_107_542_400, (2100, 3, 1)),
        ];
        for (seconds, civil) in table {
            assert_eq!(Day::of(UNIX_EPOCH + Duration::from_secs(seconds)).civil(), civil, "{seconds}");
        }
        assert_eq!(Day::of(UNIX_EPOCH - Duration::from_secs(1)), Day(0));
    }

    #[test]
    fn four_hundred_years_counted_by_hand() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        let mut first = Day(0);
        for number in 0..146_097 {
            let today = Day(number);
            if day == 1 {
                first = today;
            }
            assert_eq!((today.civil(), today.month()), ((year, month, day), first));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            assert_eq!(today.next_month(), Day(first.0 + length));
            day += 1;
            if day > length {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    #[test]
    fn a_period_ends_at_midnight_utc() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_478_400 + 23 * 3600); // 2026-11-24 23:00
        let today = Day::of(now);
        assert_eq!(Day(today.0 + 1).starts_in(now), Duration::from_secs(3600));
        assert_eq!(today.next_month().starts_in(now), Duration::from_secs(6 * 86_400 + 3600));
        assert_eq!(today.starts_in(now), Duration::ZERO);
    }
}
