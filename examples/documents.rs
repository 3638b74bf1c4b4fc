//! The project's documents as modules, so that the code in them is compiled and run as documentation tests.
//!
//! There is nothing else here, and nothing at all outside of a test run.

/// From five lines to everything.
#[doc = include_str!("../docs/GUIDE.md")]
pub mod guide {}

/// Beside others; other libraries' types.
#[doc = include_str!("../docs/COMPARE.md")]
pub mod compare {}

/// From something else to this.
#[doc = include_str!("../docs/MIGRATE.md")]
pub mod migrate {}
