//! A histogram of latencies: constant size, percentiles within 3 %.

use std::time::Duration;

/// Steps in each doubling.
const STEPS: usize = 32;
/// Doublings from 1 µs: up to 2^36 µs, some 19 hours.
const DOUBLINGS: usize = 36;

/// Counts latencies.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * DOUBLINGS], total: 0, max: Duration::ZERO }
    }
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        let at = index(latency).min(self.counts.len() - 1);
        self.counts[at] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    /// The latency that `share` (0.0 to 1.0) of all stay below; zero when there is none.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        for (at, count) in self.counts.iter().enumerate() {
            sum += count;
            if sum >= wanted {
                return upper(at).min(self.max);
            }
        }
        Duration::ZERO
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }
}

fn index(latency: Duration) -> usize {
    let micros = (latency.as_secs_f64() * 1e6).max(1.0);
    (micros.log2() * STEPS as f64) as usize
}

/// The end of a step.
fn upper(at: usize) -> Duration {
    Duration::from_secs_f64(((at + 1) as f64 / STEPS as f64).exp2() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile(0.5), Duration::ZERO);
        for millis in 1..=1000 {
            latencies.add(Duration::from_millis(millis));
        }
        for (share, millis) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = latencies.percentile(share).as_secs_f64() * 1e3;
            assert!((found / millis - 1.0).abs() < 0.03, "{share}: {found} ms");
        }
        assert_eq!(latencies.max(), Duration::from_secs(1));
    }

    #[test]
    fn extremes_fit() {
        let mut latencies = Latencies::default();
        latencies.add(Duration::ZERO);
        latencies.add(Duration::from_secs(10_000_000));
        assert!(latencies.percentile(0.5) <= Duration::from_micros(2));
    }
}
