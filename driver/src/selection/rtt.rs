//! Round-trip times of one server.

use std::collections::VecDeque;
use std::time::Duration;

/// How many samples the least round-trip time looks at.
const SAMPLES: usize = 10;
/// How many samples there must be before the least of them is told.
const MIN_SAMPLES: usize = 2;

/// The round-trip times of one server: a mean that forgets slowly, and the least of the last ten.
///
/// The mean is exponentially weighted with alpha 0.2, in whole nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTripTimes {
    mean: Option<Duration>,
    samples: VecDeque<Duration>,
}

impl RoundTripTimes {
    /// No sample yet.
    pub fn new() -> Self {
        RoundTripTimes::default()
    }

    /// A mean that was known before, without samples.
    pub fn with_mean(mean: Option<Duration>) -> Self {
        RoundTripTimes { mean, samples: VecDeque::new() }
    }

    /// Takes one more sample.
    pub fn add(&mut self, sample: Duration) {
        self.mean = Some(match self.mean {
            None => sample,
            Some(mean) => sample.saturating_add(mean.saturating_mul(4)) / 5,
        });
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The mean; `None` until there is a sample.
    pub fn mean(&self) -> Option<Duration> {
        self.mean
    }

    /// The least of the last ten samples; zero until there are two.
    pub fn min(&self) -> Duration {
        if self.samples.len() < MIN_SAMPLES {
            return Duration::ZERO;
        }
        self.samples.iter().copied().min().unwrap_or_default()
    }

    /// Forgets everything: the server was lost.
    pub fn reset(&mut self) {
        *self = RoundTripTimes::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_each_sample_enters_the_mean() {
        let mut times = RoundTripTimes::new();
        times.add(Duration::from_millis(10));
        times.add(Duration::from_millis(60));
        assert_eq!(times.mean(), Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_least_time_needs_two_samples_and_forgets_after_ten() {
        let mut times = RoundTripTimes::new();
        times.add(Duration::from_millis(1));
        assert_eq!(times.min(), Duration::ZERO);
        times.add(Duration::from_millis(5));
        assert_eq!(times.min(), Duration::from_millis(1));
        for _ in 0..9 {
            times.add(Duration::from_millis(5));
        }
        assert_eq!(times.min(), Duration::from_millis(5));
    }
}
