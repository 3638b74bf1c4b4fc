#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod confirm;
mod connector;
mod error;
mod follow;
mod metrics;
mod pool;
mod reactive;
mod refusal;
#[cfg(any(feature = "axum", feature = "tonic"))]
mod replay;
mod resend;
#[cfg(feature = "server")]
mod server;
mod stream;

pub use certsource_reload::{self, Closed, Error, Reason, Stale};
pub use certsource_rustls::{self, rustls};
pub use connector::{Builder, Connector};
pub use error::{ConnectError, ConnectErrorKind};
pub use follow::{Call, Follow};
pub use pool::{Noticing, Pooled};
pub use resend::{Resend, Resendable};
#[cfg(feature = "server")]
#[cfg_attr(docsrs, doc(cfg(feature = "server")))]
pub use server::{
    Guard, GuardLayer, Guarding, Incoming, ListenerBuilder, Peer, Serve, Standing, TlsListener, TlsStream,
    serve,
};
pub use stream::{ConnectionInfo, Stream};
