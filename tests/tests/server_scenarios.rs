//! What a rotation brings to a server, by the number of the scenario: certsource's listener and accept loop, and the server
//! that people write by hand (`src/naive_server.rs`), through the same steps. That one must fail them, for the reason that
//! stands beside it. The numbers are those of docs/SCENARIOS.md.
//!
//! What is not here: clients that owe nothing to us (`servers.rs`), what a hundred reloads keep, and the listener below other
//! servers (`crates/hyper/tests`).
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use certsource_client::rustls::version::{TLS12, TLS13};
use certsource_client::rustls::{ALL_VERSIONS, SupportedProtocolVersion};
use certsource_testkit::{AgentFiles, Ca, Issued, KubeletDir, TestDir, write};
use certsource_tests::caller::Caller;
use certsource_tests::host::{App, ByHand, Host, Ours, Setup};
use certsource_tests::load::{Call, Load};
use certsource_tests::subject::Outcome;
use certsource_tests::{BOUND, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const HOUR: Duration = Duration::from_secs(3600);

macro_rules! scenarios {
    ($($name:ident in $cases:ident: by hand $by_hand:literal;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn with_certsource() {
                for case in $cases {
                    super::$name::<Ours>(case).await.unwrap_or_else(|why| panic!("{case:?}: {why}"));
                }
            }

            #[tokio::test]
            async fn by_hand_fails() {
                for case in $cases {
                    let why = super::$name::<ByHand>(case).await.expect_err("it tests something");
                    assert!(why.contains($by_hand), "{case:?}: it fails for another reason: {why}");
                }
            }
        }
    )*};
}

scenarios! {
    s02_a_withdrawn_client_ca_is_refused_at_the_next_connection_resumed_or_not in SESSIONS: by hand "a session lets the withdrawn client in";
    s02_a_withdrawn_client_ca_is_refused_on_open_connections in VERSIONS: by hand "an open connection serves the withdrawn client";
    s03_a_client_ca_is_replaced_with_an_overlap_under_load in SESSIONS: by hand "a session of the first CA is let in at the end";
    s06_garbage in VERSIONS: by hand "B's client is refused while the bundle is garbage: half of it";
    s07_removed_and_back in VERSIONS: by hand "B's client is refused after the file is back";
    s15_an_idle_connection_is_retired_with_its_identity in VERSIONS: by hand "the old connection goes on";
    s17_open_streams_finish_and_new_requests_go_elsewhere in VERSIONS: by hand "the old connection takes new requests";
    s19_cas_and_identity_in_one_swap in VERSIONS: by hand "neither generation is served";
    s32_a_withdrawal_while_the_identity_is_broken in SESSIONS: by hand "a session lets the withdrawn client in";
    s34_a_garbage_ca_for_a_whole_fleet in VERSIONS: by hand "a pod of the fleet does not serve";
    a_handshake_that_takes_its_time_stalls_nobody in VERSIONS: by hand "a client waits for one that says nothing";
}

/// What a scenario is run with.
#[derive(Clone, Copy, Debug)]
struct Case {
    version: &'static SupportedProtocolVersion,
    /// Whether sessions are kept by the clients, in tickets, or by the server.
    tickets: bool,
}

const fn case(version: &'static SupportedProtocolVersion, tickets: bool) -> Case {
    Case { version, tickets }
}

const VERSIONS: [Case; 2] = [case(&TLS12, true), case(&TLS13, true)];
const SESSIONS: [Case; 4] =
    [case(&TLS12, true), case(&TLS12, false), case(&TLS13, true), case(&TLS13, false)];

/// A server in a volume of the kubelet's, whose clients and whose own certificate are of these CAs.
struct Scene<H> {
    case: Case,
    app: App,
    dir: KubeletDir,
    host: H,
    root: Ca,
}

impl<H: Host> Scene<H> {
    async fn new(case: Case, clients: &[&Ca]) -> Result<Self, String> {
        let (app, root) = (App::default(), Ca::new("root"));
        let dir = KubeletDir::from_dir(TestDir::new().unwrap());
        dir.swap_all(pem(clients), root.issue("localhost")).unwrap();
        let setup = Setup::new(dir.path(), &app).version(case.version).tickets(case.tickets);
        let host = H::start(&setup).await?;
        Ok(Self { case, app, dir, host, root })
    }

    /// A client with this identity and no sessions yet.
    fn caller(&self, identity: &Issued) -> Caller {
        Caller::new(&self.root, identity, &[self.case.version])
    }

    /// Whether this client is let in by a full handshake.
    async fn accepts(&self, ca: &Ca) -> bool {
        self.caller(&ca.issue("client")).ask(self.host.address()).await.is_ok()
    }

    /// Other CAs of the clients, and another identity.
    fn write(&self, clients: &[&Ca]) {
        self.dir.swap_all(pem(clients), self.root.issue("localhost")).unwrap();
    }
}

fn pem(cas: &[&Ca]) -> String {
    cas.iter().map(|ca| ca.certificate_pem()).collect()
}

/// Lets it make a session, and sees that it is resumed.
async fn resumes(caller: &Caller, address: SocketAddr) -> Outcome {
    for is_resumed in [false, true] {
        ensure!(caller.ask(address).await? == is_resumed, "no session is resumed, so this tests nothing");
    }
    Ok(())
}

async fn s02_a_withdrawn_client_ca_is_refused_at_the_next_connection_resumed_or_not<H: Host>(
    case: Case,
) -> Outcome {
    let (kept, removed) = (Ca::new("kept"), Ca::new("removed"));
    let scene = Scene::<H>::new(case, &[&kept, &removed]).await?;
    let address = scene.host.address();
    let goes = removed.issue("goes");
    let (stays, with_session) = (scene.caller(&kept.issue("stays")), scene.caller(&goes));
    resumes(&stays, address).await?;
    resumes(&with_session, address).await?;
    scene.write(&[&kept]);
    scene.host.look().await?;
    let before = scene.app.reached(&goes);
    for _ in 0..3 {
        ensure!(scene.caller(&goes).ask(address).await.is_err(), "a handshake lets the withdrawn client in");
        ensure!(with_session.ask(address).await.is_err(), "a session lets the withdrawn client in");
    }
    ensure!(scene.app.reached(&goes) == before, "the application has seen it");
    ensure!(!stays.ask(address).await?, "a session of the older generation is resumed");
    Ok(())
}

async fn s02_a_withdrawn_client_ca_is_refused_on_open_connections<H: Host>(case: Case) -> Outcome {
    let (kept, removed) = (Ca::new("kept"), Ca::new("removed"));
    let scene = Scene::<H>::new(case, &[&kept, &removed]).await?;
    let goes = removed.issue("goes");
    let caller = scene.caller(&goes);
    for caller in [caller.clone(), caller.http2()] {
        let mut open = caller.open(scene.host.address()).await?;
        for _ in 0..2 {
            open.get("/").await?;
        }
        let before = scene.app.reached(&goes);
        scene.write(&[&kept]);
        scene.host.look().await?;
        ensure!(open.get("/").await.is_err(), "an open connection serves the withdrawn client");
        ensure!(scene.app.reached(&goes) == before, "the application has seen it");
        ensure!(scene.host.comes(async || open.is_closed()).await, "the connection is not closed");
        scene.write(&[&kept, &removed]);
        scene.host.look().await?;
    }
    Ok(())
}

async fn s03_a_client_ca_is_replaced_with_an_overlap_under_load<H: Host>(case: Case) -> Outcome {
    let (first, second) = (Ca::new("first"), Ca::new("second"));
    let scene = Scene::<H>::new(case, &[&first]).await?;
    let address = scene.host.address();
    let late = scene.caller(&first.issue("late"));
    resumes(&late, address).await?;
    let current = Arc::new(Mutex::new(scene.caller(&first.issue("client"))));
    let load = Load::start(4, 0, {
        let current = Arc::clone(&current);
        move |Call { .. }| {
            let caller = current.lock().unwrap().clone();
            async move { caller.ask(address).await.map(drop) }
        }
    });
    load.pass(30).await;
    scene.write(&[&first, &second]);
    let is_taken = scene.host.comes(async || scene.accepts(&second).await).await;
    ensure!(is_taken, "the second CA is not taken");
    let paused = load.pause().await;
    *current.lock().unwrap() = scene.caller(&second.issue("client"));
    drop(paused);
    load.pass(30).await;
    scene.write(&[&second]);
    let is_withdrawn = scene.host.comes(async || !scene.accepts(&first).await).await;
    ensure!(is_withdrawn, "the first CA is not withdrawn");
    load.pass(30).await;
    let outcome = load.finish().await;
    ensure!(outcome.failed.is_empty(), "requests failed: {:?}", outcome.failed);
    for _ in 0..3 {
        ensure!(late.ask(address).await.is_err(), "a session of the first CA is let in at the end");
    }
    Ok(())
}

async fn s06_garbage<H: Host>(case: Case) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let scene = Scene::<H>::new(case, &[&a, &b]).await?;
    let kinds = [
        ("half of it", a.certificate_pem() + &b.certificate_pem().replacen("MII", "AAA", 1)),
        ("nothing", String::new()),
        ("noise", "\0\u{1}\u{2}".repeat(500)),
        ("a page of a proxy", "<html><body>502 Bad Gateway</body></html>\n".to_owned()),
    ];
    for (kind, bundle) in kinds {
        scene.dir.swap_all(bundle, scene.root.issue("localhost")).unwrap();
        for _ in 0..2 {
            let looked = scene.host.look().await;
            ensure!(scene.accepts(&a).await, "A's client is refused while the bundle is garbage: {kind}");
            ensure!(scene.accepts(&b).await, "B's client is refused while the bundle is garbage: {kind}");
            ensure!(looked.is_err(), "nobody is told: {kind}");
        }
    }
    scene.write(&[&b]);
    ensure!(scene.host.comes(async || !scene.accepts(&a).await).await, "the repair is not taken");
    ensure!(scene.accepts(&b).await, "B's client is refused after the repair");
    Ok(())
}

async fn s07_removed_and_back<H: Host>(case: Case) -> Outcome {
    let (a, b) = (Ca::new("A"), Ca::new("B"));
    let (app, root, dir) = (App::default(), Ca::new("root"), TestDir::new().unwrap());
    let own = root.issue("localhost");
    let bundle = dir.write("ca.crt", pem(&[&a])).unwrap();
    dir.write("tls.crt", own.chain_pem()).unwrap();
    dir.write("tls.key", own.key_pem()).unwrap();
    // What comes back is a file that was made before the one that went.
    let other = dir.write("other.pem", pem(&[&b])).unwrap();
    write::set_modified(&other, SystemTime::now() - HOUR).finish().unwrap();
    let host = H::start(&Setup::new(dir.path(), &app).version(case.version).tickets(case.tickets)).await?;
    let accepts = async |ca: &Ca| {
        Caller::new(&root, &ca.issue("client"), &[case.version]).ask(host.address()).await.is_ok()
    };
    fs::remove_file(&bundle).unwrap();
    for _ in 0..3 {
        let looked = host.look().await;
        ensure!(looked.is_err(), "nobody is told that the file is gone");
        ensure!(accepts(&a).await, "A's client is refused while the file is gone");
    }
    fs::rename(other, bundle).unwrap();
    let is_back = host.comes(async || accepts(&b).await).await;
    ensure!(is_back, "B's client is refused after the file is back");
    ensure!(!accepts(&a).await, "A's client is let in after the file is back");
    Ok(())
}

/// Also where the client may stay: it is told to go elsewhere, and no request is lost.
async fn s15_an_idle_connection_is_retired_with_its_identity<H: Host>(case: Case) -> Outcome {
    let ca = Ca::new("CA");
    let scene = Scene::<H>::new(case, &[&ca]).await?;
    let caller = scene.caller(&ca.issue("client"));
    for (http2, caller) in [(false, caller.clone()), (true, caller.http2())] {
        let mut open = caller.open(scene.host.address()).await?;
        for _ in 0..2 {
            open.get("/").await?;
        }
        scene.write(&[&ca]);
        scene.host.look().await?;
        // HTTP/1.1 is told in the next response; on HTTP/2 it has been told, and may be gone.
        let last = open.get("/").await;
        ensure!(http2 || last.is_ok(), "a request is lost: {last:?}");
        ensure!(scene.host.comes(async || open.is_closed()).await, "the old connection goes on");
        caller.ask(scene.host.address()).await?;
    }
    Ok(())
}

async fn s17_open_streams_finish_and_new_requests_go_elsewhere<H: Host>(case: Case) -> Outcome {
    let ca = Ca::new("CA");
    let scene = Scene::<H>::new(case, &[&ca]).await?;
    let client = ca.issue("client");
    let caller = scene.caller(&client).http2();
    let mut open = caller.open(scene.host.address()).await?;
    let mut slow = Vec::new();
    for _ in 0..5 {
        slow.push(tokio::spawn(open.send("/slow").await.map_err(|error| error.to_string())?));
    }
    let have_begun = scene.host.comes(async || scene.app.reached(&client) == 5).await;
    ensure!(have_begun, "the streams do not begin");
    scene.write(&[&ca]);
    scene.host.look().await?;
    ensure!(
        scene.host.comes(async || open.get("/").await.is_err()).await,
        "the old connection takes new requests"
    );
    caller.ask(scene.host.address()).await?;
    ensure!(slow.iter().all(|slow| !slow.is_finished()), "a stream was cut");
    scene.app.open_gate();
    for slow in slow {
        let answered = tokio::time::timeout(BOUND, slow).await.expect("an answer").unwrap();
        ensure!(answered.is_ok_and(|answer| answer.status() == 200), "a stream was cut");
    }
    Ok(())
}

/// A client of the old CA trusts the old server only, and one of the new CA the new one. So one of them is served by a whole
/// generation, and none by half of one and half of the other.
async fn s19_cas_and_identity_in_one_swap<H: Host>(case: Case) -> Outcome {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (app, dir) = (App::default(), KubeletDir::new(old.issue("localhost")).unwrap());
    let host = H::start(&Setup::new(dir.path(), &app).version(case.version).tickets(case.tickets)).await?;
    let (of_old, of_new) = (old.issue("client"), new.issue("client"));
    let served = async || {
        let ask = async |ca: &Ca, identity: &Issued| {
            Caller::new(ca, identity, &[case.version]).ask(host.address()).await.is_ok()
        };
        [ask(&old, &of_old).await, ask(&new, &of_new).await]
    };
    let mut steps = dir.swap_steps(new.issue("localhost")).unwrap();
    while let Some(step) = steps.step().unwrap() {
        for _ in 0..3 {
            host.tick().await;
            let before = host.reloads();
            let [old, new] = served().await;
            // One of them may be asked before the change, and the other one after it.
            let is_whole = old != new || before != host.reloads();
            ensure!(is_whole, "neither generation is served after `{step}`");
        }
    }
    ensure!(host.comes(async || served().await == [false, true]).await, "the new generation is not in use");
    ensure!(host.reloads() == 1, "{} generations came of one swap", host.reloads());
    Ok(())
}

async fn s32_a_withdrawal_while_the_identity_is_broken<H: Host>(case: Case) -> Outcome {
    let (kept, removed) = (Ca::new("kept"), Ca::new("removed"));
    let (app, root) = (App::default(), Ca::new("root"));
    let own = root.issue("localhost");
    let files = AgentFiles::from_dir(TestDir::new().unwrap());
    let render = |clients: &[&Ca], key: String| {
        files.render([("ca.crt", pem(clients)), ("tls.crt", own.chain_pem()), ("tls.key", key)]).unwrap();
    };
    render(&[&kept, &removed], own.key_pem());
    let host = H::start(&Setup::new(files.path(), &app).version(case.version).tickets(case.tickets)).await?;
    let caller = |ca: &Ca| Caller::new(&root, &ca.issue("client"), &[case.version]);
    let goes = caller(&removed);
    resumes(&goes, host.address()).await?;
    render(&[&kept], own.key_pem()[..own.key_pem().len() / 2].to_owned());
    let is_gone = host.comes(async || caller(&removed).ask(host.address()).await.is_err()).await;
    ensure!(is_gone, "a handshake lets the withdrawn client in");
    ensure!(goes.ask(host.address()).await.is_err(), "a session lets the withdrawn client in");
    // The rest goes on, with the last good identity.
    caller(&kept).ask(host.address()).await?;
    Ok(())
}

async fn s34_a_garbage_ca_for_a_whole_fleet<H: Host>(case: Case) -> Outcome {
    let (ca, other) = (Ca::new("CA"), Ca::new("other"));
    let mut fleet = Vec::new();
    for _ in 0..5 {
        fleet.push(Scene::<H>::new(case, &[&ca]).await?);
    }
    let broken = ca.certificate_pem().replacen("MII", "AAA", 1);
    for garbage in ["".to_owned(), "\0\0\0".to_owned(), other.certificate_pem() + &broken] {
        for pod in &fleet {
            pod.dir.swap_all(garbage.clone(), pod.root.issue("localhost")).unwrap();
            let looked = pod.host.look().await;
            ensure!(pod.accepts(&ca).await, "a pod of the fleet does not serve");
            ensure!(looked.is_err(), "nobody is told of {garbage:?}");
        }
    }
    for pod in &fleet {
        pod.write(&[&other]);
        let follows = pod.host.comes(async || pod.accepts(&other).await).await;
        ensure!(follows, "a pod does not follow what comes next");
    }
    Ok(())
}

/// One that says nothing, one that says half of a hello.
async fn a_handshake_that_takes_its_time_stalls_nobody<H: Host>(case: Case) -> Outcome {
    let ca = Ca::new("CA");
    let scene = Scene::<H>::new(case, &[&ca]).await?;
    let caller = Caller::new(&scene.root, &ca.issue("client"), ALL_VERSIONS);
    caller.ask(scene.host.address()).await?;
    let _silent = TcpStream::connect(scene.host.address()).await.unwrap();
    let mut slow = TcpStream::connect(scene.host.address()).await.unwrap();
    slow.write_all(&[22, 3, 1, 2]).await.unwrap();
    for _ in 0..3 {
        // Less than the ten seconds after which ours gives up a handshake.
        let asked = tokio::time::timeout(Duration::from_secs(5), caller.ask(scene.host.address())).await;
        let Ok(asked) = asked else { return Err("a client waits for one that says nothing".to_owned()) };
        asked?;
    }
    Ok(())
}
