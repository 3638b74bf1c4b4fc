//! A real OpenBao, a real agent that writes certificates of ten seconds, and a real nginx that demands them: requests go on
//! all the time, none fails, and each certificate that the agent wrote is used. `CERTSOURCE_OPENBAO_SECONDS` says how
//! long; 120 is the full size.
//! needs: bao nginx
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use certsource_client::{Client, Files, detect};
use certsource_reload::Reloader;
use certsource_rustls::TlsGate;
use certsource_tests::clients::Clients;
use certsource_tests::nginx::{Nginx, Options};
use certsource_tests::openbao::{LEASE, OpenBao, TTL};
use certsource_tests::{BOUND, serial, size, tool};

/// Tasks that send requests without pause.
const TASKS: usize = 4;

/// Certificates in the order in which they came, each by its serial and with the moment.
type Seen = Arc<Mutex<Vec<(String, Instant)>>>;

/// Looks at a file all the time, as nobody does who follows it for a reason.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(String, Instant)>>,
}

impl Watcher {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen: Vec<(String, Instant)> = Vec::new();
            loop {
                // The last look comes after the last change.
                let is_last = is_over.load(Ordering::SeqCst);
                let now = serial::of_file(&path).expect("a file that is renamed over is always whole");
                if seen.last().is_none_or(|(last, _)| *last != now) {
                    seen.push((now, Instant::now()));
                }
                if is_last {
                    return seen;
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, thread }
    }

    fn finish(self) -> Vec<(String, Instant)> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

fn serials(seen: &[(String, Instant)]) -> Vec<&str> {
    seen.iter().map(|(serial, _)| serial.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_renames_three_files_and_each_renewal_is_used() {
    let files = [
        ("tls.crt", "{{ .Data.certificate }}\n"),
        ("tls.key", "{{ .Data.private_key }}\n"),
        ("ca.crt", "{{ .Data.issuing_ca }}\n"),
    ];
    follow("three files", &files, "tls.crt", |dir| Files::kubernetes(dir)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_renames_one_bundle_and_each_renewal_is_used() {
    let files = [
        ("bundle.pem", "{{ .Data.certificate }}\n{{ .Data.issuing_ca }}\n{{ .Data.private_key }}\n"),
        ("ca.crt", "{{ .Data.issuing_ca }}\n"),
    ];
    let follows = |dir: &Path| Files::combined(dir.join("bundle.pem")).with_trust(dir.join("ca.crt"));
    follow("one bundle", &files, "bundle.pem", follows).await;
}

/// The template of docs/OPERATIONS.md, as it stands there, but for the path: an agent takes it, and what it renders is a
/// source.
#[test]
fn the_template_of_the_page_is_rendered_and_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    if !tool::are_here(&["bao"]) {
        return;
    }
    let page = include_str!("../../docs/OPERATIONS.md");
    let blocks: Vec<_> =
        page.split("\n```hcl\n").skip(1).filter_map(|rest| rest.split("\n```\n").next()).collect();
    let [template] = blocks[..] else { panic!("{} templates, and a test for one", blocks.len()) };
    let bao = OpenBao::start();
    let (mut agent, path) = bao.agent_of(|path| {
        assert!(template.contains("\"/run/agent/web.pem\""), "{template}");
        template.replace("/run/agent/web.pem", &path.display().to_string())
    });
    let reloader = Reloader::builder(Files::combined(&path)).gate(TlsGate::new().unwrap()).start();
    let generation =
        reloader.unwrap_or_else(|error| panic!("{error}; the agent said: {}", agent.said())).current();
    let chain: Vec<_> = generation
        .identity()
        .unwrap()
        .chain()
        .iter()
        .map(|one| one.inspection().subject().to_owned())
        .collect();
    assert_eq!(chain, ["CN=web.example.org", "CN=OpenBao root"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "{mode:o}");
    agent.stop();
}

async fn follow(name: &str, rendered: &[(&str, &str)], leaf: &str, files: impl Fn(&Path) -> Files) {
    if !tool::are_here(&["bao", "nginx"]) {
        return;
    }
    let time = Duration::from_secs(size("CERTSOURCE_OPENBAO_SECONDS", 26));
    let bao = OpenBao::start();
    let options = Options { http2: false, protocol: "TLSv1.3", requests_per_connection: 20 };
    let nginx = Nginx::start(options, &bao.server(), bao.root());
    let mut agent = bao.agent(rendered);
    let leaf = agent.path().join(leaf);
    let watcher = Watcher::start(leaf.clone());
    // What each of the two clients put into use. All is as by default but for the detector.
    let adopted: Mutex<Vec<Seen>> = Mutex::default();
    let clients = Clients::new(nginx.address(), || {
        let seen = Seen::default();
        adopted.lock().unwrap().push(Arc::clone(&seen));
        let builder =
            Client::builder().files(files(&agent.path())).detect(detect::Notify::new()).http1_only();
        builder.on_reload(move |reload| {
            let identity = reload.generation.identity().unwrap().leaf();
            seen.lock().unwrap().push((serial::plain(identity.inspection().serial()), Instant::now()));
        })
    })
    .await;
    let load = clients.load(TASKS, &nginx.url(""), 0);
    let start = Instant::now();
    while start.elapsed() < time {
        load.pass(20).await;
        assert_eq!(load.failed(), [""; 0], "after {:?}; the agent said: {}", start.elapsed(), agent.said());
    }
    agent.stop();
    let last = serial::of_file(&leaf).unwrap();
    for client in clients.both() {
        let mut generations = client.reloader().watch();
        let reached = async {
            while serial::plain(client.generation().identity().unwrap().leaf().inspection().serial()) != last
            {
                generations.changed().await.unwrap();
            }
        };
        tokio::time::timeout(BOUND, reached).await.expect("the last certificate is used");
    }
    load.pass(50).await;
    let outcome = load.finish().await;
    let written = watcher.finish();
    assert_eq!(outcome.failed, [""; 0]);

    // An agent fetches the next one when 95 % of the lease have passed, at the latest.
    let least = time.as_secs() / (LEASE.as_secs() + 1);
    assert!(written.len() as u64 > least, "{} certificates in {time:?}: {}", written.len(), agent.said());
    let lines = nginx.requests("/r/", outcome.answered.len());
    assert_eq!(lines.len(), outcome.answered.len(), "no request is sent twice");
    let strange = lines.iter().find(|line| (line.status, line.verify.as_str()) != (200, "SUCCESS"));
    assert_eq!(strange, None);
    let shown: BTreeSet<_> = lines.iter().map(|line| serial::plain(&line.serial)).collect();
    let mut slowest = Duration::ZERO;
    for seen in adopted.into_inner().unwrap() {
        // Hooks run after publishing.
        let seen = certsource_tests::until("the hook to be told of the last", || {
            let seen = seen.lock().unwrap().clone();
            seen.last().is_some_and(|(serial, _)| *serial == last).then_some(seen)
        });
        let from = written.iter().position(|(serial, _)| *serial == seen[0].0).unwrap();
        assert_eq!(serials(&seen), serials(&written[from..]), "used, and written");
        assert_eq!(
            serials(&seen).into_iter().map(str::to_owned).collect::<BTreeSet<_>>(),
            shown,
            "nginx saw"
        );
        for ((_, used), (_, written)) in seen.iter().zip(&written[from..]).skip(1) {
            slowest = slowest.max(used.saturating_duration_since(*written));
        }
    }
    println!(
        "{name}: {} certificates of {TTL:?} in {time:?}, each used; {} requests, 0 failed; used at the latest \
         {slowest:?} after it was written",
        written.len(),
        lines.len()
    );
}
