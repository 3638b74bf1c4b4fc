//! One figure, and how it is handed to `cargo xtask bench`: a line of JSON each. How it is shown is decided there.

use std::fmt;

use serde_json::{Value, json};

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name, for `--only`.
    pub id: &'static str,
    /// What is measured.
    pub what: String,
    /// Ours, with its unit.
    pub ours: String,
    /// The bare alternative, with its unit.
    pub bare: String,
    /// What the bar is about, as text.
    pub result: String,
    /// The bar, as text.
    pub bar: String,
    /// Whether it is met.
    pub is_met: bool,
    /// What one should know to read it.
    pub note: String,
}

impl Row {
    /// As a line.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "what": self.what,
            "ours": self.ours,
            "bare": self.bare,
            "result": self.result,
            "bar": self.bar,
            "met": self.is_met,
            "note": self.note,
        })
    }
}

/// What a figure is held against, in the figure's own unit.
#[derive(Clone, Copy, Debug)]
pub enum Bar {
    /// It must not be less.
    AtLeast(f64),
    /// It must not be more.
    AtMost(f64),
}

impl Bar {
    /// Whether this value is good enough.
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bar) => value >= bar,
            Self::AtMost(bar) => value <= bar,
        }
    }

    /// How many digits after the point a value is printed with: so many, or more, until what is printed gets the verdict
    /// that the value got. So nobody reads "0.98, at least 0.98, missed".
    pub fn digits(self, value: f64, least: usize) -> usize {
        let tells = |digits: &usize| {
            let printed: f64 = format!("{value:.digits$}").parse().expect("a number that was printed");
            self.is_met_by(printed) == self.is_met_by(value)
        };
        // With 17 digits after the point, what is printed of a ratio near a bar is the ratio.
        (least..17).find(tells).unwrap_or(17)
    }

    /// The value with that many digits.
    pub fn show(self, value: f64, least: usize) -> String {
        format!("{value:.*}", self.digits(value, least))
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bar) => write!(f, "≥ {bar}"),
            Self::AtMost(bar) => write!(f, "≤ {bar}"),
        }
    }
}

/// Nanoseconds with a unit that suits them.
pub fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.2} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_rounds_to_its_bar_shows_on_which_side_it_is() {
        let least = Bar::AtLeast(0.98);
        assert_eq!(least.show(0.9774, 2), "0.977");
        assert_eq!(least.show(0.97996, 2), "0.97996");
        assert_eq!(least.show(0.98, 2), "0.98");
        assert_eq!(least.show(0.9812, 2), "0.98", "it is met, and reads so");
        assert_eq!(least.show(0.9312, 2), "0.93");
        let most = Bar::AtMost(1.3);
        assert_eq!(most.show(1.3004, 2), "1.3004");
        assert_eq!(most.show(1.2996, 2), "1.30");
        assert_eq!(most.show(1.4, 2), "1.40");
        // The next number that there is.
        assert_ne!(least.show(0.98_f64.next_down(), 2), "0.98");
        assert_eq!([least, most].map(|bar| bar.to_string()), ["≥ 0.98", "≤ 1.3"]);
    }

    #[test]
    fn times_have_units_that_suit() {
        assert_eq!(time(8.4), "8 ns");
        assert_eq!(time(1_234.0), "1.23 µs");
        assert_eq!(time(4_560_000.0), "4.56 ms");
        assert_eq!(time(2.5e9), "2.50 s");
    }
}
