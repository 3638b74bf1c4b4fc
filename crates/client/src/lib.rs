#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod asked;
#[cfg(feature = "blocking")]
#[cfg_attr(docsrs, doc(cfg(feature = "blocking")))]
pub mod blocking;
mod body;
mod builder;
mod causes;
mod client;
mod confirm;
mod connector;
mod drain;
mod factory;
mod failure;
mod flow;
mod handshakes;
mod lane;
mod made;
#[cfg(feature = "middleware")]
mod middleware;
mod payload;
mod proxy;
mod pulse;
mod reactive;
mod redirect;
mod refusal;
mod request;
mod send;
mod served;
mod sync;
mod ticket;
mod trace;
mod unread;
mod unsaved;
mod waiting;

pub use builder::Builder;
pub use certsource::machine::Policy;
pub use certsource::source::{Detector, Source};
pub use certsource::{Certificate, Error, Files, Material, Reason, Role, detect, push};
pub use certsource_reload::{
    self, Closed, Event, EventKind, Events, Expiring, Failure, Generation, Hub, Lagged, Reload, Reloader,
    Stale, Status, Threshold, Unbuilt,
};
pub use certsource_rustls::{self, CrlExpiry, Probe, Revocation, rustls};
pub use client::{Client, WeakClient};
pub use drain::DrainDeadlinePassed;
pub use factory::Retire;
pub use proxy::Proxy;
pub use redirect::Redirects;
pub use request::RequestBuilder;
pub use reqwest::{self, Response};
pub use served::ServedBy;
pub use unsaved::Unsaved;
