//! A volume that kubelet swaps a thousand times, by the steps of its `atomic_writer.go`, while many read: what a reader gets is
//! always one version and never goes back, and the last version is found, whatever the detector, and whether old versions
//! are removed or stay.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stdout, reason = "the counts are a result")]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use certsource::Material;
use certsource::machine::Policy;
use certsource::source::Detector;
use certsource_client::{Files, detect};
use certsource_reload::Reloader;
use certsource_rustls::TlsGate;
use certsource_testkit::{Ca, Issued, KubeletDir};
use certsource_tests::until;

/// Swaps of each test.
const SWAPS: usize = 1000;
/// Threads that ask for the current generation.
const READERS: usize = 3;

/// One certificate for each round, each by a CA of its own.
static ROUNDS: LazyLock<Vec<Issued>> = LazyLock::new(|| {
    (0..=SWAPS).map(|round| Ca::new(&format!("root {round}.")).issue(&format!("r{round}.test"))).collect()
});

/// The round that all three files are of: certificate, key and root.
#[track_caller]
fn round(material: &Material) -> usize {
    let leaf = material.identity().unwrap().leaf();
    let san = leaf.inspection().sans().first().unwrap().to_string();
    let name = san.strip_prefix("dns:r").and_then(|name| name.strip_suffix(".test"));
    let round: usize = name.unwrap().parse().unwrap();
    let (issued, trust) = (&ROUNDS[round], material.trust().unwrap());
    assert_eq!(leaf.der(), &issued.leaf_der());
    assert!(
        trust.len() == 1 && *trust[0].der() == issued.root_der(),
        "the root of another round than {round}"
    );
    let key = material.identity().unwrap().key();
    assert!(key.secret_der() == issued.key_der().secret_der(), "the key of another round than {round}");
    round
}

/// Waits until this round is current.
#[track_caller]
fn adopted(reloader: &Reloader, wanted: usize) {
    until(&format!("round {wanted} to be current"), || {
        (round(reloader.current().material()) == wanted).then_some(())
    });
}

fn a_thousand_swaps(name: &str, keep_old: bool, detector: impl Detector + 'static) {
    let dir = KubeletDir::new(&ROUNDS[0]).unwrap().keep_old(keep_old);
    let mut policy = Policy::every(Duration::from_millis(10));
    // For a look that fell between two swaps.
    policy.settle = Duration::from_millis(100);
    let files = Files::kubernetes(dir.path()).detect(detector);
    let reloader = Reloader::builder(files).policy(policy).gate(TlsGate::new().unwrap()).start().unwrap();
    let (is_over, loads, retried) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut newest = (0, 0);
                while !is_over.load(Ordering::SeqCst) {
                    let generation = reloader.current();
                    let now = (generation.number(), round(generation.material()));
                    let is_same = now == newest;
                    assert!(is_same || (now.0 > newest.0 && now.1 >= newest.1), "{now:?} after {newest:?}");
                    newest = now;
                    thread::sleep(Duration::from_millis(1));
                }
            });
        }
        // And one who reads the files himself, at any moment.
        scope.spawn(|| {
            let mut newest = 0;
            while !is_over.load(Ordering::SeqCst) {
                match Files::kubernetes(dir.path()).load() {
                    Ok(material) => {
                        let now = round(&material);
                        assert!(now >= newest, "{now} after {newest}");
                        newest = now;
                        loads.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(error) => {
                        assert!(error.is_transient(), "{error}");
                        retried.fetch_add(1, Ordering::SeqCst);
                    }
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        // If this thread fails, the others end all the same.
        let writer = scope.spawn(|| {
            for (number, issued) in ROUNDS.iter().enumerate().skip(1) {
                dir.swap(issued).unwrap();
                // The second time and the hundredth are no different from the first.
                if number <= 3 || number % 50 == 0 {
                    adopted(&reloader, number);
                }
            }
        });
        let written = writer.join();
        is_over.store(true, Ordering::SeqCst);
        written.unwrap();
    });
    adopted(&reloader, SWAPS);
    assert_eq!(reloader.status().reason, None);
    let versions =
        std::fs::read_dir(dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    let versions = versions.filter(|entry| !entry.as_ref().unwrap().path().is_symlink()).count();
    assert_eq!(versions, if keep_old { SWAPS + 1 } else { 1 });
    let loads = loads.into_inner();
    assert!(loads > 100, "{loads} whole reads");
    println!(
        "{name}, old versions kept: {keep_old}: {SWAPS} swaps, {} generations, {loads} reads of the files by hand, {} to be \
         repeated",
        reloader.current().number(),
        retried.into_inner()
    );
}

#[test]
fn mtime_with_old_versions_removed() {
    a_thousand_swaps("mtime", false, detect::Mtime::new());
}

#[test]
fn mtime_with_old_versions_kept() {
    a_thousand_swaps("mtime", true, detect::Mtime::new());
}

#[test]
fn sha256_with_old_versions_removed() {
    a_thousand_swaps("sha256", false, detect::Sha256::new());
}

#[test]
fn sha256_with_old_versions_kept() {
    a_thousand_swaps("sha256", true, detect::Sha256::new());
}

#[test]
fn notify_with_old_versions_removed() {
    a_thousand_swaps("notify", false, detect::Notify::new());
}

#[test]
fn notify_with_old_versions_kept() {
    a_thousand_swaps("notify", true, detect::Notify::new());
}
