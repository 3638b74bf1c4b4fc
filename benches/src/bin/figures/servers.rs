//! Our listener beside a bare accept loop with a config that never changes, and calls through `Follow` beside a bare channel.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use certsource::Files;
use certsource_bench::rounds::{Pair, in_turns};
use certsource_bench::row::{Bar, Row, time};
use certsource_bench::usage::thread_cpu;
use certsource_hyper::{Connector, Error, Follow, TlsListener, serve};
use certsource_reload::Reloader;
use certsource_rustls::{ClientTls, ServerTls};
use certsource_testkit::{Ca, KubeletDir};
use http::uri::PathAndQuery;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::client::runtime;

const ROUNDS: usize = 60;
const SLICE: Duration = Duration::from_millis(150);

/// Answers two bytes.
#[derive(Clone, Copy)]
struct Two;

impl<B> Service<Request<B>> for Two {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::new(Bytes::from_static(b"ok")))))
    }
}

/// Both servers, on a thread of their own, and a client's config.
struct Rig {
    servers: Runtime,
    _files: KubeletDir,
    reloader: Reloader,
    client: Arc<ClientConfig>,
    ours: SocketAddr,
    bare: SocketAddr,
}

impl Rig {
    fn new() -> Self {
        let servers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let servers = servers.expect("a runtime");
        let files = KubeletDir::new(Ca::new("CA").issue("localhost")).expect("a directory");
        let reloader = Reloader::builder(Files::kubernetes(files.path())).start().expect("whole files");
        let material = Arc::clone(reloader.current().material());
        let tls = ServerTls::new().expect("a provider").alpn(["h2", "http/1.1"]);
        let client = ClientTls::new().expect("a provider").resumption(false).alpn(["http/1.1"]);
        let client = Arc::new(client.config(&material).expect("whole material"));
        let config = Arc::new(tls.config(&material).expect("whole material"));
        let (ours, bare) = servers.block_on(async {
            let listener = TlsListener::bind("127.0.0.1:0", &reloader).await.expect("a free port");
            let ours = listener.local_addr().expect("it is bound");
            tokio::spawn(serve(listener, Two).into_future());
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let bare = listener.local_addr().expect("it is bound");
            tokio::spawn(accept(listener, TlsAcceptor::from(config)));
            (ours, bare)
        });
        Self { servers, _files: files, reloader, client, ours, bare }
    }
}

/// What people write: accept, spawn, shake hands, serve.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor) {
    while let Ok((tcp, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // As most do, and as our listener does.
            let _ = tcp.set_nodelay(true);
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = hyper_util::service::TowerToHyperService::new(Two);
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
        });
    }
}

async fn connect(config: &Arc<ClientConfig>, to: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let tcp = TcpStream::connect(to).await.expect("the server listens");
    tcp.set_nodelay(true).expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.expect("a handshake");
    let (sender, connection) = handshake(TokioIo::new(tls)).await.expect("HTTP/1.1");
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>) {
    sender.ready().await.expect("an open connection");
    let request = Request::get("/").header("host", "localhost").body(Empty::new()).expect("a request");
    let response = sender.send_request(request).await.expect("no request fails");
    assert_eq!(response.into_body().collect().await.expect("a body").to_bytes().len(), 2);
}

/// How often it was done in a second, and what a time cost: CPU of the thread that is asked about, in nanoseconds.
#[derive(Clone, Copy)]
struct Slice {
    rate: f64,
    cost: f64,
}

/// Does it again and again for a slice of time.
fn slice(cpu: impl Fn() -> u64, go: impl FnOnce(Instant) -> u32) -> Slice {
    let (start, before) = (Instant::now(), cpu());
    let count = f64::from(go(start));
    Slice { rate: count / start.elapsed().as_secs_f64(), cost: (cpu() - before) as f64 / count }
}

/// Both in turns: rates, and costs.
fn beside(mut ours: impl FnMut() -> Slice, mut bare: impl FnMut() -> Slice) -> (Pair, Pair) {
    let costs = (std::cell::RefCell::new(Vec::new()), std::cell::RefCell::new(Vec::new()));
    let note = |to: &std::cell::RefCell<Vec<f64>>, slice: Slice| {
        to.borrow_mut().push(slice.cost);
        slice.rate
    };
    let rates = in_turns(ROUNDS, || note(&costs.0, ours()), || note(&costs.1, bare()));
    (rates, Pair::new(costs.0.into_inner(), costs.1.into_inner()))
}

fn row(id: &'static str, what: &str, whose: &str, (pair, costs): &(Pair, Pair), bar: Bar) -> Row {
    Row {
        id,
        what: what.to_owned(),
        ours: format!("{:.0}/s", pair.ours.median()),
        bare: format!("{:.0}/s", pair.bare.median()),
        result: format!("{} ×", pair.ratio_beside(bar)),
        bar: format!("{bar} ×"),
        is_met: bar.is_met_by(pair.ratio.median()),
        note: format!(
            "CPU of the {whose}'s thread: {} and {} each, {} ×",
            time(costs.ours.median()),
            time(costs.bare.median()),
            costs.ratio_text()
        ),
    }
}

/// Handshakes, and requests on a connection that is open.
pub(crate) fn listener() -> Vec<Row> {
    let (rig, runtime) = (Rig::new(), runtime());
    // Its only worker tells what it has used.
    let cpu = || {
        rig.servers.block_on(async { tokio::spawn(async { thread_cpu() }).await }).expect("the worker lives")
    };
    let dial = |to| {
        slice(cpu, |start| {
            runtime.block_on(async {
                let mut count = 0;
                while start.elapsed() < SLICE {
                    ask(&mut connect(&rig.client, to).await).await;
                    count += 1;
                }
                count
            })
        })
    };
    let handshakes = beside(|| dial(rig.ours), || dial(rig.bare));
    let on = |sender: &mut SendRequest<Empty<Bytes>>| {
        slice(cpu, |start| {
            runtime.block_on(async {
                let mut count = 0;
                while start.elapsed() < SLICE {
                    ask(sender).await;
                    count += 1;
                }
                count
            })
        })
    };
    let mut ours = runtime.block_on(connect(&rig.client, rig.ours));
    let mut bare = runtime.block_on(connect(&rig.client, rig.bare));
    let requests = beside(|| on(&mut ours), || on(&mut bare));
    vec![
        row(
            "listener-handshakes",
            "handshakes with a request each, our listener beside a bare loop",
            "server",
            &handshakes,
            Bar::AtLeast(0.97),
        ),
        row(
            "listener-requests",
            "requests, our server beside a bare loop",
            "server",
            &requests,
            Bar::AtLeast(0.97),
        ),
    ]
}

/// A message without content.
#[derive(Clone, Copy)]
struct Nothing;

impl tonic::codec::Codec for Nothing {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Nothing {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl tonic::codec::Decoder for Nothing {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        Ok(Some(()))
    }
}

#[derive(Clone, Copy)]
struct Unary;

impl tonic::server::UnaryService<()> for Unary {
    type Response = ();
    type Future = Ready<Result<tonic::Response<()>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<()>) -> Self::Future {
        ready(Ok(tonic::Response::new(())))
    }
}

impl Service<Request<hyper::body::Incoming>> for Unary {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<hyper::body::Incoming>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Nothing).unary(Unary, request).await) })
    }
}

/// Unary calls through `Follow`, and by the same channel bare.
pub(crate) fn follow() -> Vec<Row> {
    let (rig, runtime) = (Rig::new(), runtime());
    let port = rig.servers.block_on(async {
        let listener = TlsListener::bind("127.0.0.1:0", &rig.reloader).await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(serve(listener, Unary).into_future());
        port
    });
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).expect("a URI");
    let _inside = runtime.enter();
    let connector = Connector::builder(&rig.reloader).http2_only().build().expect("whole material");
    let channel =
        connector.derive(move |connector| Ok::<_, Error>(Channel::new(connector, endpoint.clone())));
    let followed = Follow::new(channel.expect("it is built"));
    let bare = followed.current().value().clone();
    let pair = beside(|| calls(&runtime, &followed), || calls(&runtime, &bare));
    vec![row(
        "follow-unary",
        "unary calls by tonic, through Follow beside a bare channel",
        "client",
        &pair,
        Bar::AtLeast(0.98),
    )]
}

fn calls<S>(runtime: &Runtime, channel: &S) -> Slice
where
    S: tonic::client::GrpcService<tonic::body::Body, Error: std::fmt::Debug> + Clone,
    S::ResponseBody: hyper::body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    slice(thread_cpu, |start| {
        runtime.block_on(async {
            let mut count = 0;
            while start.elapsed() < SLICE {
                grpc.ready().await.expect("a channel");
                let path = PathAndQuery::from_static("/bench.Nothing/Unary");
                grpc.unary(tonic::Request::new(()), path, Nothing).await.expect("no call fails");
                count += 1;
            }
            count
        })
    })
}
