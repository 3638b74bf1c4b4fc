//! The README, the guide, the comparison and the migration page as modules, so that the code in them is compiled and
//! run as documentation tests.
//!
//! There is no code here.

/// The first page.
#[doc = include_str!("../README.md")]
pub mod readme {}

/// From five lines to everything.
#[doc = include_str!("GUIDE.md")]
pub mod guide {}

/// Beside others; other libraries' types.
#[doc = include_str!("COMPARE.md")]
pub mod compare {}

/// From something else to this.
#[doc = include_str!("MIGRATE.md")]
pub mod migrate {}
