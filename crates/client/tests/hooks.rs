//! Hooks and checks: one that re-enters the API, panics or is slow breaks nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use certsource_client::{EventKind, Reason, Threshold, WeakClient};
use certsource_testkit::{Ca, KubeletDir, Part};

use common::{Server, Tls, builder, soon, until};

#[tokio::test]
async fn a_hook_may_use_the_client() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let cell: Arc<OnceLock<WeakClient>> = Arc::default();
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (of_hook, told) = (Arc::clone(&cell), Arc::clone(&seen));
    let client = builder(dir.path())
        .on_reload(move |reload| {
            let Some(client) = of_hook.get().and_then(WeakClient::upgrade) else { return };
            // Everything that a hook could call back into, a reload that blocks among it.
            assert!(client.reloader().reload_blocking().unwrap().number() >= reload.generation.number());
            client.reloader().wake();
            assert!(client.status().generation > 0 && client.expires_at().is_some());
            assert!(!client.certificates().is_empty());
            client.snapshot().unwrap();
            client.reloader().derive(|generation| Ok::<_, std::io::Error>(generation.number())).unwrap();
            told.lock().unwrap().push(reload.generation.number());
        })
        .build()
        .await
        .unwrap();
    cell.set(client.downgrade()).unwrap();
    for _ in 0..3 {
        dir.swap(ca.issue("client")).unwrap();
        soon(client.reload()).await.unwrap();
    }
    // Of the first one too, if the client was in its cell by then.
    until("the hook was told of each", || seen.lock().unwrap().ends_with(&[2, 3, 4])).await;
}

#[tokio::test]
async fn a_hook_that_panics_or_is_slow_stops_nothing() {
    let ca = Ca::new("ca");
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf)).await;
    let dir = KubeletDir::new(&leaf).unwrap();
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let client = builder(dir.path())
        .on_reload(|_| panic!("a hook of the application"))
        .on_reload(move |_| {
            // Until the test lets it go.
            let _ = blocked.lock().unwrap().recv();
            counted.fetch_add(1, Ordering::SeqCst);
        })
        .build()
        .await
        .unwrap();
    for number in 2..5 {
        dir.swap(ca.issue("client")).unwrap();
        assert_eq!(soon(client.reload()).await.unwrap().number(), number);
        client.get(server.url("/")).send().await.unwrap();
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    drop(block);
    until("the slow hook catches up", || calls.load(Ordering::SeqCst) == 4).await;
}

#[tokio::test]
async fn failures_are_told_with_what_is_served() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let failures: Arc<Mutex<Vec<(Reason, u64)>>> = Arc::default();
    let kinds: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let (told, all) = (Arc::clone(&failures), Arc::clone(&kinds));
    let client = builder(dir.path())
        .on_failure(move |failure| told.lock().unwrap().push((failure.reason(), failure.serving())))
        .on_event(move |event| all.lock().unwrap().push(event.kind.as_str()))
        .build()
        .await
        .unwrap();
    let mut events = client.subscribe();
    dir.torn_write(Part::Trust).unwrap();
    let error = client.reload().await.unwrap_err();
    assert!(matches!(soon(events.next()).await.unwrap().unwrap().kind, EventKind::Failed(_)));
    until("the hook is told", || *failures.lock().unwrap() == [(error.reason(), 1)]).await;
    until("every hook is told", || *kinds.lock().unwrap() == ["loaded", "failed"]).await;
}

#[tokio::test]
async fn validate_holds_back_what_the_application_does_not_want() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let wanted = ca.root_der();
    let currents: Arc<Mutex<Vec<bool>>> = Arc::default();
    let seen = Arc::clone(&currents);
    let client = builder(dir.path())
        .validate(move |candidate, current| {
            seen.lock().unwrap().push(current.is_some());
            let anchors = candidate.trust().unwrap_or_default();
            if anchors.iter().any(|anchor| *anchor.der() == wanted) {
                Ok(())
            } else {
                Err("our own CA must stay")
            }
        })
        .build()
        .await
        .unwrap();
    dir.swap(other.issue("client")).unwrap();
    let error = client.reload().await.unwrap_err();
    assert_eq!(error.reason(), Reason::Rejected);
    assert!(error.to_string().contains("our own CA must stay"), "{error}");
    assert_eq!(client.generation().number(), 1);
    assert_eq!(*currents.lock().unwrap(), [false, true]);
    dir.swap_all(ca.certificate_pem() + &other.certificate_pem(), ca.issue("client")).unwrap();
    assert_eq!(client.reload().await.unwrap().number(), 2);
}

/// Thresholds as a part of a lifetime: what is used already is told at once, what comes is told by time alone, each once
/// for each certificate, and again for what a rotation brings.
#[tokio::test]
async fn thresholds_of_expiry_are_told_as_they_pass() {
    const HOUR: Duration = Duration::from_secs(3600);
    let ca = Ca::new("ca");
    let now = SystemTime::now();
    // A bit less than half of its life is used: some seconds are left.
    let left = Duration::from_secs(6);
    let identity = |name: &str| ca.leaf(name).not_before(now - HOUR).not_after(now + HOUR + 2 * left).issue();
    let (first, second) = (identity("client"), identity("client"));
    let half = first.not_before() + first.not_after().duration_since(first.not_before()).unwrap() / 2;
    let dir = KubeletDir::new(&first).unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let client = builder(dir.path())
        .on_expiry([Threshold::Used(0.25), Threshold::Used(0.5), Threshold::Used(0.75)], move |expiring| {
            told.send((expiring.threshold, expiring.certificate.der().clone())).unwrap();
        })
        .build()
        .await
        .unwrap();
    assert_eq!(soon(heard.recv()).await.unwrap(), (Threshold::Used(0.25), first.leaf_der()));
    assert!(SystemTime::now() < half, "the test was too slow to see anything");
    assert_eq!(soon(heard.recv()).await.unwrap(), (Threshold::Used(0.5), first.leaf_der()));
    assert!(SystemTime::now() >= half, "not before its time");
    dir.swap(&second).unwrap();
    client.reload().await.unwrap();
    let mut both = [soon(heard.recv()).await.unwrap(), soon(heard.recv()).await.unwrap()];
    both.sort_by_key(|(threshold, _)| *threshold == Threshold::Used(0.5));
    let expected = [(Threshold::Used(0.25), second.leaf_der()), (Threshold::Used(0.5), second.leaf_der())];
    assert_eq!(both, expected);
    assert!(heard.try_recv().is_err(), "three quarters are far away");
}
