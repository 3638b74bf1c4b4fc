//! A debug endpoint and probes of one's own, with axum: `Status` serializes, and says what readiness needs.
//!
//! Readiness stays true while what is served is valid, also when a rotation is broken; liveness never looks at
//! certificates. The example breaks a rotation, asks itself, and ends. The endpoint is on loopback: a status names paths.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use certsource_reload::certsource::Files;
use certsource_reload::{Reloader, Status};
use certsource_testkit::{Ca, KubeletDir, Part};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("Example root");
    let (first, next) = (ca.issue("localhost"), ca.issue("localhost"));
    let volume = KubeletDir::new(&first)?;
    let reloader = Reloader::builder(Files::kubernetes(volume.path()))
        .every(Duration::from_secs(1))
        .start_async()
        .await?;

    let app = Router::new()
        .route("/debug/tls", get(debug))
        .route("/readyz", get(ready))
        .route("/healthz", get(|| async { "ok" }))
        .with_state(reloader.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let (status, body) = ask(address, "/debug/tls").await?;
    println!("{body}");
    ensure!(status == 200 && body.contains("\"generation\":1") && body.contains("\"reason\":null"));

    // A certificate without its key: a writer may be at work. For half a minute that is pending, and no failure.
    volume.write([
        ("ca.crt", first.root_pem()),
        ("tls.crt", next.chain_pem()),
        ("tls.key", first.key_pem()),
    ])?;
    ensure!(reloader.reload().await.is_err(), "the two do not match");
    let (_, body) = ask(address, "/debug/tls").await?;
    println!("{body}");
    ensure!(body.contains("\"reason\":null") && !body.contains("\"pending_seconds\":null"), "{body}");

    // A rotation that is cut: the status says so, and the last good generation is still ready.
    volume.torn_write(Part::Key)?;
    ensure!(reloader.reload().await.is_err(), "half a key is refused");
    let (_, body) = ask(address, "/debug/tls").await?;
    println!("{body}");
    ensure!(body.contains("\"generation\":1") && body.contains("\"reason\":\"malformed\""), "{body}");
    for path in ["/readyz", "/healthz"] {
        ensure!(ask(address, path).await?.0 == 200, "{path}");
    }
    Ok(())
}

/// Everything at one glance, times as RFC 3339. It holds no key.
async fn debug(State(reloader): State<Reloader>) -> impl IntoResponse {
    let status: Status = reloader.status();
    match serde_json::to_string(&status) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn ready(State(reloader): State<Reloader>) -> StatusCode {
    if reloader.status().is_ready_at(SystemTime::now()) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// What `curl` would show.
async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}
