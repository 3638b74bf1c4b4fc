//! The listener below `axum::serve` and below tonic's own server: what it can promise there.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use certsource_hyper::certsource_rustls::ClientAuth;
use certsource_hyper::{Error, Follow, GuardLayer, ListenerBuilder, Peer, TlsListener};
use certsource_testkit::{Ca, Issued};
use common::*;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

async fn listener(files: &Followed, change: impl FnOnce(ListenerBuilder) -> ListenerBuilder) -> TlsListener {
    let builder = TlsListener::builder(&files.reloader).client_auth(ClientAuth::Required);
    change(builder).bind("127.0.0.1:0").await.unwrap()
}

async fn open(trust: &Ca, identity: &Issued, address: SocketAddr) -> http1::SendRequest<Empty<Bytes>> {
    let config = Arc::new(client_config(&[trust], Some(identity), &TLS, &["http/1.1"]));
    let stream = soon(dial(&config, address, "localhost")).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn axum_with_the_guard_refuses_who_was_withdrawn() {
    let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
    let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
    let listener = listener(&files, |builder| builder).await;
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<Peer>| async move { peer.address().to_string() }))
        .layer(GuardLayer::new())
        .into_make_service_with_connect_info::<Peer>();
    tokio::spawn(axum::serve(listener, app).into_future());
    let mut stays = open(&ca, &ca.issue("client"), address).await;
    let mut goes = open(&ca, &gone.issue("client"), address).await;
    for sender in [&mut stays, &mut goes] {
        assert!(soon(get_(sender)).await.unwrap().1.starts_with("127.0.0.1:"));
    }
    files.set(&[&ca], &ca.issue("localhost")).await;
    assert_eq!(soon(get_(&mut stays)).await.unwrap().0, 200);
    assert_eq!(soon(get_(&mut goes)).await.unwrap().0, 403);
    for sender in [&stays, &goes] {
        until("it was the last request of an old connection", || sender.is_closed()).await;
    }
}

use common::get as get_;

/// Who forgets the connect info hears of it at the first request, and not when somebody is withdrawn and stays.
#[tokio::test]
async fn the_guard_refuses_what_nobody_is_known_of() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    for (layer, status) in [(GuardLayer::new(), 500), (GuardLayer::new().let_others_pass(), 200)] {
        let reached = Arc::new(AtomicUsize::new(0));
        let listener = listener(&files, |builder| builder).await;
        let address = listener.local_addr().unwrap();
        let count = Arc::clone(&reached);
        let app = Router::new()
            .route("/", get(move || async move { count.fetch_add(1, Ordering::SeqCst).to_string() }));
        tokio::spawn(axum::serve(listener, app.layer(layer)).into_future());
        let mut sender = open(&ca, &ca.issue("client"), address).await;
        for _ in 0..2 {
            assert_eq!(soon(get_(&mut sender)).await.unwrap().0, status);
        }
        assert_eq!(reached.load(Ordering::SeqCst), if status == 200 { 2 } else { 0 });
    }
}

#[tokio::test]
async fn axum_with_a_deadline_cuts_idle_connections() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let listener = listener(&files, |builder| builder.drain(Duration::from_millis(200))).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(|| async { "ok" }))).into_future());
    let mut idle = open(&ca, &ca.issue("client"), address).await;
    assert_eq!(soon(get_(&mut idle)).await.unwrap().0, 200);
    files.set(&[&ca], &ca.issue("localhost")).await;
    until("it is cut", || idle.is_closed()).await;
}

/// The listener makes its handshakes beside each other, whoever owns the connections.
#[tokio::test]
async fn below_axum_slow_peers_stall_nobody() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let listener = listener(&files, |builder| builder).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/", get(|| async { "ok" }))).into_future());
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    for _ in 0..5 {
        // Less than the ten seconds after which the slow ones are given up.
        let asked = async { get_(&mut open(&ca, &ca.issue("client"), address).await).await.unwrap().0 };
        assert_eq!(tokio::time::timeout(Duration::from_secs(8), asked).await, Ok(200));
    }
}

#[tokio::test]
async fn tonics_own_server_with_the_guard_and_a_deadline() {
    let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
    let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
    let listener = listener(&files, |builder| builder.drain(Duration::from_secs(3))).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .layer(GuardLayer::new())
            .add_service(grpc::Echo)
            .serve_with_incoming(listener.incoming()),
    );
    let channel = async |identity: Issued| {
        let client = Followed::new(&[&ca], &identity);
        let connector = certsource_hyper::Connector::builder(&client.reloader).http2_only().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
        (client, Channel::new(connector, endpoint))
    };
    let (_stays, stays) = channel(ca.issue("client")).await;
    let (_goes, goes) = channel(gone.issue("client")).await;
    for channel in [&stays, &goes] {
        assert_eq!(soon(grpc::unary(channel.clone(), "hello".into())).await.unwrap(), "hello");
    }
    let (sender, mut receiver) = soon(grpc::stream(stays.clone())).await.unwrap();
    files.set(&[&ca], &ca.issue("localhost")).await;
    let refused = soon(grpc::unary(goes.clone(), "hello".into())).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    // The honest limit: without the deadline this stream would go on for ever.
    assert!(soon(receiver.message()).await.is_err());
    drop(sender);
    // A channel makes its next connection by itself.
    assert_eq!(soon(grpc::unary(stays.clone(), "again".into())).await.unwrap(), "again");
    assert!(soon(grpc::unary(goes, "again".into())).await.is_err());
}

/// Without a deadline: whoever may stay in keeps its stream over every rotation, and its calls go on.
#[tokio::test]
async fn a_stream_on_tonics_own_server_stays_open_over_rotations() {
    let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
    let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
    let listener = listener(&files, |builder| builder).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(
        tonic::transport::Server::builder()
            .layer(GuardLayer::new())
            .add_service(grpc::Echo)
            .serve_with_incoming(listener.incoming()),
    );
    let client = Followed::new(&[&ca], &ca.issue("client"));
    let connector = certsource_hyper::Connector::builder(&client.reloader).http2_only().build().unwrap();
    let endpoint = Endpoint::from_shared(format!("https://localhost:{}", address.port())).unwrap();
    let follow = Follow::new(
        connector.derive(move |connector| Ok::<_, Error>(Channel::new(connector, endpoint.clone()))).unwrap(),
    );
    let (sender, mut receiver) = soon(grpc::stream(follow.clone())).await.unwrap();
    for rotation in 0..20 {
        // The server's side, the client's, or both; the trust in clients loses a CA on the way.
        if rotation % 3 != 1 {
            let trust: &[&Ca] = if rotation < 10 { &[&ca, &gone] } else { &[&ca] };
            files.set(trust, &ca.issue("localhost")).await;
        }
        if rotation % 3 != 0 {
            client.set(&[&ca], &ca.issue("client")).await;
        }
        let text = rotation.to_string();
        soon(sender.send(text.clone())).await.unwrap();
        assert_eq!(soon(receiver.message()).await.unwrap(), Some(text.clone()));
        assert_eq!(soon(grpc::unary(follow.clone(), text.clone())).await.unwrap(), text);
    }
    drop(sender);
    assert_eq!(soon(receiver.message()).await.unwrap(), None);
}
