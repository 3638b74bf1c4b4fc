//! PostgreSQL that lets in by certificate only (`clientcert=verify-full`): a pool of connections for each generation.
//!
//! `cargo run --example postgres_pool`
//! needs: postgres
//!
//! A pool is a derived value. New work takes connections of the new one; work that has one finishes with it. The old pool is
//! closed when it is replaced: its idle connections end, and who waits for one asks the new pool. tokio-postgres takes TLS by two small traits.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::ensure;
use certsource_client::Files;
use certsource_hyper::certsource_reload::{Derived, Reloader};
use certsource_hyper::certsource_rustls::{ClientTls, TlsGate};
use certsource_testkit::{Ca, KubeletDir};
use certsource_tests::postgres::Postgres;
use deadpool_postgres::{Manager, Object, Pool, PoolError};
use rustls::ClientConfig;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let postgres = Postgres::start(&ca.issue("localhost"), &ca.certificate_pem());
    // The name on the certificate is the user's.
    let files = KubeletDir::new(ca.issue("app"))?;
    let reloader =
        Reloader::builder(Files::kubernetes(files.path())).gate(TlsGate::new()?).start_async().await?;

    let mut database = tokio_postgres::Config::new();
    database.host("localhost").hostaddr([127, 0, 0, 1].into()).port(postgres.address().port());
    database.user("app").dbname("postgres").ssl_mode(SslMode::Require);
    let tls = ClientTls::new()?;
    let runtime = tokio::runtime::Handle::current();
    let pool = reloader.derive(move |generation| {
        let tls = Tls(Arc::new(tls.config(generation.material())?));
        let pool = Pool::builder(Manager::new(database.clone(), tls)).max_size(4).build()?;
        let (replaced, old) = (generation.retired().replaced(), pool.clone());
        runtime.spawn(async move {
            replaced.await;
            old.close();
        });
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(pool)
    })?;

    let mut before = String::new();
    for _ in 0..4 {
        let connection = connection(&pool).await?;
        let question = "SELECT client_serial::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let serial: String = connection.query_one(question, &[]).await?.get(0);
        println!("PostgreSQL sees the certificate {serial}");
        ensure!(serial != before, "the old certificate is still shown");
        before = serial;
        files.swap(ca.issue("app"))?;
        reloader.reload().await?;
        // This connection is of the older generation, and its work goes on.
        connection.query_one("SELECT 1", &[]).await?;
    }

    files.swap(Ca::new("another CA").issue("app"))?;
    reloader.reload().await?;
    let refused = connection(&pool).await;
    ensure!(refused.is_err(), "a CA that is not trusted was accepted");
    println!("the CA of PostgreSQL is withdrawn: refused");
    Ok(())
}

/// A connection of the pool that is current when there is one.
async fn connection(pools: &Derived<Pool>) -> anyhow::Result<Object> {
    loop {
        // An error while nothing may be used.
        let pool = pools.get()?;
        match pool.get().await {
            // It was replaced while we waited: the newer one is there already.
            Err(PoolError::Closed) if !Arc::ptr_eq(&pool, &pools.load()) => {}
            done => return Ok(done?),
        }
    }
}

/// TLS of one generation.
#[derive(Clone)]
struct Tls(Arc<ClientConfig>);

struct Connect(Arc<ClientConfig>, ServerName<'static>);

struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = InvalidDnsNameError;

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
