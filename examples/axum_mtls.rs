//! An axum server and a client, both with certificates that rotate, each asking for the other's.
//!
//! `cargo run --example axum_mtls`
//!
//! Ten times both get new certificates, and at last a new CA, in the order that a rotation of a CA has: first both trust
//! both, then the certificates are the new CA's, then the old one goes. No request fails, and who still has a certificate of
//! the old CA is refused.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::routing::get;
use axum::{Extension, Router};
use certsource_client::{Client, Files};
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_rustls::{ClientAuth, TlsGate};
use certsource_hyper::{Peer, TlsListener, serve};
use certsource_testkit::{Ca, KubeletDir};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let server_files = KubeletDir::new(old.issue("localhost"))?;
    let client_files = KubeletDir::new(old.issue("billing"))?;

    // The server.
    let reloader =
        Reloader::builder(Files::kubernetes(server_files.path())).gate(TlsGate::new()?).start_async().await?;
    let app = Router::new().route(
        "/",
        get(|Extension(peer): Extension<Peer>| async move {
            format!("you came with generation {} of mine", peer.generation().number())
        }),
    );
    let listener =
        TlsListener::builder(&reloader).client_auth(ClientAuth::Required).bind("127.0.0.1:0").await?;
    let url = format!("https://localhost:{}/", listener.local_addr()?.port());
    tokio::spawn(serve(listener, app).into_future());

    // The client.
    let client = Client::builder().files(Files::kubernetes(client_files.path())).no_proxy().build().await?;
    // One that has the certificates of this moment for ever.
    let frozen = client.snapshot()?;
    println!("first      {}", client.get(&url).send().await?.text().await?);

    // Requests that never pause.
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move {
            let mut answered = 0_u32;
            while !stopped.has_changed()? {
                client.get(&url).send().await?.text().await?;
                answered += 1;
            }
            stopped.mark_unchanged();
            anyhow::Ok(answered)
        }
    });
    for _ in 0..10 {
        server_files.swap(old.issue("localhost"))?;
        client_files.swap(old.issue("billing"))?;
        reloader.reload().await?;
        client.reload().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let both = old.certificate_pem() + &new.certificate_pem();
    for (trust, ca) in [(&both, &old), (&both, &new), (&new.certificate_pem(), &new)] {
        server_files.swap_all(trust, ca.issue("localhost"))?;
        client_files.swap_all(trust, ca.issue("billing"))?;
        reloader.reload().await?;
        client.reload().await?;
    }
    println!("last       {}", client.get(&url).send().await?.text().await?);
    stop.send(true)?;
    let answered = load.await?.context("a request failed")?;
    println!("meanwhile  {answered} requests, none failed");

    let refused = frozen.get(&url).send().await.map(|response| response.status());
    println!("the frozen client: {refused:?}");
    ensure!(!refused.is_ok_and(|status| status.is_success()), "who has the old CA's certificate was let in");
    Ok(())
}
