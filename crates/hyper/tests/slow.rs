//! A hundred peers that say their hello byte by byte, while the server rotates: nobody waits for them.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the figures")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use certsource_hyper::certsource_rustls::ClientAuth;
use certsource_hyper::rustls::{ClientConfig, ClientConnection};
use certsource_hyper::{TlsListener, serve};
use certsource_testkit::Ca;
use common::*;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const PEERS: usize = 100;
/// Between two bytes of one peer.
const PAUSE: Duration = Duration::from_millis(25);

fn hello(config: &Arc<ClientConfig>) -> Vec<u8> {
    let mut hello = Vec::new();
    let mut tls = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    tls.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickling_peers_slow_nobody_down_while_certificates_rotate() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let builder = TlsListener::builder(&files.reloader).client_auth(ClientAuth::Required);
    let listener = builder.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(|| async { "ok" }));
    tokio::spawn(serve(listener, app).into_future());
    let identity = ca.issue("client");
    let config = || Arc::new(client_config(&[&ca], Some(&identity), &TLS, &["http/1.1"]));

    let trickling = Arc::new(AtomicUsize::new(0));
    let peers: Vec<_> = (0..PEERS)
        .map(|_| {
            let (hello, trickling) = (hello(&config()), Arc::clone(&trickling));
            tokio::spawn(async move {
                loop {
                    let mut peer = TcpStream::connect(address).await.unwrap();
                    peer.set_nodelay(true).unwrap();
                    trickling.fetch_add(1, Ordering::SeqCst);
                    // Never whole: it is in its handshake until it begins again.
                    for byte in &hello[..hello.len() - 1] {
                        if peer.write_all(&[*byte]).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            })
        })
        .collect();
    until("all of them have begun", || trickling.load(Ordering::SeqCst) >= PEERS).await;

    let (is_over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            // A session is resumed, unless the server has rotated.
            let (config, is_over, asked) = (config(), Arc::clone(&is_over), Arc::clone(&asked));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let stream = soon(dial(&config, address, "localhost")).await.unwrap();
                    assert_eq!(soon(get_once(TokioIo::new(stream))).await.unwrap().0, 200);
                    took.push(begun.elapsed());
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                took
            })
        })
        .collect();
    for rotation in 1..=20 {
        files.set(&[&ca], &ca.issue("localhost")).await;
        until("requests pass", || asked.load(Ordering::SeqCst) >= rotation * 10).await;
    }
    is_over.store(true, Ordering::SeqCst);
    let mut took = Vec::new();
    for client in clients {
        took.extend(soon(client).await.unwrap());
    }
    for peer in peers {
        assert!(!peer.is_finished());
        peer.abort();
    }
    took.sort_unstable();
    let [p95, p99] = [95, 99].map(|percent| took[took.len() * percent / 100]);
    println!(
        "{PEERS} trickling peers, 20 rotations, {} new connections: p95 {p95:?}, p99 {p99:?}",
        took.len()
    );
    // A moment in which the machine stands still makes both clients late.
    assert!(p95 < Duration::from_secs(1), "p95 {p95:?}, p99 {p99:?}");
}
