#![doc = include_str!("../README.md")]

mod client;
mod crypto;
mod following;
mod gate;
mod probe;
mod revocation;
mod server;

pub use certsource_reload::{self, Error, Reason};
pub use client::ClientTls;
pub use crypto::default_provider;
pub use gate::TlsGate;
pub use probe::Probe;
pub use revocation::{CrlExpiry, Revocation};
pub use rustls;
pub use server::{ClientAuth, ServerTls};
