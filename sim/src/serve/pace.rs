//! Virtual time paced by real time.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant as RealInstant};

use stepdown_driver::Instant;

/// How much faster than real time virtual time runs: a decimal number, kept in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    thousandths: u64,
}

impl Speed {
    /// One virtual second a second.
    pub const REAL_TIME: Speed = Speed { thousandths: 1_000 };
    /// The fastest that can be asked for.
    pub const MAX: Speed = Speed { thousandths: 1_000_000_000 };
}

impl Default for Speed {
    fn default() -> Self {
        Speed::REAL_TIME
    }
}

/// A text that is no speed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a speed is a number from 0.001 to 1000000, with at most three decimals")]
pub struct NoSpeed;

impl FromStr for Speed {
    type Err = NoSpeed;

    /// Reads a decimal number: `10`, `0.5`, `2.25`.
    fn from_str(text: &str) -> Result<Self, NoSpeed> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
            return Err(NoSpeed);
        }
        let whole: u64 = whole.parse().map_err(|_| NoSpeed)?;
        let fraction: u64 = format!("{fraction:0<3}").parse().map_err(|_| NoSpeed)?;
        let thousandths = whole.checked_mul(1_000).ok_or(NoSpeed)? + fraction;
        if thousandths == 0 || thousandths > Speed::MAX.thousandths {
            return Err(NoSpeed);
        }
        Ok(Speed { thousandths })
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.thousandths / 1_000, self.thousandths % 1_000);
        match rest {
            0 => write!(f, "{whole}"),
            rest => write!(f, "{}", format!("{whole}.{rest:03}").trim_end_matches('0')),
        }
    }
}

/// Which virtual moment belongs to which real one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    speed: Speed,
    real: RealInstant,
    virtual_: Instant,
}

impl Pace {
    /// From `real` on, virtual time runs from `virtual_` on at `speed`.
    pub(crate) fn new(speed: Speed, real: RealInstant, virtual_: Instant) -> Self {
        Pace { speed, real, virtual_ }
    }

    /// The virtual moment at `real`.
    pub(crate) fn virtual_at(&self, real: RealInstant) -> Instant {
        let elapsed = real.saturating_duration_since(self.real).as_nanos();
        let nanos = elapsed * u128::from(self.speed.thousandths) / 1_000;
        self.virtual_ + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long after `real` the virtual moment `at` comes; rounded up, so that it has come then.
    pub(crate) fn wait(&self, real: RealInstant, at: Instant) -> Duration {
        let nanos =
            u128::from(at.saturating_duration_since(self.virtual_at(real)).as_nanos() as u64);
        let real_nanos = (nanos * 1_000).div_ceil(u128::from(self.speed.thousandths));
        Duration::from_nanos(u64::try_from(real_nanos).unwrap_or(u64::MAX))
    }

    /// The real moment it counts from.
    pub(crate) fn real_start(&self) -> RealInstant {
        self.real
    }

    /// From `real` on, runs from `virtual_` on.
    pub(crate) fn rebase(&mut self, real: RealInstant, virtual_: Instant) {
        *self = Pace::new(self.speed, real, virtual_);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_a_decimal_number() {
        for (text, shown) in [("10", "10"), ("0.5", "0.5"), ("2.250", "2.25"), ("1.0", "1")] {
            assert_eq!(text.parse::<Speed>().unwrap().to_string(), shown);
        }
        for wrong in ["", "0", "0.000", "-1", "max", "1e3", ".5", "5.", "0.0001", "99999999999"] {
            assert_eq!(wrong.parse::<Speed>(), Err(NoSpeed), "{wrong:?}");
        }
    }

    #[test]
    fn virtual_time_runs_at_its_speed_and_a_wait_ends_when_the_moment_has_come() {
        let real = RealInstant::now();
        let pace = Pace::new("2.5".parse().unwrap(), real, Instant::from_millis(10_000));
        assert_eq!(pace.virtual_at(real + Duration::from_secs(2)), Instant::from_millis(15_000));
        let at = Instant::from_nanos(10_000_000_001);
        let wait = pace.wait(real, at);
        assert_eq!(wait, Duration::from_nanos(1));
        assert!(pace.virtual_at(real + wait) >= at);
        assert_eq!(pace.wait(real + Duration::from_secs(9), at), Duration::ZERO);
    }
}
