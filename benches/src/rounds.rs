//! Measuring two things in turns, and what is made of the numbers.

use std::time::{Duration, Instant};

use crate::row::Bar;

/// Numbers of one kind, sorted.
#[derive(Clone, Debug)]
pub struct Sample(Vec<f64>);

impl Sample {
    /// Sorts them.
    ///
    /// # Panics
    /// Without any number, or with one that is none.
    pub fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(|a, b| a.partial_cmp(b).expect("measured values are numbers"));
        Self(values)
    }

    /// The value below which this share (0.0 to 1.0) of them lies.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[((last as f64 * share).ceil() as usize).min(last)]
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[middle] } else { (self.0[middle - 1] + self.0[middle]) / 2.0 }
    }

    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Where the median of endless such numbers is, in 95 of 100 cases: between these two of them (a binomial count of how many
    /// lie below it, as a normal one).
    pub fn median_interval(&self) -> (f64, f64) {
        let (count, last) = (self.0.len() as f64, self.0.len() - 1);
        let off = 1.96 * count.sqrt() / 2.0;
        let low = ((count / 2.0 - off).floor() - 1.0).max(0.0) as usize;
        let high = (count / 2.0 + off).ceil() as usize;
        (self.0[low.min(last)], self.0[high.min(last)])
    }

    /// The same as text.
    pub fn interval_text(&self) -> String {
        let (low, high) = self.median_interval();
        format!("{low:.3}–{high:.3}")
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// Ours beside bare.
#[derive(Clone, Debug)]
pub struct Pair {
    /// What ours took, or gave.
    pub ours: Sample,
    /// What the bare alternative took, or gave.
    pub bare: Sample,
    /// Ours divided by bare, round by round.
    pub ratio: Sample,
}

impl Pair {
    /// Takes the rounds as they were measured, in order.
    pub fn new(ours: Vec<f64>, bare: Vec<f64>) -> Self {
        let ratio = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
        Self { ours: Sample::new(ours), bare: Sample::new(bare), ratio: Sample::new(ratio) }
    }

    /// The middle ratio and its quartiles, as text.
    pub fn ratio_text(&self) -> String {
        self.ratio_with(2)
    }

    /// The same, so that one sees on which side of the bar the middle ratio is.
    pub fn ratio_beside(&self, bar: Bar) -> String {
        self.ratio_with(bar.digits(self.ratio.median(), 2))
    }

    fn ratio_with(&self, digits: usize) -> String {
        let [low, middle, high] = [self.ratio.quantile(0.25), self.ratio.median(), self.ratio.quantile(0.75)];
        format!("{middle:.digits$} (quartiles {low:.2}–{high:.2})")
    }
}

/// Runs both in turns, the order changing each round, and takes what they return.
pub fn in_turns(rounds: usize, mut ours: impl FnMut() -> f64, mut bare: impl FnMut() -> f64) -> Pair {
    // One round to warm up.
    ours();
    bare();
    let (mut all_ours, mut all_bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            all_ours.push(ours());
            all_bare.push(bare());
        } else {
            all_bare.push(bare());
            all_ours.push(ours());
        }
    }
    Pair::new(all_ours, all_bare)
}

/// Nanoseconds of one call, taken over so many.
pub fn nanos(calls: u32, mut body: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        body();
    }
    start.elapsed().as_nanos() as f64 / f64::from(calls)
}

/// How many calls fill about this time.
pub fn calls_for(time: Duration, mut body: impl FnMut()) -> u32 {
    let mut calls = 1_u32;
    loop {
        let taken = nanos(calls, &mut body) * f64::from(calls);
        if taken >= 1e6 || calls >= 1 << 24 {
            return ((time.as_nanos() as f64 / taken) * f64::from(calls)).max(1.0) as u32;
        }
        calls *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let sample = Sample::new((1..=100).rev().map(f64::from).collect());
        assert_eq!(sample.quantile(0.99), 100.0);
        assert_eq!(sample.quantile(0.5), 51.0);
        assert_eq!(sample.quantile(0.0), 1.0);
        assert_eq!(sample.median(), 50.5);
        assert_eq!(Sample::new(vec![3.0]).quantile(0.99), 3.0);
    }

    #[test]
    fn the_interval_of_a_median_gets_narrow_with_the_number() {
        let interval = |count: u32| Sample::new((1..=count).map(f64::from).collect()).median_interval();
        assert_eq!(interval(1), (1.0, 1.0));
        // Of 100 numbers the 40th to the 61st, as in tables of the sign test.
        assert_eq!(interval(100), (40.0, 61.0));
        let (low, high) = interval(10_000);
        assert!(4_900.0 < low && high < 5_101.0 && low < 5_000.5 && 5_000.5 < high, "{low} {high}");
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        // The machine became ten times slower after the first round: each round's ratio is right all the same.
        let pair = Pair::new(vec![2.0, 20.0, 20.0], vec![1.0, 10.0, 10.0]);
        assert_eq!(pair.ratio.median(), 2.0);
        assert_eq!(pair.ratio_text(), "2.00 (quartiles 2.00–2.00)");
    }

    #[test]
    fn a_ratio_beside_its_bar_can_be_read() {
        let pair = Pair::new(vec![0.9774], vec![1.0]);
        assert_eq!(pair.ratio_beside(Bar::AtLeast(0.98)), "0.977 (quartiles 0.98–0.98)");
        assert_eq!(pair.ratio_beside(Bar::AtLeast(0.95)), "0.98 (quartiles 0.98–0.98)");
    }

    #[test]
    fn turns_alternate() {
        let order = std::cell::RefCell::new(String::new());
        let note = |mark| {
            order.borrow_mut().push(mark);
            1.0
        };
        in_turns(2, || note('o'), || note('b'));
        assert_eq!(*order.borrow(), "obobbo");
    }
}
