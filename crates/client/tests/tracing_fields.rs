//! What goes to `tracing` from requests: the names of events and fields are a contract, and no path of a URL is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use certsource_testkit::{Ca, KubeletDir};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use common::{Server, Tls, client, soon, until};

type Fields = BTreeMap<&'static str, String>;

static TOLD: Mutex<Vec<(tracing::Level, Fields)>> = Mutex::new(Vec::new());

struct Visitor(Fields);

impl Visit for Visitor {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

struct Recorder;

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "certsource"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut visitor = Visitor(Fields::new());
        event.record(&mut visitor);
        TOLD.lock().unwrap_or_else(PoisonError::into_inner).push((*event.metadata().level(), visitor.0));
    }
}

/// The first event of this name about this server, without its words.
#[track_caller]
fn event(server: &Server, name: &str) -> Fields {
    let told = TOLD.lock().unwrap();
    let server = server.url("");
    let found = told.iter().find(|(_, fields)| {
        fields["event"] == name && fields.get("server").is_none_or(|told| *told == server)
    });
    let Some((level, fields)) = found else { panic!("no {name} about {server}: {told:?}") };
    assert_eq!(*level, tracing::Level::DEBUG, "{name}");
    let mut fields = fields.clone();
    assert!(fields.remove("message").is_some_and(|words| !words.contains("secret")), "{name}");
    fields
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.keys().copied().collect()
}

// One test: the subscriber is the process's own.
#[tokio::test]
async fn requests_that_are_made_again_say_why() {
    tracing::subscriber::set_global_default(Recorder).unwrap();
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (old_leaf, new_leaf) = (old.issue("localhost"), new.issue("localhost"));
    let dir = KubeletDir::new(&old_leaf).unwrap();
    let client = client(&dir).await;
    let origin = client.status().origin.to_string();

    // A request waits for its connection while the generation is replaced.
    let slow = Server::start(Tls::of(&old_leaf).clients(&[&old])).await;
    slow.hold_handshakes();
    let waits = tokio::spawn(client.post(slow.url("/secret?token=secret")).body("secret").send());
    slow.held(1).await;
    dir.swap(old.issue("localhost")).unwrap();
    let reload = tokio::spawn({
        let client = client.clone();
        async move { client.reload().await.map(drop) }
    });
    until("the request moves", || {
        TOLD.lock().unwrap().iter().any(|(_, fields)| fields["event"] == "bounced")
    })
    .await;
    slow.release();
    soon(waits).await.unwrap().unwrap();
    soon(reload).await.unwrap().unwrap();
    let bounced = event(&slow, "bounced");
    assert_eq!(names(&bounced), ["event", "generation", "origin", "server"]);
    assert_eq!((&*bounced["generation"], &bounced["origin"]), ("1", &origin));

    // The old CA refuses the server: that asks for a look, and it finds the new one.
    dir.swap(&new_leaf).unwrap();
    let other = Server::start(Tls::of(&new_leaf)).await;
    client.get(other.url("/secret")).send().await.unwrap().text().await.unwrap();
    let refused = event(&other, "handshake_refused");
    assert_eq!(names(&refused), ["cause", "certain", "event", "generation", "origin", "server"]);
    assert_eq!((&*refused["generation"], &*refused["certain"]), ("2", "true"));
    assert!(refused["cause"].contains("UnknownIssuer"), "{refused:?}");
    let reactive = event(&other, "reactive");
    assert_eq!(names(&reactive), ["event", "generation", "newer", "origin"]);
    assert_eq!((&*reactive["generation"], &*reactive["newer"]), ("2", "true"));
    let resent = event(&other, "resent");
    assert_eq!(names(&resent), ["because", "event", "generation", "origin", "server"]);
    assert_eq!((&*resent["because"], &*resent["generation"]), ("refused", "2"));

    for (_, fields) in TOLD.lock().unwrap().iter() {
        assert!(!fields.values().any(|value| value.contains("secret")), "{fields:?}");
    }
}
