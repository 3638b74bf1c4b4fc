//! TLS servers that follow the generation: the listener, who is there, and the accept loop.

mod accepted;
mod guard;
mod listener;
mod peer;
mod serve;
mod site;

pub use accepted::TlsStream;
pub use guard::{Guard, GuardLayer, Guarding};
pub use listener::{Incoming, ListenerBuilder, TlsListener};
pub use peer::{Peer, Standing};
pub use serve::{Serve, serve};
