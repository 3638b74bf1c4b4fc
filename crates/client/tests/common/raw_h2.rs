//! A server that speaks HTTP/2 by hand (RFC 9113): it refuses requests unread in each way that servers do, at the moment
//! that a test chooses.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use certsource_client::rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Http, Tls, lock};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
/// Of `DATA` and `HEADERS`.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Of `SETTINGS` and `PING`.
const ACK: u8 = 1;
const REFUSED_STREAM: u32 = 7;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Status 200.
    Answer,
    /// `RST_STREAM` with `REFUSED_STREAM`.
    Refuse,
    /// `GOAWAY` with `NO_ERROR`, and no stream that counts.
    GoAway,
}

/// A request that came whole.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Counts the requests of this server.
    pub number: usize,
    /// Counts its connections.
    pub connection: usize,
    pub client: Option<CertificateDer<'static>>,
}

type Decide = dyn Fn(&Arrived) -> Pin<Box<dyn Future<Output = Verdict> + Send>> + Send + Sync;

/// A server on 127.0.0.1. It ends with its runtime.
pub struct RawH2 {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Arrived>>>,
}

impl RawH2 {
    pub async fn start<F>(tls: Tls<'_>, decide: impl Fn(&Arrived) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Verdict> + Send + 'static,
    {
        let decide: Arc<Decide> = Arc::new(move |arrived: &Arrived| {
            Box::pin(decide(arrived)) as Pin<Box<dyn Future<Output = Verdict> + Send>>
        });
        let acceptor = TlsAcceptor::from(tls.http(Http::Two).config());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen: Arc<Mutex<Vec<Arrived>>> = Arc::default();
        let told = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut connections = 0..;
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen, decide) = (acceptor.clone(), Arc::clone(&told), Arc::clone(&decide));
                let connection = connections.next().unwrap_or_default();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    // It ends when the client goes away.
                    let _ = serve(stream, connection, &seen, &*decide).await;
                });
            }
        });
        Self { address, seen }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    pub fn seen(&self) -> Vec<Arrived> {
        lock(&self.seen).clone()
    }
}

async fn serve(
    mut stream: TlsStream<TcpStream>,
    connection: usize,
    seen: &Mutex<Vec<Arrived>>,
    decide: &Decide,
) -> io::Result<()> {
    let client = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first().cloned());
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        stream.flush().await?;
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let id = u32::from_be_bytes(id);
        let answer = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            HEADERS | DATA if flags & END_STREAM != 0 => {
                let arrived = {
                    let mut seen = lock(seen);
                    let arrived = Arrived { number: seen.len(), connection, client: client.clone() };
                    seen.push(arrived.clone());
                    arrived
                };
                match decide(&arrived).await {
                    // The status 200 is number 8 of the static table (RFC 7541, appendix A).
                    Verdict::Answer => frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88]),
                    Verdict::Refuse => frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes()),
                    Verdict::GoAway => frame(GOAWAY, 0, 0, &[0; 8]),
                }
            }
            _ => continue,
        };
        stream.write_all(&answer).await?;
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("our frames are short").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(id.to_be_bytes());
    frame.extend(payload);
    frame
}
