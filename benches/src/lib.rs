//! What the figures, the instruction counts and the soak share. Not published.
//!
//! Each figure is a ratio: ours and the bare alternative, measured in turns in one run, so that a noisy machine is
//! noisy for both. What is measured is in `bin/figures`; what runs for an hour is in `bin/soak`; what is counted in
//! instructions is in the member `benches/instructions`; what is counted in allocations is in `bin/counts.rs`.

pub mod bundle;
pub mod rig;
pub mod rounds;
pub mod row;
pub mod server;
pub mod usage;
