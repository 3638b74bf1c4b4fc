//! The program `certsource`.
fn main() {}
