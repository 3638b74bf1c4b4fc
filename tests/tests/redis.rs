//! A real Redis over TLS with client certificates, and a connection for each generation, made when it is first needed. And
//! one config that follows, for who can not take a new one: its next connection is by what is current then.
//! needs: redis-server
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certsource::machine::Policy;
use certsource_client::Files;
use certsource_reload::{Derived, Error, Reloader};
use certsource_rustls::rustls::ClientConfig;
use certsource_rustls::{ClientTls, TlsGate};
use certsource_testkit::{Ca, KubeletDir};
use certsource_tests::redis::Redis;
use certsource_tests::{BOUND, size, tool, whole};
use redis::aio::MultiplexedConnection;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// What is there for one generation.
struct Lane {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    connection: OnceCell<MultiplexedConnection>,
}

impl Lane {
    async fn connection(&self) -> Result<MultiplexedConnection, String> {
        let connect = || connect(&self.config, self.address);
        let connection = tokio::time::timeout(BOUND, self.connection.get_or_try_init(connect)).await;
        connection.map_err(|_| "no connection".to_owned())?.cloned()
    }
}

async fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> Result<MultiplexedConnection, String> {
    let tcp = TcpStream::connect(address).await.map_err(|error| whole(&error))?;
    let name = "localhost".try_into().unwrap();
    let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
    let tls = tls.await.map_err(|error| whole(&error))?;
    let settings = redis::AsyncConnectionConfig::new();
    let made = MultiplexedConnection::new_with_config(&Default::default(), tls, settings).await;
    let (connection, work) = made.map_err(|error| whole(&error))?;
    tokio::spawn(work);
    Ok(connection)
}

/// A command on the connection of the current generation.
async fn ask(lanes: &Derived<Lane>, command: &redis::Cmd) -> Result<redis::Value, String> {
    let mut connection = lanes.load().connection().await?;
    let answer = tokio::time::timeout(BOUND, command.query_async(&mut connection)).await;
    answer.map_err(|_| "no answer".to_owned())?.map_err(|error| whole(&error))
}

fn follow(dir: &KubeletDir) -> Reloader {
    let mut policy = Policy::every(Duration::from_secs(3600));
    policy.settle = Duration::from_millis(50);
    let builder = Reloader::builder(Files::kubernetes(dir.path())).policy(policy);
    builder.gate(TlsGate::new().unwrap()).start().unwrap()
}

fn ping() -> redis::Cmd {
    redis::cmd("PING")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_follow_and_what_was_withdrawn_is_refused() {
    if !tool::are_here(&["redis-server"]) {
        return;
    }
    let (ca, other) = (Ca::new("CA"), Ca::new("other"));
    let redis = Redis::start(&ca.issue("localhost"), &ca.certificate_pem());
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let reloader = follow(&dir);
    let (tls, address) = (ClientTls::new().unwrap(), redis.address());
    let lanes = reloader
        .derive(move |generation| {
            let config = Arc::new(tls.config(generation.material())?);
            Ok::<_, Error>(Lane { config, address, connection: OnceCell::new() })
        })
        .unwrap();

    let rotations = size("CERTSOURCE_ROTATIONS", 15);
    for rotation in 0..rotations {
        for _ in 0..5 {
            ask(&lanes, &ping()).await.unwrap();
        }
        if rotation % 3 == 0 {
            redis.write(&ca.issue("localhost"), &ca.certificate_pem());
            let mut set = redis::cmd("CONFIG");
            set.arg("SET");
            for (setting, file) in redis.files() {
                set.arg(setting).arg(file);
            }
            ask(&lanes, &set).await.unwrap();
        }
        dir.swap(ca.issue("client")).unwrap();
        reloader.reload().await.unwrap();
    }
    println!("redis: {rotations} rotations, {} commands, 0 failed", rotations * 5);

    // Redis takes clients of another CA only.
    let old = lanes.load();
    redis.write(&ca.issue("localhost"), &other.certificate_pem());
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("tls-ca-cert-file").arg(&redis.files()[2].1);
    ask(&lanes, &set).await.unwrap();
    dir.swap(ca.issue("client")).unwrap();
    reloader.reload().await.unwrap();
    assert!(ask(&lanes, &ping()).await.is_err(), "Redis does not know the client's CA any more");
    dir.swap_all(ca.certificate_pem(), other.issue("client")).unwrap();
    reloader.reload().await.unwrap();
    ask(&lanes, &ping()).await.unwrap();
    // What was connected before goes on: Redis looks at certificates when a connection is made.
    let mut connection = old.connection().await.unwrap();
    ping().query_async::<redis::Value>(&mut connection).await.unwrap();

    // We withdraw the CA that Redis is of.
    dir.swap_all(other.certificate_pem(), other.issue("client")).unwrap();
    reloader.reload().await.unwrap();
    let error = ask(&lanes, &ping()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_config_that_follows_connects_by_what_is_current() {
    if !tool::are_here(&["redis-server"]) {
        return;
    }
    let (ca, other) = (Ca::new("CA"), Ca::new("other"));
    let redis = Redis::start(&ca.issue("localhost"), &ca.certificate_pem());
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let reloader = follow(&dir);
    let config = Arc::new(ClientTls::new().unwrap().following(&reloader).unwrap());
    let ask = async |command: redis::Cmd| {
        let asked = async {
            let mut connection = connect(&config, redis.address()).await?;
            command.query_async::<redis::Value>(&mut connection).await.map_err(|error| whole(&error))
        };
        tokio::time::timeout(BOUND, asked).await.map_err(|_| "no answer".to_owned())?
    };
    for _ in 0..5 {
        ask(ping()).await.unwrap();
        dir.swap(ca.issue("client")).unwrap();
        reloader.reload().await.unwrap();
    }
    // Redis takes clients of another CA only.
    redis.write(&ca.issue("localhost"), &other.certificate_pem());
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("tls-ca-cert-file").arg(&redis.files()[2].1);
    ask(set).await.unwrap();
    assert!(ask(ping()).await.is_err(), "Redis does not know the client's CA any more");
    dir.swap_all(ca.certificate_pem(), other.issue("client")).unwrap();
    reloader.reload().await.unwrap();
    ask(ping()).await.unwrap();
    // We withdraw the CA that Redis is of.
    dir.swap_all(other.certificate_pem(), other.issue("client")).unwrap();
    reloader.reload().await.unwrap();
    let error = ask(ping()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
}
