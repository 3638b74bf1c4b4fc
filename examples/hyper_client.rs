//! hyper's own client, with a pool for each generation.
//!
//! `cargo run --example hyper_client`
//!
//! The server's CA is withdrawn. The client refuses it at the next request, although it had a connection and a session.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use anyhow::ensure;
use certsource_client::Files;
use certsource_examples::serve;
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_rustls::TlsGate;
use certsource_hyper::{ConnectionInfo, Connector, Error, Follow};
use certsource_testkit::{Ca, KubeletDir};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower_service::Service as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (old, new) = (Ca::new("old CA"), Ca::new("new CA"));
    let address = serve(&old.issue("localhost")).await?;
    let uri = format!("https://localhost:{}/", address.port());
    let files = KubeletDir::new(old.issue("client"))?;
    let reloader = Reloader::builder(Files::kubernetes(files.path())).gate(TlsGate::new()?).start()?;

    let connector = Connector::new(&reloader)?;
    let mut client = Follow::new(connector.derive(|connector| {
        Ok::<_, Error>(Client::builder(TokioExecutor::new()).build::<_, Empty<Bytes>>(connector))
    })?);

    let request = || Request::get(&uri).body(Empty::new());
    for _ in 0..3 {
        let response = client.call(request()?).await?;
        let info = response.extensions().get::<ConnectionInfo>().cloned();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{:?}  {info:?}", String::from_utf8_lossy(&body).trim());
        files.swap(old.issue("client"))?;
        reloader.reload().await?;
    }

    println!("\nThe old CA is withdrawn.\n");
    files.swap(new.issue("client"))?;
    reloader.reload().await?;
    let refused = client.call(request()?).await;
    ensure!(refused.is_err(), "the withdrawn CA was accepted");
    if let Err(error) = refused {
        println!("refused: {:#}", anyhow::Error::from(error));
    }
    Ok(())
}
