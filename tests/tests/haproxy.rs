//! A real HAProxy that demands client certificates (`verify required`): the identity and the CA rotate while requests
//! never pause, and then the old CA is withdrawn. Who came is read from HAProxy's own log.
//! needs: haproxy openssl
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use certsource_client::certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_client::certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_client::{Client, Files, detect};
use certsource_tests::clients::{self, Clients};
use certsource_tests::disk::{Disk, Writer};
use certsource_tests::haproxy::Haproxy;
use certsource_tests::load::{Call, Outcome};
use certsource_tests::openssl::OpensslCa;
use certsource_tests::{BOUND, tool, whole};

/// Tasks that send requests without pause.
const TASKS: usize = 6;
/// Rotations of the identity.
const ROTATIONS: u64 = 4;
/// Requests for each generation.
const PER_GENERATION: u64 = 150;

async fn clients(
    haproxy: &Haproxy,
    disk: &Disk,
    tls: &'static SupportedProtocolVersion,
    http2: bool,
) -> Clients {
    Clients::new(haproxy.address(), || {
        let builder = Client::builder()
            .files(Files::kubernetes(disk.path()))
            .policy(clients::quick())
            .detect(detect::Notify::new())
            .tls_versions(&[tls]);
        if http2 { builder } else { builder.http1_only() }
    })
    .await
}

/// Holds HAProxy's log against what must be true: `serials[n]` is the oldest identity of a request whose floor is `n`.
fn judge(haproxy: &Haproxy, outcome: &Outcome, protocol: &str, http2: bool, serials: &[&str]) {
    assert_eq!(outcome.failed, [""; 0], "{protocol}");
    let lines = haproxy.requests("/r/", outcome.answered.len());
    let mut times: BTreeMap<_, usize> = BTreeMap::new();
    lines.iter().for_each(|line| *times.entry(line.path.as_str()).or_default() += 1);
    times.retain(|_, times| *times > 1);
    // Over HTTP/2 the server sees the head of what is taken back in the moment in which its connection looks at it
    // (docs/decisions/0018): at a rotation, of a `GET`, and seldom.
    let may_be = |(path, times): (&&str, &usize)| {
        let number = path.rsplit('/').next().and_then(|number| number.parse().ok());
        http2 && *times == 2 && number.is_some_and(|number| !Call::has_body(number))
    };
    assert!(times.iter().all(may_be) && times.len() <= serials.len(), "sent more than once: {times:?}");
    let logged: BTreeSet<_> = lines.iter().map(|line| line.path.as_str()).collect();
    assert_eq!(logged, outcome.answered.iter().map(String::as_str).collect());
    let mut resumed = vec![0; serials.len()];
    for line in &lines {
        assert_eq!((line.status, line.protocol.as_str()), (200, protocol), "{line:?}");
        let floor: usize = line.path.split('/').nth(2).and_then(|floor| floor.parse().ok()).unwrap();
        let index = serials.iter().position(|serial| *serial == line.serial).expect("one of ours");
        assert!(index >= floor, "identity {index} was shown after its end: {line:?}");
        resumed[index] += usize::from(line.resumed);
    }
    assert!(
        resumed.iter().all(|count| *count > 0),
        "{protocol}: no session was resumed with one: {resumed:?}"
    );
}

async fn the_identity_rotates(tls: &'static SupportedProtocolVersion, writer: Writer, http2: bool) {
    if !tool::are_here(&["haproxy", "openssl"]) {
        return;
    }
    let ca = OpensslCa::new("CA");
    let identities: Vec<_> = (0..=ROTATIONS).map(|number| ca.client(0x1000 + number)).collect();
    let disk = Disk::new(writer, &ca.certificate(), &identities[0]);
    let haproxy = Haproxy::start(&ca.server(0xA), &ca.certificate());
    let clients = clients(&haproxy, &disk, tls, http2).await;
    let load = clients.load(TASKS, &haproxy.url(), 0);
    load.pass(PER_GENERATION).await;
    for number in 1..=ROTATIONS {
        let mut generations = clients.both().map(|client| client.reloader().watch());
        disk.write(&ca.certificate(), &identities[number as usize]);
        for generations in &mut generations {
            tokio::time::timeout(BOUND, generations.changed()).await.unwrap().unwrap();
        }
        load.raise_floor(number);
        load.pass(PER_GENERATION).await;
    }
    let serials: Vec<_> = identities.iter().map(|identity| identity.serial.as_str()).collect();
    judge(&haproxy, &load.finish().await, protocol(tls), http2, &serials);
}

async fn the_authority_rotates(tls: &'static SupportedProtocolVersion, writer: Writer, http2: bool) {
    if !tool::are_here(&["haproxy", "openssl"]) {
        return;
    }
    let (old, new) = (OpensslCa::new("old CA"), OpensslCa::new("new CA"));
    let both = old.certificate() + &new.certificate();
    let identities = [old.client(0x1000), new.client(0x1001)];
    let disk = Disk::new(writer, &old.certificate(), &identities[0]);
    let haproxy = Haproxy::start(&old.server(0xA), &both);
    let clients = clients(&haproxy, &disk, tls, http2).await;
    let load = clients.load(TASKS, &haproxy.url(), 0);
    load.pass(PER_GENERATION).await;

    // HAProxy trusts both all the time. We do so too, then each side shows the new, then we trust only that.
    disk.write(&both, &identities[0]);
    assert_eq!(clients.reload(Some(&load)).await.unwrap().trust().unwrap().len(), 2);
    load.pass(PER_GENERATION).await;
    haproxy.replace_certificate(&new.server(0xB));
    load.pass(PER_GENERATION).await;
    disk.write(&both, &identities[1]);
    clients.reload(Some(&load)).await.unwrap();
    load.raise_floor(1);
    load.pass(PER_GENERATION).await;
    disk.write(&new.certificate(), &identities[1]);
    assert_eq!(clients.reload(Some(&load)).await.unwrap().trust().unwrap().len(), 1);
    load.pass(PER_GENERATION).await;
    let serials = identities.each_ref().map(|identity| identity.serial.as_str());
    judge(&haproxy, &load.finish().await, protocol(tls), http2, &serials);

    // The old CA is gone for good, for us: a server that has its certificate is refused.
    haproxy.replace_certificate(&old.server(0xC));
    disk.write(&both, &identities[1]);
    clients.reload(None).await.unwrap();
    for client in clients.both() {
        assert_eq!(client.get(haproxy.url()).send().await.unwrap().status(), 200);
    }
    disk.write(&new.certificate(), &identities[1]);
    clients.reload(None).await.unwrap();
    for client in clients.both() {
        let refusal = client.get(haproxy.url()).send().await.unwrap_err();
        assert!(whole(&refusal).contains("UnknownIssuer"), "{}", whole(&refusal));
    }
}

fn protocol(tls: &SupportedProtocolVersion) -> &'static str {
    if tls.version == TLS12.version { "TLSv1.2" } else { "TLSv1.3" }
}

macro_rules! every_case {
    ($($name:ident: $test:ident, $tls:ident, $writer:ident, $http2:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $test(&$tls, Writer::$writer, $http2).await;
        }
    )*};
}

every_case! {
    the_identity_rotates_http1_tls12: the_identity_rotates, TLS12, Agent, false;
    the_identity_rotates_http1_tls13: the_identity_rotates, TLS13, Kubelet, false;
    the_identity_rotates_http2_tls13: the_identity_rotates, TLS13, Agent, true;
    the_authority_rotates_http1_tls12: the_authority_rotates, TLS12, Kubelet, false;
    the_authority_rotates_http1_tls13: the_authority_rotates, TLS13, Agent, false;
    the_authority_rotates_http2_tls13: the_authority_rotates, TLS13, Kubelet, true;
}
