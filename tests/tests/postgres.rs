//! A real PostgreSQL that lets in by certificate only (`clientcert=verify-full`), and a pool of connections for each
//! generation. What is true is read from what PostgreSQL says of a connection (`pg_stat_ssl`).
//! needs: postgres
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use certsource::machine::Policy;
use certsource_client::Files;
use certsource_reload::{Derived, Error, Reloader};
use certsource_rustls::rustls::ClientConfig;
use certsource_rustls::rustls::pki_types::ServerName;
use certsource_rustls::{ClientTls, TlsGate};
use certsource_testkit::{Ca, Issued, KubeletDir};
use certsource_tests::postgres::Postgres;
use certsource_tests::{BOUND, size, tool, whole};
use deadpool_postgres::{Manager, Object, Pool, PoolError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

/// TLS of one generation for tokio-postgres, which has none of its own.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

struct Connect(Arc<ClientConfig>, ServerName<'static>);

struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = certsource_rustls::rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        Ok(Connect(Arc::clone(&self.0), ServerName::try_from(host.to_owned())?))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connect {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { TlsConnector::from(self.0).connect(self.1, stream).await.map(Stream) })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

struct Scene {
    postgres: Postgres,
    dir: KubeletDir,
    reloader: Reloader,
    pools: Derived<Pool>,
}

impl Scene {
    fn new(ca: &Ca, connections: usize) -> Self {
        let postgres = Postgres::start(&ca.issue("localhost"), &ca.certificate_pem());
        let dir = KubeletDir::new(ca.issue("app")).unwrap();
        let mut policy = Policy::every(Duration::from_secs(3600));
        policy.settle = Duration::from_millis(50);
        let reloader = Reloader::builder(Files::kubernetes(dir.path()))
            .policy(policy)
            .gate(TlsGate::new().unwrap())
            .start()
            .unwrap();
        let (tls, port) = (ClientTls::new().unwrap(), postgres.address().port());
        let runtime = tokio::runtime::Handle::current();
        let pools = reloader.derive(move |generation| {
            let mut config = tokio_postgres::Config::new();
            config
                .host("localhost")
                .hostaddr([127, 0, 0, 1].into())
                .port(port)
                .user("app")
                .dbname("postgres");
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            let tls = Tls(Arc::new(tls.config(generation.material())?));
            let pool = Pool::builder(Manager::new(config, tls)).max_size(connections).build().unwrap();
            // Who waits for a connection of the old pool asks the new one.
            let (replaced, old) = (generation.retired().replaced(), pool.clone());
            runtime.spawn(async move {
                replaced.await;
                old.close();
            });
            Ok::<_, Error>(pool)
        });
        Self { postgres, dir, reloader, pools: pools.unwrap() }
    }

    async fn set(&self, issued: &Issued) {
        self.dir.swap(issued).unwrap();
        self.reloader.reload().await.unwrap();
    }
}

/// A connection of the pool that is current when there is one.
async fn connection(pools: &Derived<Pool>) -> Result<Object, String> {
    loop {
        let pool = pools.load();
        match pool.get().await {
            // A newer pool was published before the old one was closed.
            Err(PoolError::Closed) if !Arc::ptr_eq(&pool, &pools.load()) => {}
            done => return done.map_err(|error| whole(&error)),
        }
    }
}

/// What PostgreSQL knows of a connection: the serial number of the certificate that it was shown.
async fn serial_of(connection: &Object) -> Result<String, String> {
    let question = "SELECT client_serial::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = connection.query_one(question, &[]).await.map_err(|error| whole(&error))?;
    Ok(row.get::<_, String>(0))
}

async fn serial(pools: &Derived<Pool>) -> Result<String, String> {
    let asked = async { serial_of(&connection(pools).await?).await };
    tokio::time::timeout(BOUND, asked).await.map_err(|_| "no answer".to_owned())?
}

/// As PostgreSQL writes it: decimal.
fn decimal(issued: &Issued) -> String {
    let mut digits = vec![0_u32];
    for nibble in issued.serial_hex().chars().filter_map(|char| char.to_digit(16)) {
        let mut carry = nibble;
        for digit in &mut digits {
            let value = *digit * 16 + carry;
            *digit = value % 10;
            carry = value / 10;
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().map(u32::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_follows_and_no_query_fails() {
    if !tool::are_here(&["postgres"]) {
        return;
    }
    let ca = Ca::new("CA");
    let scene = Scene::new(&ca, 4);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (pools, stop, done) = (scene.pools.clone(), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    failed.extend(serial(&pools).await.err());
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failed
            })
        })
        .collect();
    let rotations = size("CERTSOURCE_ROTATIONS", 15);
    for rotation in 0..rotations {
        let identity = ca.issue("app");
        if rotation % 3 == 0 {
            scene.postgres.reload(&ca.issue("localhost"), &ca.certificate_pem());
        }
        scene.set(&identity).await;
        assert_eq!(serial(&scene.pools).await.unwrap(), decimal(&identity));
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        assert_eq!(task.await.unwrap(), Vec::<String>::new());
    }
    println!("postgres: {rotations} rotations, {} queries, 0 failed", done.load(Ordering::SeqCst));
}

/// The one connection of the old pool is in use, and somebody waits for it when the pool is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_old_pool_gets_a_connection_of_the_new_one() {
    if !tool::are_here(&["postgres"]) {
        return;
    }
    let ca = Ca::new("CA");
    let scene = Scene::new(&ca, 1);
    let held = connection(&scene.pools).await.unwrap();
    let before = serial_of(&held).await.unwrap();
    let old = scene.pools.load();
    let waits = tokio::spawn({
        let pools = scene.pools.clone();
        async move { serial(&pools).await }
    });
    let waiting = async {
        while old.status().waiting == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(BOUND, waiting).await.unwrap();
    let identity = ca.issue("app");
    scene.set(&identity).await;
    assert_eq!(waits.await.unwrap().unwrap(), decimal(&identity));
    // What was at work goes on with what it has.
    assert_eq!(serial_of(&held).await.unwrap(), before);
    drop(held);
    assert_eq!(serial(&scene.pools).await.unwrap(), decimal(&identity));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_withdrawn_is_refused_by_both() {
    if !tool::are_here(&["postgres"]) {
        return;
    }
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let scene = Scene::new(&old, 4);
    serial(&scene.pools).await.unwrap();
    let kept = scene.pools.load();

    // PostgreSQL takes clients of the new CA only, and shows a certificate of it.
    scene.postgres.reload(&new.issue("localhost"), &new.certificate_pem());
    // A pool that does not follow goes on with what it has, and then gets no further.
    let held = kept.get().await.unwrap();
    assert!(kept.get().await.is_err(), "the old trust does not know the new server");
    drop(held);
    let identity = new.issue("app");
    scene.set(&identity).await;
    assert_eq!(serial(&scene.pools).await.unwrap(), decimal(&identity));

    // The name on the certificate is the user's, or there is no way in.
    scene.set(&new.issue("somebody-else")).await;
    let error = serial(&scene.pools).await.unwrap_err();
    assert!(error.contains("certificate authentication failed"), "{error}");

    // We withdraw the CA that PostgreSQL is of: it is refused, with a connection pool that is new.
    scene.dir.swap_all(old.certificate_pem(), new.issue("app")).unwrap();
    scene.reloader.reload().await.unwrap();
    let error = serial(&scene.pools).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}
