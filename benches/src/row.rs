//! One figure, and how it is handed to `cargo xtask bench`: a line of JSON each. How it is shown is decided there.

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
    fn times_have_units_that_suit() {
        assert_eq!(time(8.4), "8 ns");
        assert_eq!(time(1_234.0), "1.23 µs");
        assert_eq!(time(4_560_000.0), "4.56 ms");
        assert_eq!(time(2.5e9), "2.50 s");
    }
}
