#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod closed;
mod derived;
mod event;
mod gate;
mod generation;
mod hooks;
mod hub;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
mod reloader;
mod status;
mod sync;
mod trace;

pub use certsource::machine::{Expiring, Regressed, Stale, Threshold};
pub use certsource::{self, Error, Reason};
pub use closed::{Closed, Unbuilt};
pub use derived::{Derived, Version};
pub use event::{Event, EventKind, Events, Failure, Lagged, Reload};
pub use gate::Gate;
pub use generation::{Generation, Retired};
pub use hub::Hub;
pub use reloader::{Builder, Generations, Reloader, WeakReloader};
pub use status::Status;
