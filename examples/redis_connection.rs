//! Redis over TLS with client certificates: one shared connection for each generation.
//!
//! `cargo run --example redis_connection`
//! needs: redis-server
//!
//! The same way serves any client that takes a connected stream, or a rustls config: build it from the generation, and use
//! the one that is current.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::ensure;
use certsource_client::{Error, Files};
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_rustls::{ClientTls, TlsGate};
use certsource_testkit::{Ca, KubeletDir};
use certsource_tests::redis::Redis;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// What is there for one generation. The connection is made when it is first needed.
struct Connection {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    made: OnceCell<MultiplexedConnection>,
}

impl Connection {
    async fn get(&self) -> anyhow::Result<MultiplexedConnection> {
        let make = async {
            let tcp = TcpStream::connect(self.address).await?;
            let tls =
                TlsConnector::from(Arc::clone(&self.config)).connect("localhost".try_into()?, tcp).await?;
            let settings = AsyncConnectionConfig::new();
            let (connection, work) =
                MultiplexedConnection::new_with_config(&Default::default(), tls, settings).await?;
            tokio::spawn(work);
            anyhow::Ok(connection)
        };
        self.made.get_or_try_init(|| make).await.cloned()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let redis = Redis::start(&ca.issue("localhost"), &ca.certificate_pem());
    let files = KubeletDir::new(ca.issue("client"))?;
    let reloader =
        Reloader::builder(Files::kubernetes(files.path())).gate(TlsGate::new()?).start_async().await?;
    let (tls, address) = (ClientTls::new()?, redis.address());
    let connection = reloader.derive(move |generation| {
        let config = Arc::new(tls.config(generation.material())?);
        Ok::<_, Error>(Connection { config, address, made: OnceCell::new() })
    })?;

    for _ in 0..3 {
        let current = connection.get()?;
        let count: u64 = redis::cmd("INCR").arg("count").query_async(&mut current.get().await?).await?;
        let id: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut current.get().await?).await?;
        println!("generation {}: connection {id}, count {count}", current.generation().number());
        files.swap(ca.issue("client"))?;
        reloader.reload().await?;
    }

    files.swap(Ca::new("another CA").issue("client"))?;
    reloader.reload().await?;
    let refused = connection.get()?.get().await;
    ensure!(refused.is_err(), "a CA that is not trusted was accepted");
    println!("the CA of Redis is withdrawn: refused");
    Ok(())
}
