//! A TLS server for tests: plain threads, one per connection, gone when dropped.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use certsource_testkit::{Ca, Issued};
use rustls::server::{ClientCertVerifierBuilder, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};

/// No connection lasts longer.
const LONG: Duration = Duration::from_secs(30);

/// Serves one chain until it is told another.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    requests: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a server is made of. Clients need a certificate of one of these CAs; of none, if there are none.
pub(crate) fn config(issued: &Issued, clients: &[&Ca]) -> ServerConfig {
    if clients.is_empty() { with(issued, None) } else { config_that_names(issued, clients, clients) }
}

/// One that takes clients of some CAs, and names others when it asks.
pub(crate) fn config_that_names(issued: &Issued, clients: &[&Ca], named: &[&Ca]) -> ServerConfig {
    let verifier = asking(clients).clear_root_hint_subjects();
    with(issued, Some(verifier.add_root_hint_subjects(roots(named).subjects())))
}

/// One that asks for a certificate of these CAs, and goes on with those who have none.
pub(crate) fn config_that_takes_all(issued: &Issued, clients: &[&Ca]) -> ServerConfig {
    with(issued, Some(asking(clients).allow_unauthenticated()))
}

fn asking(clients: &[&Ca]) -> ClientCertVerifierBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(roots(clients).into(), provider)
}

fn roots(cas: &[&Ca]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    cas.iter().for_each(|ca| roots.add(ca.certificate_der()).unwrap());
    roots
}

fn with(issued: &Issued, verifier: Option<ClientCertVerifierBuilder>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier.build().unwrap()),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(issued.chain_der(), issued.key_der()).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

impl Server {
    /// Every answer has these headers.
    pub(crate) fn start(config: ServerConfig, headers: &'static str) -> Self {
        Self::answering("200 OK", config, headers)
    }

    /// Every answer has this status and these headers.
    pub(crate) fn answering(status: &'static str, config: ServerConfig, headers: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let (ends, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (shared, end, log) = (Arc::clone(&config), Arc::clone(&ends), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Acquire) {
                    return;
                }
                let (config, log) = (Arc::clone(&shared.lock().unwrap()), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, config, (status, headers), &log));
            }
        });
        Self { address, config, requests, ends, thread: Some(thread) }
    }

    /// From now on new connections see this.
    pub(crate) fn serve(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    /// `localhost:PORT`.
    pub(crate) fn target(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/", self.address.port())
    }

    /// Heads and bodies that were received.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn serve(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    (status, headers): (&str, &str),
    log: &Mutex<Vec<String>>,
) -> Option<()> {
    stream.set_read_timeout(Some(LONG)).ok()?;
    let mut tls = ServerConnection::new(config).ok()?;
    let mut stream = Stream::new(&mut tls, &mut stream);
    loop {
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        let end = loop {
            if let Some(at) = text.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(read) => text.extend_from_slice(&piece[..read]),
            }
        };
        let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = end + length.map_or(0, |length| length.trim().parse().unwrap());
        while text.len() < length {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(read) => text.extend_from_slice(&piece[..read]),
            }
        }
        log.lock().unwrap().push(String::from_utf8_lossy(&text).into_owned());
        let body = if head.starts_with("head") { "" } else { "hello\n" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 6\r\n{headers}\r\n{body}");
        stream.write_all(answer.as_bytes()).ok()?;
        stream.flush().ok()?;
        if head.contains("connection: close") {
            stream.conn.send_close_notify();
            stream.flush().ok()?;
            return Some(());
        }
    }
}
