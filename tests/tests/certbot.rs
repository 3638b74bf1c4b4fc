//! A real certbot renews at a real ACME server (pebble). A server of ours and clients of ours follow its `live/` links and
//! talk to each other all the time: none of the requests fails, and both show each new certificate.
//! needs: certbot openssl pebble
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::{Extension, Router};
use certsource_client::{Client, Files, Generation, detect};
use certsource_hyper::{Peer, TlsListener, serve};
use certsource_reload::Reloader;
use certsource_rustls::{ClientAuth, TlsGate};
use certsource_testkit::TestDir;
use certsource_tests::acme::{Certbot, Pebble};
use certsource_tests::clients::{Clients, answer};
use certsource_tests::load::{Call, Load};
use certsource_tests::{BOUND, serial, tool};
use reqwest::tls::TlsInfo;

/// Tasks that send requests without pause.
const TASKS: usize = 4;
/// What each renewal is told besides. The last one keeps the key.
const RENEWALS: [&[&str]; 4] = [&[], &["--key-type=rsa"], &["--key-type=ecdsa"], &["--reuse-key"]];

/// Who met in one request.
#[derive(Debug)]
struct Met {
    /// How many renewals both had followed when it began.
    floor: usize,
    /// Whether a connection was made for it.
    is_fresh: bool,
    /// The certificate that the server saw.
    client: String,
    /// The certificate that the client saw.
    server: String,
}

fn serial_of(generation: &Generation) -> String {
    serial::plain(generation.identity().unwrap().leaf().inspection().serial())
}

/// Waits until the current generation has this certificate.
async fn follow(reloader: &Reloader, leaf: &str) {
    let mut generations = reloader.watch();
    let reached = async {
        while serial_of(&reloader.current()) != leaf {
            generations.changed().await.unwrap();
        }
    };
    let reached = tokio::time::timeout(BOUND, reached).await;
    assert!(reached.is_ok(), "{leaf} is not followed: {:?}", reloader.status());
}

/// The certificate that somebody sees who owes nothing to us.
fn s_client(address: SocketAddr, root: &Path, certbot: &Certbot<'_>) -> String {
    let mut command = Command::new(tool::find("openssl").unwrap());
    command.args(["s_client", "-connect", &address.to_string(), "-servername", "localhost"]);
    command.args(["-verify_return_error", "-verify_hostname", "localhost", "-CAfile"]).arg(root);
    command.arg("-cert").arg(certbot.fullchain()).arg("-cert_chain").arg(certbot.fullchain());
    command.arg("-key").arg(certbot.privkey()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serial::of_pem(&output.stdout).unwrap()
}

/// A server that demands certificates, and answers with the serial of the one that it was shown.
async fn listen(reloader: &Reloader) -> SocketAddr {
    let app = Router::new().fallback(|Extension(peer): Extension<Peer>| async move {
        peer.certificates().and_then(|chain| serial::of_der(&chain[0])).unwrap_or_default()
    });
    let builder = TlsListener::builder(reloader).client_auth(ClientAuth::Required);
    let listener = builder.bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, app).into_future());
    address
}

/// Load from both clients; each request notes who met.
fn load(clients: &Clients, address: SocketAddr, met: &Arc<Mutex<Vec<Met>>>) -> Load {
    let (clients, met) = (clients.clone(), Arc::clone(met));
    Load::start(TASKS, 0, move |Call { number, path, body }| {
        let is_fresh = number % 4 == 1;
        let client = if is_fresh { &clients.fresh } else { &clients.pooled };
        let url = format!("https://localhost:{}{path}", address.port());
        let request = match body {
            Some(body) => client.post(url).body(body),
            None => client.get(url),
        };
        let met = Arc::clone(&met);
        async move {
            let response = request.send().await;
            let shown = response.as_ref().ok().and_then(|response| {
                serial::of_der(response.extensions().get::<TlsInfo>()?.peer_certificate()?)
            });
            let client = answer(response).await?;
            let server = shown.ok_or("no certificate of the server")?;
            let floor = path.split('/').nth(2).and_then(|floor| floor.parse().ok()).unwrap();
            met.lock().unwrap().push(Met { floor, is_fresh, client, server });
            Ok(())
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_clients_follow_live_links_through_renewals() {
    if !tool::are_here(&["certbot", "openssl", "pebble"]) {
        return;
    }
    let pebble = Pebble::start();
    let certbot = Certbot::certonly(&pebble);
    let dir = TestDir::new().unwrap();
    let root = dir.write("root.pem", pebble.root().await).unwrap();
    let files = || {
        let files = Files::trust(&root).with_identity(certbot.fullchain(), certbot.privkey());
        files.detect(detect::Notify::new())
    };
    let builder = Reloader::builder(files()).gate(TlsGate::new().unwrap());
    let server = builder.start_async().await.unwrap();
    let address = listen(&server).await;
    let clients =
        Clients::new(address, || Client::builder().files(files()).reqwest(|builder| builder.tls_info(true)))
            .await;
    let met = Arc::default();
    let load = load(&clients, address, &met);
    let mut serials = vec![serial::of_file(&certbot.fullchain()).unwrap()];
    assert_eq!(s_client(address, &root, &certbot), serials[0]);
    load.pass(100).await;
    for (number, more) in (1..).zip(RENEWALS) {
        certbot.renew(more);
        let leaf = serial::of_file(&certbot.fullchain()).unwrap();
        assert!(!serials.contains(&leaf), "renewal {number} brought nothing new");
        for reloader in [&server, clients.pooled.reloader(), clients.fresh.reloader()] {
            follow(reloader, &leaf).await;
            // Nothing in between: no half of a renewal was ever used.
            assert_eq!(reloader.current().number(), number as u64 + 1);
        }
        assert_eq!(s_client(address, &root, &certbot), leaf);
        serials.push(leaf);
        load.raise_floor(number as u64);
        load.pass(100).await;
        assert_eq!(load.failed(), [""; 0], "after renewal {number}");
    }
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0]);
    let met = std::mem::take(&mut *met.lock().unwrap());
    assert_eq!(met.len(), outcome.answered.len());
    let mut seen = vec![[0; 2]; serials.len()];
    for request in &met {
        let index =
            |serial: &str| serials.iter().position(|known| known == serial).expect("one of certbot's");
        let (client, server) = (index(&request.client), index(&request.server));
        assert!(client >= request.floor, "an identity was shown after its end: {request:?}");
        // A connection that was made earlier may end with a request of which it knew already.
        assert!(server >= request.floor || !request.is_fresh, "the server showed an old one: {request:?}");
        seen[client][0] += 1;
        seen[server][1] += 1;
    }
    assert!(seen.iter().flatten().all(|count| *count > 0), "each was used by each side: {seen:?}");
    println!(
        "{} renewals followed by a server and two clients; {} requests, 0 failed",
        RENEWALS.len(),
        met.len()
    );
}
