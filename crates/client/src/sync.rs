//! The primitives of the protocol between sending and retiring. `crates/model` has a module of this name too, with the
//! same names for a scheduler's: so the files that use these run there as they are.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

pub(crate) use certsource_reload::Retired;
pub(crate) use tokio::sync::Notify;
