#![doc = include_str!("../README.md")]

// Their `pub(crate)` is that of their own crates, and not all of it is called here.
#[allow(dead_code, unreachable_pub, reason = "the real file, included as it is")]
#[path = "../../client/src/flow.rs"]
mod flow;
#[allow(dead_code, unreachable_pub, reason = "the real file, included as it is")]
#[path = "../../reload/src/generation.rs"]
mod generation;
#[allow(dead_code, unreachable_pub, reason = "the real file, included as it is")]
#[path = "../../client/src/pulse.rs"]
mod pulse;
#[allow(dead_code, unreachable_pub, reason = "the real file, included as it is")]
#[path = "../../client/src/ticket.rs"]
mod ticket;
#[allow(dead_code, unreachable_pub, reason = "the real file, included as it is")]
#[path = "../../client/src/waiting.rs"]
mod waiting;

mod sync;
mod world;

pub use world::{Fault, Kind, Plan, run};
