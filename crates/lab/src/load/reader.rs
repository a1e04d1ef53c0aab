//! How clients read their answers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::dice::Dice;

/// Longest time of a share, milliseconds: a day.
const MS_MAX: u64 = 86_400_000;

/// How one client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Each message when it comes.
    Steady,
    /// Likewise, but it ends the call when this time is over.
    Leaves {
        /// After sending.
        after: Duration,
    },
    /// Waits after each message.
    Slow {
        /// For so long.
        pause: Duration,
    },
    /// Waits after the first message, and is steady from then on.
    Stalls {
        /// For so long.
        pause: Duration,
    },
}

/// Which shares of the clients are not steady.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readers {
    /// Leave at a random moment within this time.
    pub leave: Option<Share>,
    /// Wait for this time after each message.
    pub slow: Option<Share>,
    /// Wait for this time after the first message.
    pub stall: Option<Share>,
}

/// A share of the clients, and their time: `0.2:500` is a fifth of them, and half a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Above 0, at most 1.
    of: f64,
    /// At least a millisecond.
    time: Duration,
}

/// A text is no share.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{found:?} is no share of clients with a time, expected SHARE:MS such as 0.2:500, with a share above 0 and up to 1 and 1 to {MS_MAX} milliseconds"
)]
pub struct ParseShareError {
    found: String,
}

impl Reader {
    /// How long it waits after its message `index`, from 0.
    pub(super) fn pause_after(self, index: usize) -> Duration {
        match self {
            Reader::Slow { pause } => pause,
            Reader::Stalls { pause } if index == 0 => pause,
            _ => Duration::ZERO,
        }
    }

    /// When it leaves.
    pub(super) fn leaves_after(self) -> Option<Duration> {
        match self {
            Reader::Leaves { after } => Some(after),
            _ => None,
        }
    }

    /// Whether its pauses hold up its own answer.
    pub(super) fn waits(self) -> bool {
        matches!(self, Reader::Slow { .. } | Reader::Stalls { .. })
    }
}

impl Serialize for Reader {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Reader::Steady => "steady",
            Reader::Leaves { .. } => "leaves",
            Reader::Slow { .. } => "slow",
            Reader::Stalls { .. } => "stalls",
        })
    }
}

impl Readers {
    /// Whether the shares are together at most 1.
    pub fn fit(&self) -> bool {
        let shares = [self.leave, self.slow, self.stall];
        // Three tenths and seven tenths are a little more than 1 in binary.
        shares.iter().flatten().map(|share| share.of).sum::<f64>() <= 1.0 + 1e-9
    }

    pub(super) fn draw(&self, dice: &mut Dice) -> Reader {
        let (mut place, moment) = (dice.unit(), dice.unit());
        let mut is_in = |share: &Share| {
            let is_in = place < share.of;
            place -= share.of;
            is_in
        };
        if let Some(Share { time, .. }) = self.leave.filter(&mut is_in) {
            let after = time.mul_f64(moment);
            return Reader::Leaves { after };
        }
        if let Some(Share { time: pause, .. }) = self.slow.filter(&mut is_in) {
            return Reader::Slow { pause };
        }
        if let Some(Share { time: pause, .. }) = self.stall.filter(&mut is_in) {
            return Reader::Stalls { pause };
        }
        Reader::Steady
    }
}

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Share, ParseShareError> {
        parse(text).ok_or_else(|| ParseShareError {
            found: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Share> {
    let (of, ms) = text.split_once(':')?;
    let of: f64 = of.parse().ok()?;
    let ms: u64 = ms.parse().ok()?;
    let is_share = of > 0.0 && of <= 1.0 && (1..=MS_MAX).contains(&ms);
    is_share.then(|| Share {
        of,
        time: Duration::from_millis(ms),
    })
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.of, self.time.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_share_is_refused_with_what_is_one() {
        for text in ["", "0.2", "0:5", "-1:5", "1.1:5", "NaN:5", "0.2:0", "0.2:x"] {
            let error = text.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
            assert!(error.contains("0.2:500"), "{error}");
        }
        let share: Share = "0.25:40".parse().unwrap();
        assert_eq!(share.to_string(), "0.25:40");
    }

    #[test]
    fn shares_are_drawn_as_often_as_they_say() {
        let share = |text: &str| Some(text.parse::<Share>().unwrap());
        let readers = Readers {
            leave: share("0.3:1000"),
            slow: share("0.1:20"),
            stall: share("0.6:3000"),
        };
        assert!(readers.fit());
        let [mut leave, mut slow, mut stall] = [0; 3];
        for seed in 0..10_000 {
            match readers.draw(&mut Dice::new(seed, "reader")) {
                Reader::Steady => panic!("there is no share left"),
                Reader::Leaves { after } => {
                    assert!(after < Duration::from_secs(1));
                    leave += 1;
                }
                Reader::Slow { .. } => slow += 1,
                Reader::Stalls { .. } => stall += 1,
            }
        }
        // Standard errors are at most 50.
        for (found, expected) in [(leave, 3000_i32), (slow, 1000), (stall, 6000)] {
            assert!((found - expected).abs() < 200, "{found} of {expected}");
        }
        let slow = share("0.2:20");
        assert!(!Readers { slow, ..readers }.fit());
        let mut dice = Dice::new(1, "reader");
        assert_eq!(Readers::default().draw(&mut dice), Reader::Steady);
    }

    #[test]
    fn one_waits_after_each_message_and_one_after_the_first() {
        let pause = Duration::from_millis(20);
        let waits = |reader: Reader| [0, 1, 2].map(|index| reader.pause_after(index) == pause);
        assert_eq!(waits(Reader::Slow { pause }), [true, true, true]);
        assert_eq!(waits(Reader::Stalls { pause }), [true, false, false]);
        assert_eq!(waits(Reader::Leaves { after: pause }), [false; 3]);
    }
}
