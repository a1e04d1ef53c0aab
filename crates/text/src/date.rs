//! The date that chat templates print.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A date in UTC as chat templates print it: `24 Nov 2026`.
pub fn date(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    civil_date(since.as_secs() / 86_400)
}

/// The date `days` after 1 January 1970 (Hinnant's civil_from_days).
fn civil_date(days: u64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{day:02} {} {year}", MONTHS[month as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::civil_date;

    #[test]
    fn dates_are_civil() {
        assert_eq!(civil_date(0), "01 Jan 1970");
        assert_eq!(civil_date(11_016), "29 Feb 2000");
        assert_eq!(civil_date(20_781), "24 Nov 2026");
    }
}
