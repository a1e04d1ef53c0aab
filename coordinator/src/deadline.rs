//! When a request's time is up.

use std::time::Duration;

use tonic::metadata::MetadataMap;

use crate::config::Deadlines;
use crate::convert::Invalid;

/// The time that a request has: what the client's `grpc-timeout` says, at most the configured most, or
/// else the configured default.
///
/// # Errors
/// The client's header is no timeout.
pub(crate) fn time_allowed(
    metadata: &MetadataMap,
    deadlines: &Deadlines,
) -> Result<Duration, Invalid> {
    let Some(header) = metadata.get("grpc-timeout") else {
        return Ok(deadlines.default);
    };
    let text = header.to_str().map_err(|_| Invalid::Timeout)?;
    let asked = parsed(text).ok_or(Invalid::Timeout)?;
    Ok(asked.min(deadlines.max))
}

/// Up to eight digits and a unit, as gRPC over HTTP/2 writes timeouts.
fn parsed(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINES: Deadlines = Deadlines {
        default: Duration::from_secs(600),
        max: Duration::from_secs(3600),
    };

    #[track_caller]
    fn check(header: &str, expected: Option<Duration>) {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", header.parse().unwrap());
        assert_eq!(
            time_allowed(&metadata, &DEADLINES).ok(),
            expected,
            "{header}"
        );
    }

    #[test]
    fn every_unit_is_known() {
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("40m", Some(Duration::from_millis(40)));
        check("50u", Some(Duration::from_micros(50)));
        check("60n", Some(Duration::from_nanos(60)));
        check("0S", Some(Duration::ZERO));
    }

    #[test]
    fn long_timeouts_are_cut_to_the_most() {
        check("2H", Some(DEADLINES.max));
        check("99999999H", Some(DEADLINES.max));
    }

    #[test]
    fn what_is_no_timeout_is_refused() {
        for header in [
            "",
            "S",
            "1",
            "1s",
            "123456789S",
            "-1S",
            "+1S",
            "1.5S",
            "1 S",
            " 1S",
        ] {
            check(header, None);
        }
        assert!(parsed("1é").is_none());
    }

    #[test]
    fn without_a_timeout_the_default_holds() {
        let allowed = time_allowed(&MetadataMap::new(), &DEADLINES);
        assert_eq!(allowed.unwrap(), DEADLINES.default);
    }
}
