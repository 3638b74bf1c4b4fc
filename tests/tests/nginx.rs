//! A real nginx that demands client certificates, material from the openssl command, and requests that never pause while
//! identity and CA rotate on disk. What is true is read from nginx's own variables, not from our client.
//! needs: nginx openssl
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;

use certsource_client::certsource_rustls::rustls::SupportedProtocolVersion;
use certsource_client::certsource_rustls::rustls::version::{TLS12, TLS13};
use certsource_client::{Client, Files, Reason, detect};
use certsource_testkit::{Damage, TestDir, damage};
use certsource_tests::access_log::Line;
use certsource_tests::clients::{self, Clients};
use certsource_tests::disk::{Disk, Writer};
use certsource_tests::load::{Call, Load, Outcome};
use certsource_tests::naive::Naive;
use certsource_tests::nginx::{Nginx, Options};
use certsource_tests::openssl::{Minted, OpensslCa};
use certsource_tests::{BOUND, tool, until, whole};

/// Tasks that send requests without pause.
const TASKS: usize = 10;
/// Rotations of the identity in one test.
const ROTATIONS: u64 = 4;
/// Requests for each generation: so many that each task's connections end and sessions are resumed.
const PER_GENERATION: u64 = 200;

/// How it is talked, and who writes the files.
#[derive(Clone, Copy, Debug)]
struct Case {
    http2: bool,
    tls: &'static SupportedProtocolVersion,
    writer: Writer,
    detector: Detector,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Detector {
    Mtime,
    Notify,
}

macro_rules! every_case {
    ($($of:ident: $test:path;)*) => {$(
        mod $of {
            use super::*;
            every_case!(@case $test, http1_tls12_kubelet: false, TLS12, Kubelet, Mtime);
            every_case!(@case $test, http1_tls12_agent: false, TLS12, Agent, Notify);
            every_case!(@case $test, http1_tls13_kubelet: false, TLS13, Kubelet, Notify);
            every_case!(@case $test, http1_tls13_agent: false, TLS13, Agent, Mtime);
            every_case!(@case $test, http2_tls12_kubelet: true, TLS12, Kubelet, Notify);
            every_case!(@case $test, http2_tls12_agent: true, TLS12, Agent, Mtime);
            every_case!(@case $test, http2_tls13_kubelet: true, TLS13, Kubelet, Mtime);
            every_case!(@case $test, http2_tls13_agent: true, TLS13, Agent, Notify);
        }
    )*};
    (@case $test:path, $name:ident: $http2:literal, $tls:ident, $writer:ident, $detector:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if tool::are_here(&["nginx", "openssl"]) {
                $test(Case { http2: $http2, tls: &$tls, writer: Writer::$writer, detector: Detector::$detector }).await;
            }
        }
    };
}

every_case! {
    identity: the_identity_rotates_under_load;
    authority: the_authority_rotates_with_overlap;
    withdrawn: a_withdrawn_authority_is_refused;
    garbage: the_last_good_generation_serves_while_the_bundle_is_garbage;
}

async fn the_identity_rotates_under_load(case: Case) {
    let ca = OpensslCa::new("CA");
    let identities: Vec<_> = (0..=ROTATIONS).map(|number| ca.client(0x1000 + number)).collect();
    let disk = Disk::new(case.writer, &ca.certificate(), &identities[0]);
    let nginx = Nginx::start(case.options(), &ca.server(0xA), &ca.certificate());
    let clients = case.clients(&nginx, &disk).await;
    let load = clients.load(TASKS, &nginx.url(""), 0);
    load.pass(PER_GENERATION).await;
    for number in 1..=ROTATIONS {
        let download = tokio::spawn(download(clients.pooled.clone(), nginx.url("/slow")));
        let mut generations = clients.both().map(|client| client.reloader().watch());
        let mut steps = disk.steps(&ca.certificate(), &identities[number as usize]);
        if let Writer::Agent = case.writer {
            // Between its two renames the pair does not match. Requests go on with the old identity.
            steps.run_through("rename tls.crt").unwrap();
            load.pass(50).await;
            assert_identity(&clients, &identities[number as usize - 1]);
        }
        steps.finish().unwrap();
        if number % 2 == 0 {
            clients.reload(Some(&load)).await.unwrap();
        } else {
            // Found by itself.
            for generations in &mut generations {
                tokio::time::timeout(BOUND, generations.changed()).await.unwrap().unwrap();
            }
        }
        load.raise_floor(number);
        assert_identity(&clients, &identities[number as usize]);
        load.pass(PER_GENERATION).await;
        assert_eq!(
            download.await.unwrap(),
            Ok(nginx.slow_bytes()),
            "a response was cut by rotation {number}"
        );
    }
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0], "{case:?}");
    let serials: Vec<_> = identities.iter().map(|identity| identity.serial.as_str()).collect();
    let lines = nginx.requests("/r/", outcome.answered.len());
    let seen = judge(&case, &lines, &outcome, &serials).unwrap();
    for (index, serial) in serials.iter().enumerate() {
        assert!(seen[index].resumed > 0, "no session was resumed with {serial}: {seen:?}");
    }
}

async fn the_authority_rotates_with_overlap(case: Case) {
    let (old, new) = (OpensslCa::new("old CA"), OpensslCa::new("new CA"));
    let both = old.certificate() + &new.certificate();
    let identities = [old.client(0x1000), new.client(0x1001)];
    let disk = Disk::new(case.writer, &old.certificate(), &identities[0]);
    let mut nginx = Nginx::start(case.options(), &old.server(0xA), &old.certificate());
    let clients = case.clients(&nginx, &disk).await;
    let load = clients.load(TASKS, &nginx.url(""), 0);
    load.pass(PER_GENERATION).await;

    // Both sides trust both; then both sides show the new; then nobody trusts the old.
    disk.write(&both, &identities[0]);
    assert_eq!(clients.reload(Some(&load)).await.unwrap().trust().unwrap().len(), 2);
    load.pass(PER_GENERATION).await;
    restart(&mut nginx, &load, &new.server(0xB), &both).await;
    load.pass(PER_GENERATION).await;
    disk.write(&both, &identities[1]);
    clients.reload(Some(&load)).await.unwrap();
    load.raise_floor(1);
    load.pass(PER_GENERATION).await;
    restart(&mut nginx, &load, &new.server(0xC), &new.certificate()).await;
    load.pass(PER_GENERATION).await;
    disk.write(&new.certificate(), &identities[1]);
    let generation = clients.reload(Some(&load)).await.unwrap();
    assert_eq!((generation.number(), generation.trust().unwrap().len()), (4, 1));
    load.pass(PER_GENERATION).await;

    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0], "{case:?}");
    let lines = nginx.requests("/r/", outcome.answered.len());
    let serials = identities.each_ref().map(|identity| identity.serial.as_str());
    let seen = judge(&case, &lines, &outcome, &serials).unwrap();
    assert!(seen.iter().all(|seen| seen.resumed > 0), "{seen:?}");

    // The old CA is gone for good: a server that still has its certificate is refused.
    nginx.reload(&old.server(0xD), &new.certificate());
    for client in clients.both() {
        let refusal = client.get(nginx.url("/late")).send().await.unwrap_err();
        assert!(whole(&refusal).contains("UnknownIssuer"), "{}", whole(&refusal));
    }
}

/// Lets nginx reload between two requests.
///
/// Its old workers close connections that they take for idle, with requests on them that they never read. Neither
/// version of HTTP tells a client whether such a request was read (nginx 1.27.4 has `keepalive_min_timeout` for it), so
/// that says nothing about rotation. Pools and sessions are as full as ever.
async fn restart(nginx: &mut Nginx, load: &Load, server: &Minted, client_ca: &str) {
    let paused = load.pause().await;
    nginx.reload(server, client_ca);
    drop(paused);
}

async fn a_withdrawn_authority_is_refused(case: Case) {
    let (ca, other) = (OpensslCa::new("CA"), OpensslCa::new("other CA"));
    let identity = ca.client(0x1000);
    let disk = Disk::new(case.writer, &ca.certificate(), &identity);
    let nginx = Nginx::start(case.options(), &ca.server(0xA), &ca.certificate());
    let clients = case.clients(&nginx, &disk).await;
    let (control_files, mut naive) = naive(&case, &ca.certificate(), &identity);
    let by_hand = case.by_hand(&nginx, &naive);
    // Fills pools with connections, and stores with sessions, of both clients.
    let before = [clients.load(TASKS, &nginx.url(""), 0), load_by_hand(&by_hand, &nginx, 0)];
    for load in before {
        load.pass(PER_GENERATION).await;
        assert_eq!(load.finish().await.failed, [""; 0]);
    }

    disk.write(&other.certificate(), &identity);
    clients.reload(None).await.unwrap();
    let load = clients.load(TASKS, &nginx.url(""), 1);
    load.pass(500).await;
    let outcome = load.finish().await;
    assert_eq!(outcome.answered, [""; 0], "{case:?}: accepted although the CA is withdrawn");
    assert!(outcome.failed.len() >= 500);
    let strange: Vec<_> = outcome.failed.iter().filter(|error| !error.contains("UnknownIssuer")).collect();
    assert!(strange.is_empty(), "{case:?}: refused for another reason: {strange:?}");
    assert_eq!(nginx.requests("/r/1/", 0), [], "{case:?}: nginx was sent a request");

    // The control does what people write, and sessions bring it through.
    std::fs::write(control_files.join("ca.crt"), other.certificate()).unwrap();
    until("the naive client to reload", || naive.poll().unwrap().then_some(()));
    let load = load_by_hand(&by_hand, &nginx, 2);
    load.pass(500).await;
    let accepted = load.finish().await.answered.len();
    let resumed = nginx.requests("/r/2/", accepted).iter().filter(|line| line.resumed).count();
    assert!(resumed > 0, "{case:?}: the control refuses by itself, so this test shows nothing");

    // And with the CA back, all is well again.
    disk.write(&ca.certificate(), &identity);
    clients.reload(None).await.unwrap();
    for client in clients.both() {
        assert_eq!(client.get(nginx.url("/back")).send().await.unwrap().status(), 200);
    }
}

async fn the_last_good_generation_serves_while_the_bundle_is_garbage(case: Case) {
    let ca = OpensslCa::new("CA");
    let identity = ca.client(0x1000);
    let disk = Disk::new(case.writer, &ca.certificate(), &identity);
    let nginx = Nginx::start(case.options(), &ca.server(0xA), &ca.certificate());
    let clients = case.clients(&nginx, &disk).await;
    let load = clients.load(TASKS, &nginx.url(""), 0);
    load.pass(PER_GENERATION / 2).await;
    for (kind, expected) in [
        (Damage::Half, Reason::Malformed),
        (Damage::Empty, Reason::Empty),
        (Damage::NoEndLine, Reason::Malformed),
        (Damage::Garbage, Reason::Malformed),
    ] {
        damage(disk.path().join("ca.crt"), kind).unwrap();
        let error = clients.reload(Some(&load)).await.unwrap_err();
        assert_eq!(error.reason(), expected, "{kind:?}: {error}");
        assert!(error.path().is_some_and(|path| path.ends_with("ca.crt")), "{error:?}");
        load.pass(PER_GENERATION / 2).await;
        for status in clients.both().map(Client::status) {
            assert_eq!((status.generation, status.reason), (1, Some(expected)));
            assert!(status.is_ready_at(std::time::SystemTime::now()));
        }
        disk.write(&ca.certificate(), &identity);
        assert_eq!(
            clients.reload(Some(&load)).await.unwrap().number(),
            1,
            "{kind:?}: the same content is no new generation"
        );
        assert_eq!(clients.both().map(|client| client.status().reason), [None; 2]);
    }
    let outcome = load.finish().await;
    assert_eq!(outcome.failed, [""; 0], "{case:?}");
    let lines = nginx.requests("/r/", outcome.answered.len());
    judge(&case, &lines, &outcome, &[&identity.serial]).unwrap();
}

/// The negative control of [`judge`]: what people write shows the old identity again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_inside_one_config_goes_on_showing_the_old_identity() {
    if !tool::are_here(&["nginx", "openssl"]) {
        return;
    }
    for tls in [&TLS12, &TLS13] {
        let case = Case { http2: false, tls, writer: Writer::Agent, detector: Detector::Mtime };
        let ca = OpensslCa::new("CA");
        let identities = [ca.client(0x1000), ca.client(0x1001)];
        let nginx = Nginx::start(case.options(), &ca.server(0xA), &ca.certificate());
        let (files, mut naive) = naive(&case, &ca.certificate(), &identities[0]);
        let load = load_by_hand(&case.by_hand(&nginx, &naive), &nginx, 0);
        load.pass(PER_GENERATION).await;
        std::fs::write(files.join("tls.key"), &identities[1].key).unwrap();
        std::fs::write(files.join("tls.crt"), &identities[1].certificate).unwrap();
        until("the naive client to reload", || naive.poll().unwrap().then_some(()));
        load.raise_floor(1);
        load.pass(PER_GENERATION * 3).await;
        let outcome = load.finish().await;
        assert_eq!(outcome.failed, [""; 0]);
        let lines = nginx.requests("/r/", outcome.answered.len());
        let serials = identities.each_ref().map(|identity| identity.serial.as_str());
        let complaint = judge(&case, &lines, &outcome, &serials).unwrap_err();
        assert!(complaint.contains("after its end"), "{complaint}");
        let resumed_late =
            |line: &&Line| line.uri.starts_with("/r/1/") && line.resumed && line.serial == serials[0];
        assert!(
            lines.iter().filter(resumed_late).count() > 10,
            "{case:?}: by resumed sessions, not by pooled ones"
        );
    }
}

#[test]
fn nothing_is_left_behind() {
    if !tool::are_here(&["nginx", "openssl"]) {
        return;
    }
    let ca = OpensslCa::new("CA");
    let options = Options { http2: true, protocol: "TLSv1.3", requests_per_connection: 1 };
    let nginx = Nginx::start(options, &ca.server(0xA), &ca.certificate());
    let (dir, address, processes) = (nginx.path().to_owned(), nginx.address(), nginx.processes());
    assert!(processes.len() >= 5, "the guard, its `cat`, the master and two workers: {processes:?}");
    assert!(dir.exists() && TcpStream::connect(address).is_ok());
    drop(nginx);
    let left: Vec<_> = processes.iter().filter(|process| is_running(**process)).collect();
    assert_eq!((left, dir.exists(), TcpStream::connect(address).is_ok()), (Vec::new(), false, false));
}

/// Whether a process of this number is there and has not ended. Whoever inherited it may not have buried it yet.
fn is_running(process: u32) -> bool {
    // proc_pid_stat(5): the state follows the name, which is in parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

impl Case {
    fn options(self) -> Options {
        let protocol = if self.tls.version == TLS12.version { "TLSv1.2" } else { "TLSv1.3" };
        // On HTTP/2 a connection that ends takes requests with it: hyper and reqwest then lose some and send some twice.
        let requests_per_connection = if self.http2 { 1_000_000 } else { 20 };
        Options { http2: self.http2, protocol, requests_per_connection }
    }

    async fn clients(self, nginx: &Nginx, disk: &Disk) -> Clients {
        let address = nginx.address();
        Clients::new(address, || {
            let builder = Client::builder()
                .files(Files::kubernetes(disk.path()))
                .policy(clients::quick())
                .tls_versions(&[self.tls]);
            let builder = match self.detector {
                Detector::Mtime => builder.detect(detect::Mtime::new()),
                Detector::Notify => builder.detect(detect::Notify::new()),
            };
            if self.http2 { builder } else { builder.http1_only() }
        })
        .await
    }

    /// A plain reqwest client over the naive config, which makes a connection for each request.
    fn by_hand(self, nginx: &Nginx, naive: &Naive) -> reqwest::Client {
        clients::by_hand(naive, nginx.address(), self.http2)
    }
}

/// That both show this certificate.
#[track_caller]
fn assert_identity(clients: &Clients, identity: &Minted) {
    for client in clients.both() {
        let generation = client.generation();
        let serial = generation.identity().unwrap().leaf().inspection().serial().to_uppercase();
        assert_eq!(serial, identity.serial);
    }
}

fn naive(case: &Case, trust: &str, identity: &Minted) -> (TestDir, Naive) {
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.crt", trust).unwrap();
    let pair =
        (dir.write("tls.crt", &identity.certificate).unwrap(), dir.write("tls.key", &identity.key).unwrap());
    let naive = Naive::new(path, Some(pair), &[case.tls]).unwrap();
    (dir, naive)
}

fn load_by_hand(client: &reqwest::Client, nginx: &Nginx, floor: u64) -> Load {
    clients::load_by_hand(client, TASKS, &nginx.url(""), floor)
}

/// A response that takes two seconds; how long its body is.
async fn download(client: Client, url: String) -> Result<usize, String> {
    let response = client.get(url).send().await.map_err(|error| whole(&error))?;
    let body = response.bytes().await.map_err(|error| whole(&error))?;
    Ok(body.len())
}

/// What nginx saw of one identity.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    requests: usize,
    resumed: usize,
}

/// Holds nginx's log against what must be true. `serials[n]` is the identity of the requests whose floor is `n`.
fn judge(case: &Case, lines: &[Line], outcome: &Outcome, serials: &[&str]) -> Result<Vec<Seen>, String> {
    let logged: BTreeSet<_> = lines.iter().map(|line| line.uri.as_str()).collect();
    let answered: BTreeSet<_> = outcome.answered.iter().map(String::as_str).collect();
    if logged != answered {
        let strange: Vec<_> = logged.symmetric_difference(&answered).collect();
        return Err(format!("nginx logged other requests than were answered: {strange:?}"));
    }
    let (mut of_path, mut last_of): (BTreeMap<_, Vec<_>>, BTreeMap<_, u64>) = Default::default();
    for line in lines {
        let last = last_of.entry(line.connection).or_default();
        *last = (*last).max(line.request_of_connection);
        of_path.entry(&line.uri).or_default().push(line);
    }
    let is_right =
        |lines: &[&Line]| lines.len() == 1 || (case.http2 && moved_when_it_was_looked_at(lines, &last_of));
    if let Some((_, twice)) = of_path.iter().find(|(_, lines)| !is_right(lines)) {
        return Err(format!("sent more than once: {twice:?}"));
    }
    let mut seen = vec![Seen::default(); serials.len()];
    for line in lines {
        let floor: usize = line.uri.split('/').nth(2).and_then(|floor| floor.parse().ok()).unwrap();
        let Some(index) = serials.iter().position(|serial| *serial == line.serial) else {
            return Err(format!("nobody's serial: {line:?}"));
        };
        if index < floor {
            return Err(format!("identity {index} was shown after its end: {line:?}"));
        }
        let http = if case.http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        if (line.status, line.verify.as_str(), line.http.as_str()) != (200, "SUCCESS", http)
            || line.protocol != case.options().protocol
        {
            return Err(format!("not as it should be: {line:?}"));
        }
        seen[index].requests += 1;
        seen[index].resumed += usize::from(line.resumed);
    }
    if let Some((connection, serials)) = connections(lines).iter().find(|(_, serials)| serials.len() > 1) {
        return Err(format!("connection {connection} has several identities: {serials:?}"));
    }
    Ok(seen)
}

/// Whether a request was taken back in the very moment in which its connection looked at it, and sent again on another. Over
/// HTTP/2 the server sees its head then (docs/decisions/0018), so that is done with a `GET` only. And it is among the last that
/// the old connection was given: those that may not be repeated can be taken from its queue after it, one of each task.
fn moved_when_it_was_looked_at(lines: &[&Line], last_of: &BTreeMap<u64, u64>) -> bool {
    let [first, second] = lines else { return false };
    let old = if first.connection < second.connection { first } else { second };
    let is_among_the_last = last_of[&old.connection] - old.request_of_connection < TASKS as u64;
    let number = old.uri.rsplit('/').next().and_then(|number| number.parse().ok());
    let is_get = number.is_some_and(|number| !Call::has_body(number));
    is_get && first.connection != second.connection && is_among_the_last
}

#[test]
fn only_what_moved_when_it_was_looked_at_may_be_seen_twice() {
    let line = |number: u64, connection, request_of_connection| Line {
        uri: format!("/r/1/{number}"),
        serial: String::new(),
        resumed: false,
        protocol: String::new(),
        status: 200,
        connection,
        request_of_connection,
        http: String::new(),
        verify: String::new(),
    };
    let last_of = BTreeMap::from([(5, 100), (8, 1)]);
    let moved = |lines: &[&Line]| moved_when_it_was_looked_at(lines, &last_of);
    assert!(moved(&[&line(7, 5, 99), &line(7, 8, 1)]) && moved(&[&line(7, 8, 1), &line(7, 5, 100)]));
    assert!(!moved(&[&line(6, 5, 99), &line(6, 8, 1)]), "a POST");
    assert!(!moved(&[&line(7, 5, 90), &line(7, 8, 1)]), "its connection went on");
    assert!(!moved(&[&line(7, 5, 99), &line(7, 5, 100)]), "on one connection");
    assert!(!moved(&[&line(7, 5, 99), &line(7, 8, 1), &line(7, 8, 1)]), "three times");
}

fn connections(lines: &[Line]) -> BTreeMap<u64, BTreeSet<&str>> {
    let mut connections: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in lines {
        connections.entry(line.connection).or_default().insert(line.serial.as_str());
    }
    connections
}
