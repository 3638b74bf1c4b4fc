//! Servers: whom a reload refuses, and what becomes of connections that are open. What many reloads keep is in `reloads.rs`.
#![cfg(all(feature = "axum", feature = "tonic"))]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use certsource_hyper::certsource_rustls::{ClientAuth, ServerTls};
use certsource_hyper::rustls::pki_types::UnixTime;
use certsource_hyper::rustls::time_provider::TimeProvider;
use certsource_hyper::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use certsource_hyper::{ListenerBuilder, Peer, Standing, TlsListener, serve};
use certsource_testkit::{Ca, Issued};
use common::*;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HTTP1: &[&str] = &["http/1.1"];

fn app() -> Router {
    Router::new().route("/", get(|| async { "ok" }))
}

fn builder(files: &Followed) -> ListenerBuilder {
    TlsListener::builder(&files.reloader).client_auth(ClientAuth::Required)
}

async fn start(builder: ListenerBuilder, app: Router) -> SocketAddr {
    let listener = builder.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app).into_future());
    address
}

fn config(
    trust: &Ca,
    identity: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    Arc::new(client_config(&[trust], identity, versions, alpn))
}

/// A connection and a request: how the handshake went, and the status.
async fn ask(config: &Arc<ClientConfig>, address: SocketAddr) -> Result<(HandshakeKind, u16), String> {
    let stream = soon(dial(config, address, "localhost")).await.map_err(|error| error.to_string())?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let answer = soon(get_once(TokioIo::new(stream))).await.map_err(|error| error.to_string())?;
    Ok((kind, answer.0))
}

/// A connection that stays open.
async fn open(config: &Arc<ClientConfig>, address: SocketAddr) -> http1::SendRequest<Empty<Bytes>> {
    let stream = soon(dial(config, address, "localhost")).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A withdrawn CA: new handshakes, resumed ones, and connections that are open. The client that stays is not disturbed.
#[tokio::test]
async fn a_withdrawn_client_is_refused_everywhere() {
    for version in TLS {
        let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
        let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
        let address = start(builder(&files), app()).await;
        let kept = config(&ca, Some(&ca.issue("client")), &[version], HTTP1);
        let withdrawn = config(&ca, Some(&gone.issue("client")), &[version], HTTP1);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(ask(&kept, address).await.unwrap(), (kind, 200), "{version:?}");
            assert_eq!(ask(&withdrawn, address).await.unwrap(), (kind, 200), "{version:?}");
        }
        let mut idle = open(&withdrawn, address).await;
        assert_eq!(soon(get_(&mut idle)).await.unwrap().0, 200);
        let mut stays = open(&kept, address).await;
        assert_eq!(soon(get_(&mut stays)).await.unwrap().0, 200);

        files.set(&[&ca], &ca.issue("localhost")).await;
        for _ in 0..20 {
            assert!(ask(&withdrawn, address).await.is_err(), "{version:?}");
        }
        // An open connection is closed, or its request refused; whichever comes first.
        assert!(!matches!(soon(get_(&mut idle)).await, Ok((200, _))), "{version:?}");
        until("the idle connection closes", || idle.is_closed()).await;
        // A session of the older generation is not resumed, also not by who may come in.
        assert_eq!(soon(get_(&mut stays)).await.unwrap().0, 200, "{version:?}");
        until("it was its last", || stays.is_closed()).await;
        assert_eq!(ask(&kept, address).await.unwrap(), (HandshakeKind::Full, 200), "{version:?}");
    }
}

/// A clock that a test sets, in seconds.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

/// By it who comes is judged, and who is there when the generation changes.
#[tokio::test]
async fn a_clock_of_ones_own_judges_clients() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let clock = Arc::new(Clock(AtomicU64::new(UnixTime::now().as_secs())));
    let tls = ServerTls::with_provider(provider()).alpn(["http/1.1"]).time_provider(clock.clone());
    let address = start(builder(&files).tls(tls), app()).await;
    let client = |hours: u64| ca.leaf("client").valid_for(Duration::from_secs(hours * 3600)).issue();
    let (short, long) = (client(1), client(24));
    // Each without a session.
    let caller = |identity: &Issued| config(&ca, Some(identity), &TLS, HTTP1);
    let mut ends = open(&caller(&short), address).await;
    let mut stays = open(&caller(&long), address).await;
    for sender in [&mut ends, &mut stays] {
        assert_eq!(soon(get_(sender)).await.unwrap().0, 200);
    }
    clock.0.fetch_add(2 * 3600, Ordering::SeqCst);
    assert!(ask(&caller(&short), address).await.is_err());
    assert_eq!(ask(&caller(&long), address).await.unwrap().1, 200);
    files.set(&[&ca], &ca.issue("localhost")).await;
    assert!(!matches!(soon(get_(&mut ends)).await, Ok((200, _))));
    assert_eq!(soon(get_(&mut stays)).await.unwrap().0, 200);
}

use common::get as get_;

/// Holds what the server says until it is let through.
async fn between(
    server: SocketAddr,
    gate: tokio::sync::watch::Receiver<bool>,
) -> (SocketAddr, Arc<tokio::sync::Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spoke = Arc::new(tokio::sync::Notify::new());
    tokio::spawn({
        let spoke = Arc::clone(&spoke);
        async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut gate, spoke) = (gate.clone(), Arc::clone(&spoke));
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    tokio::spawn(async move {
                        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                        let _ = to_server.shutdown().await;
                    });
                    let mut first = [0; 16 * 1024];
                    let read = from_server.read(&mut first).await.unwrap();
                    spoke.notify_one();
                    gate.wait_for(|is_open| *is_open).await.unwrap();
                    to_client.write_all(&first[..read]).await.unwrap();
                    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
                });
            }
        }
    });
    (address, spoke)
}

#[tokio::test]
async fn a_handshake_that_spans_a_swap_is_judged_again() {
    for version in TLS {
        let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
        let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
        let server = start(builder(&files), app()).await;
        for (identity, is_let_in) in [(ca.issue("client"), true), (gone.issue("client"), false)] {
            files.set(&[&ca, &gone], &ca.issue("localhost")).await;
            let (gate, closed) = tokio::sync::watch::channel(false);
            let (address, spoke) = between(server, closed).await;
            let asking = tokio::spawn({
                let config = config(&ca, Some(&identity), &[version], HTTP1);
                async move { ask(&config, address).await }
            });
            soon(spoke.notified()).await;
            files.set(&[&ca], &ca.issue("localhost")).await;
            gate.send_replace(true);
            let answer = soon(asking).await.unwrap();
            assert_eq!(answer.is_ok_and(|answer| answer.1 == 200), is_let_in, "{version:?}");
        }
    }
}

/// A handshake that is done waits until somebody asks for it; by then its client may be withdrawn.
#[tokio::test]
async fn a_connection_that_waited_to_be_accepted_is_judged_again() {
    for version in TLS {
        let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
        let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
        let mut listener = builder(&files).bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        for (identity, is_let_in) in [(ca.issue("client"), true), (gone.issue("client"), false)] {
            files.set(&[&ca, &gone], &ca.issue("localhost")).await;
            let (gate, closed) = tokio::sync::watch::channel(false);
            let (address, spoke) = between(server, closed).await;
            let client = config(&ca, Some(&identity), &[version], HTTP1);
            let dialing = tokio::spawn(async move { dial(&client, address, "localhost").await });
            // Until its handshake has begun; it can not end before the gate opens.
            tokio::select! {
                stream = listener.accept() => panic!("{stream:?} is not done"),
                () = soon(spoke.notified()) => {}
            }
            gate.send_replace(true);
            let mut stream = soon(dialing).await.unwrap().unwrap();
            if version.version == ProtocolVersion::TLSv1_3 {
                // The server's tickets: it has verified the client's certificate.
                soon(stream.get_ref().0.peek(&mut [0])).await.unwrap();
            }
            files.set(&[&ca], &ca.issue("localhost")).await;
            let mut byte = [0];
            let end = tokio::select! {
                accepted = listener.accept() => {
                    assert_eq!(accepted.peer().standing(), Standing::Old, "{version:?}");
                    None
                }
                end = soon(stream.read(&mut byte)) => Some(end.unwrap_or(0)),
            };
            assert_eq!(end, (!is_let_in).then_some(0), "{version:?}");
        }
    }
}

/// HTTP/2: a stream that is open finishes, and the connection takes no new one.
#[tokio::test]
async fn http2_is_told_to_go_elsewhere_and_what_has_begun_finishes() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let release = Arc::new(tokio::sync::Notify::new());
    let app = app().route(
        "/slow",
        get({
            let release = Arc::clone(&release);
            move || async move {
                release.notified().await;
                "slow"
            }
        }),
    );
    let address = start(builder(&files), app).await;
    let client = config(&ca, Some(&ca.issue("client")), &TLS, &["h2"]);
    let stream = soon(dial(&client, address, "localhost")).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |path: &str| {
        hyper::Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).unwrap()
    };
    let slow = sender.send_request(request("/slow"));
    assert_eq!(soon(sender.send_request(request("/"))).await.unwrap().status(), 200);
    files.set(&[&ca], &ca.issue("localhost")).await;
    // The client is told to go elsewhere. What it sends before it has heard that is served.
    let told = async {
        while let Ok(response) = sender.send_request(request("/")).await {
            assert_eq!(response.status(), 200);
        }
    };
    soon(told).await;
    release.notify_one();
    assert_eq!(soon(slow).await.unwrap().status(), 200);
    drop(sender);
    soon(connection).await.unwrap().unwrap();
}

/// One HTTP/2 connection, and what it is driven by.
async fn open2(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
) -> (http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<Result<(), hyper::Error>>) {
    let stream = soon(dial(config, address, "localhost")).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn request2(path: &str) -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap()
}

/// `/slow` tells that it has begun, and waits.
#[derive(Clone, Default)]
struct Slow {
    begun: Arc<tokio::sync::Notify>,
    release: Arc<tokio::sync::Notify>,
    quick: Arc<AtomicUsize>,
}

impl Slow {
    fn app(&self) -> Router {
        let (slow, quick) = (self.clone(), Arc::clone(&self.quick));
        let quick = get(move || async move { quick.fetch_add(1, Ordering::SeqCst).to_string() });
        Router::new().route("/", quick).route(
            "/slow",
            get(move || async move {
                slow.begun.notify_one();
                slow.release.notified().await;
                "slow"
            }),
        )
    }
}

#[tokio::test]
async fn a_withdrawn_client_gets_nothing_more_on_an_open_http2_connection() {
    for version in TLS {
        let (ca, gone) = (Ca::new("CA"), Ca::new("gone"));
        let files = Followed::new(&[&ca, &gone], &ca.issue("localhost"));
        let slow = Slow::default();
        let address = start(builder(&files), slow.app()).await;
        let client = config(&ca, Some(&gone.issue("client")), &[version], &["h2"]);
        let (mut sender, connection) = open2(&client, address).await;
        assert_eq!(soon(sender.send_request(request2("/"))).await.unwrap().status(), 200);
        let waits = tokio::spawn(sender.send_request(request2("/slow")));
        soon(slow.begun.notified()).await;
        files.set(&[&ca], &ca.issue("localhost")).await;
        soon(async {
            while let Ok(response) = sender.send_request(request2("/")).await {
                assert_eq!(response.status(), 403, "{version:?}");
            }
        })
        .await;
        assert_eq!(slow.quick.load(Ordering::SeqCst), 1, "{version:?}: the application saw it");
        // What has begun finishes, and with it the connection ends.
        slow.release.notify_one();
        assert_eq!(soon(waits).await.unwrap().unwrap().status(), 200, "{version:?}");
        until("the connection is closed", || connection.is_finished()).await;
    }
}

#[tokio::test]
async fn a_drain_deadline_cuts_http2_and_nothing_else_does() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let (cut, patient) = (Slow::default(), Slow::default());
    let drain = Duration::from_millis(400);
    let cut_at = start(builder(&files).drain(drain), cut.app()).await;
    let patient_at = start(builder(&files), patient.app()).await;
    let client = config(&ca, Some(&ca.issue("client")), &TLS, &["h2"]);
    let (mut short, _short) = open2(&client, cut_at).await;
    let (mut long, _long) = open2(&client, patient_at).await;
    let (short, long) = (
        tokio::spawn(short.send_request(request2("/slow"))),
        tokio::spawn(long.send_request(request2("/slow"))),
    );
    soon(async { tokio::join!(cut.begun.notified(), patient.begun.notified()) }).await;
    let begun = Instant::now();
    files.set(&[&ca], &ca.issue("localhost")).await;
    let error = soon(short).await.unwrap().unwrap_err();
    assert!(begun.elapsed() >= drain, "{error} after {:?}", begun.elapsed());
    patient.release.notify_one();
    assert_eq!(soon(long).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_drain_deadline_cuts_and_nothing_else_does() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let release = Arc::new(tokio::sync::Notify::new());
    let [first, second] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let app = |begun: &Arc<tokio::sync::Notify>| {
        let (begun, release) = (Arc::clone(begun), Arc::clone(&release));
        Router::new().route(
            "/",
            get(move || async move {
                begun.notify_one();
                release.notified().await;
                "slow"
            }),
        )
    };
    let drain = Duration::from_millis(400);
    let cut = start(builder(&files).drain(drain), app(&first)).await;
    let patient = start(builder(&files), app(&second)).await;
    let client = config(&ca, Some(&ca.issue("client")), &TLS, HTTP1);
    let asked = |address| {
        let client = Arc::clone(&client);
        tokio::spawn(async move { ask(&client, address).await })
    };
    let (short, long) = (asked(cut), asked(patient));
    soon(async { tokio::join!(first.notified(), second.notified()) }).await;
    let begun = Instant::now();
    files.set(&[&ca], &ca.issue("localhost")).await;
    let error = soon(short).await.unwrap().unwrap_err();
    assert!(begun.elapsed() >= drain, "{error} after {:?}", begun.elapsed());
    release.notify_waiters();
    release.notify_one();
    assert_eq!(soon(long).await.unwrap().unwrap().1, 200);
}

/// Peers that connect and say nothing, or half a hello, stall nobody; nor do more of them than there is room for.
#[tokio::test]
async fn slow_peers_stall_nobody() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let wide = start(builder(&files), app()).await;
    let narrow = start(builder(&files).max_handshakes(8), app()).await;
    let client = config(&ca, Some(&ca.issue("client")), &TLS, HTTP1);
    for address in [wide, narrow] {
        let mut slow = Vec::new();
        for n in 0..100 {
            let mut peer = TcpStream::connect(address).await.unwrap();
            if n % 2 == 0 {
                peer.write_all(&[22, 3, 1, 2]).await.unwrap();
            }
            slow.push(peer);
        }
        for _ in 0..5 {
            let begun = Instant::now();
            assert_eq!(ask(&client, address).await.unwrap().1, 200);
            // Far less than the handshake timeout of those that were here first.
            assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        }
    }
    // Whoever stays silent is cut.
    let brisk = start(builder(&files).handshake_timeout(Duration::from_millis(200)), app()).await;
    let mut silent = TcpStream::connect(brisk).await.unwrap();
    assert_eq!(soon(silent.read(&mut [0; 8])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn the_end_waits_for_requests_that_have_begun() {
    let ca = Ca::new("CA");
    let files = Followed::new(&[&ca], &ca.issue("localhost"));
    let (begun, release) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let app = Router::new().route(
        "/",
        get({
            let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
            move |axum::Extension(peer): axum::Extension<Peer>| async move {
                begun.notify_one();
                release.notified().await;
                format!("{:?}", peer.server_name())
            }
        }),
    );
    let listener = builder(&files).bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(
        serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) }).into_future(),
    );
    let client = config(&ca, Some(&ca.issue("client")), &TLS, HTTP1);
    let asking = tokio::spawn({
        let client = Arc::clone(&client);
        async move { ask(&client, address).await }
    });
    soon(begun.notified()).await;
    stop.send(()).unwrap();
    until("it takes no more", || std::net::TcpStream::connect(address).is_err()).await;
    assert!(!server.is_finished());
    release.notify_one();
    assert_eq!(soon(asking).await.unwrap().unwrap().1, 200);
    soon(server).await.unwrap();
}
