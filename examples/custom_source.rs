//! A source of one's own: an issuer that is asked over the network, and no file anywhere.
//!
//! `cargo run --example custom_source`
//!
//! The issuer is faked on loopback: `GET /version` tells a number, `GET /bundle` the CA, the chain and the key. A source is
//! called on a thread of its own, so it may block.
#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use certsource_hyper::certsource_reload::Reloader;
use certsource_hyper::certsource_reload::certsource::clock::Now;
use certsource_hyper::certsource_reload::certsource::parts::Parts;
use certsource_hyper::certsource_reload::certsource::source::{Arrival, Look};
use certsource_hyper::certsource_reload::certsource::{Error, Origin, PrivateKey, Reason, Source};
use certsource_hyper::certsource_rustls::TlsGate;
use certsource_testkit::{Ca, Issued};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificates by an issuer's API.
struct Issuer {
    address: SocketAddr,
    version: Option<String>,
}

impl Issuer {
    fn get(&self, path: &str) -> Result<String, Error> {
        let failed = |error: std::io::Error| {
            Error::new(Reason::Io, format!("the issuer does not answer: {error}")).of(self.origin())
        };
        let mut connection =
            TcpStream::connect_timeout(&self.address, Duration::from_secs(5)).map_err(failed)?;
        connection.set_read_timeout(Some(Duration::from_secs(5))).map_err(failed)?;
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").map_err(failed)?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).map_err(failed)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        if !head.starts_with("HTTP/1.0 200") {
            return Err(Error::new(Reason::Io, "the issuer refuses").of(self.origin()));
        }
        Ok(body.to_owned())
    }
}

impl Source for Issuer {
    fn origin(&self) -> Origin {
        Origin::named(format!("issuer:{}", self.address))
    }

    fn look(&mut self, _: Now) -> Result<Look, Error> {
        let version = Some(self.get("/version")?);
        // An answer of an API is whole: there is nothing to wait for.
        let has_changed = std::mem::replace(&mut self.version, version.clone()) != version;
        Ok(if has_changed { Look::Changed(Arrival::Swapped) } else { Look::Same })
    }

    fn read(&mut self) -> Result<Parts, Error> {
        let bundle = self.get("/bundle")?;
        let malformed = |error: rustls::pki_types::pem::Error| {
            Error::new(Reason::Malformed, format!("the issuer's answer: {error}")).of(self.origin())
        };
        let mut certificates: Vec<_> =
            CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>().map_err(malformed)?;
        let key = PrivateKeyDer::from_pem_slice(bundle.as_bytes()).map_err(malformed)?;
        let key = PrivateKey::from_der(key.secret_der().to_vec().into())?;
        // The CA comes last.
        let ca = certificates.pop();
        Ok(Parts::new().with_trust(&self.origin(), ca).with_identity(&self.origin(), certificates, key))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = Ca::new("CA");
    let issued = Arc::new(Mutex::new((1, ca.issue("client"))));
    let address = fake_issuer(Arc::clone(&issued))?;
    let reloader = Reloader::builder(Issuer { address, version: None })
        .every(Duration::from_millis(100))
        .gate(TlsGate::new()?)
        .start_async()
        .await?;
    let mut generations = reloader.watch();
    for version in 2..=4 {
        let identity = ca.issue("client");
        *issued.lock().unwrap_or_else(PoisonError::into_inner) = (version, identity.clone());
        let generation = tokio::time::timeout(Duration::from_secs(60), generations.changed())
            .await?
            .context("the source is followed")?;
        let served = generation.identity().context("it has an identity")?.leaf().der().clone();
        println!("version {version}: generation {} from {}", generation.number(), reloader.origin());
        ensure!(served == identity.leaf_der(), "what is served is what was issued last");
    }
    Ok(())
}

/// Answers two questions, for as long as the program runs.
fn fake_issuer(issued: Arc<Mutex<(u32, Issued)>>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let _ = answer(connection, &issued);
        }
    });
    Ok(address)
}

fn answer(mut connection: TcpStream, issued: &Mutex<(u32, Issued)>) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut request, mut part) = (Vec::new(), [0; 256]);
    while !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut part)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&part[..read]),
        }
    }
    let (version, identity) = issued.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let body = if request.starts_with(b"GET /version ") {
        version.to_string()
    } else {
        identity.key_pem() + &identity.chain_pem() + &identity.root_pem()
    };
    write!(connection, "HTTP/1.0 200 OK\r\n\r\n{body}")
}
