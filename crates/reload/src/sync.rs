//! The primitives of the signal that a generation was replaced. `crates/model` has a module of this name too, with the
//! same names for a scheduler's: so `generation.rs` runs there as it is.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use tokio::sync::Notify;
