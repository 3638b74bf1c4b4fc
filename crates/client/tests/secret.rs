//! Invariant 10: no private byte is shown by the client, in its types, its errors, its events or `tracing`, while requests are
//! answered, refused and sent again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../../reload/tests/secret_heard/mod.rs"]
mod secret_heard;
#[path = "../../certsource/tests/secret_support/mod.rs"]
mod secret_support;

use std::sync::{Arc, Mutex};

use certsource_client::ServedBy;
use certsource_testkit::{Ca, KubeletDir};

use common::{Server, Tls, builder, until};
use secret_heard::Heard;
use secret_support::Shown;

#[tokio::test]
async fn nothing_that_the_client_says_holds_a_key() {
    let heard = Heard::default();
    tracing::subscriber::set_global_default(heard.clone()).unwrap();
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let issued = ca.issue("localhost");
    let mut shown = Shown::of(&issued);
    let dir = KubeletDir::new(&issued).unwrap();
    let server = Server::start(Tls::of(&issued).clients(&[&ca])).await;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let events = Arc::clone(&told);
    let building =
        builder(dir.path()).on_event(move |event| events.lock().unwrap().push(format!("{event:?}")));
    shown.debug(&building);
    let client = building.build().await.unwrap();
    shown.debug(&client);
    shown.debug(&client.downgrade());
    shown.debug(&*client.generation());
    shown.debug(&client.status());
    shown.text("its certificates", &format!("{:?}", client.certificates()));
    let request = client.get(server.url("/"));
    shown.debug(&request);
    let response = request.send().await.unwrap();
    shown.text("a response", &format!("{response:?}"));
    let served = response.extensions().get::<ServedBy>().cloned().unwrap();
    shown.debug(&served);
    shown.text("a snapshot", &format!("{:?}", client.snapshot()));

    // Nobody there; a server of an authority that is not trusted; one that refuses us.
    shown.error(&client.get("https://127.0.0.1:1/").send().await.unwrap_err());
    let foreign = other.issue("localhost");
    let stranger = Server::start(Tls::of(&foreign)).await;
    shown.error(&client.get(stranger.url("/")).send().await.unwrap_err());
    let strict = Server::start(Tls::of(&issued).clients(&[&other])).await;
    shown.error(&client.get(strict.url("/")).send().await.unwrap_err());

    // A key that does not belong, one that is cut, and another generation.
    let files = issued.files();
    let [(_, trust), (_, chain), (_, key)] = &files;
    for broken in [foreign.key_pem(), key[..key.len() / 2].to_owned()] {
        dir.write([("ca.crt", trust.clone()), ("tls.crt", chain.clone()), ("tls.key", broken)]).unwrap();
        shown.error(&client.reload().await.unwrap_err());
        shown.debug(&client.status());
    }
    dir.swap_all(trust.clone() + &other.certificate_pem(), &issued).unwrap();
    shown.debug(&*client.reload().await.unwrap());
    until("the hook is told", || told.lock().unwrap().len() >= 3).await;
    shown.text("events", &told.lock().unwrap().join("\n"));
    let text = heard.text();
    assert!(text.contains("certsource") || text.contains("reloaded"), "tracing heard nothing");
    shown.text("tracing", &text);
    #[cfg(feature = "blocking")]
    blocking(&mut shown, &dir);

    shown.is_all_of(
        "certsource-client",
        &["DrainDeadlinePassed", "Proxy", "Redirects", "Retire", "Unsaved", "BlockedInAsync", "Body"],
    );
}

#[cfg(feature = "blocking")]
fn blocking(shown: &mut Shown, dir: &KubeletDir) {
    let path = dir.path().to_owned();
    let texts = std::thread::scope(|scope| {
        let texts = scope.spawn(|| {
            let client = builder(&path).blocking().unwrap();
            let request = client.get("https://127.0.0.1:1/");
            [format!("{client:#?}"), format!("{request:#?}"), format!("{:#?}", request.send().unwrap_err())]
        });
        texts.join().unwrap()
    });
    for text in texts {
        shown.text("the client without a runtime", &text);
    }
}
