//! What a status says of an overlap that can not end.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use certsource::machine::{Candidate, Policy, Verdict};
use certsource::parts::Parts;
use certsource::{Error, KeyFormat, Origin, PrivateKey, Pusher, Reason, push};
use certsource_reload::{Gate, Hub, Reloader};
use certsource_testkit::{Ca, Issued};

use support::*;

struct Ends(Arc<AtomicBool>);

impl Gate for Ends {
    fn judge(&self, candidate: &Candidate) -> Verdict {
        let is_end = candidate.current.is_some() && !candidate.can_be_refused;
        if is_end && self.0.load(Ordering::SeqCst) {
            Verdict::Unusable(Error::new(Reason::Rejected, "no"))
        } else {
            Verdict::Accept
        }
    }
}

fn start(first: &[&Ca], overlap: Duration) -> (Pusher, Reloader, Arc<AtomicBool>) {
    let fails = Arc::new(AtomicBool::new(false));
    let (pusher, source) = push(Origin::named("push"));
    pusher.push(anchors(first));
    let mut policy = Policy::default();
    policy.overlap = overlap;
    policy.settle = 20 * MS;
    let reloader =
        Reloader::builder(source).hub(Hub::new()).policy(policy).gate(Ends(fails.clone())).start().unwrap();
    (pusher, reloader, fails)
}

fn mixed(
    ca: &Ca,
    certificate: &Issued,
    key: &Issued,
) -> impl Fn() -> Result<Parts, Error> + Send + 'static + use<> {
    let (trust, chain) = (anchors(&[ca]), certificate.chain_der());
    let key = key.key_der().secret_der().to_vec();
    move || {
        let key = PrivateKey::new(KeyFormat::Pkcs8, key.clone().into());
        Ok(trust()?.with_identity(&Origin::named("id"), chain.clone(), key))
    }
}

#[test]
fn a_pair_in_its_grace_is_not_the_reason_of_an_end_that_fails() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (a, b) = (new.issue("a"), new.issue("b"));
    let (pusher, reloader, fails) = start(&[&old], 3000 * MS);
    pusher.push(anchors(&[&new]));
    assert_eq!(reloader.reload_blocking().unwrap().trust().unwrap().len(), 2);
    fails.store(true, Ordering::SeqCst);
    until("the end fails", || reloader.status().failing_seconds.is_some());
    assert!(reloader.status().message.unwrap().contains("still trusted"));
    pusher.push(mixed(&new, &a, &b));
    until("it is read", || reloader.reload_blocking().is_err());
    let status = reloader.status();
    assert_eq!(status.reason, Some(Reason::Rejected), "{status:#?}");
}

#[test]
fn what_was_degraded_and_is_whole_again_stays_so_when_an_end_fails() {
    let [one, two, new] = ["one", "two", "new"].map(Ca::new);
    let (pusher, reloader, fails) = start(&[&one, &two, &new], 6000 * MS);
    pusher.push(anchors(&[&two, &new]));
    reloader.reload_blocking().unwrap();
    // Longer than a machine stands still: the ends are told apart.
    std::thread::sleep(3000 * MS);
    pusher.push(anchors(&[&new]));
    reloader.reload_blocking().unwrap();
    pusher.push(|| Err(Error::new(Reason::NotFound, "away for a moment")));
    until("told", || reloader.status().failing_seconds.is_some());
    until("the first end", || reloader.current().trust().unwrap().len() == 2);
    assert!(reloader.status().degraded.is_some());
    fails.store(true, Ordering::SeqCst);
    pusher.push(anchors(&[&new]));
    until("whole again", || reloader.status().failing_seconds.is_none());
    assert_eq!(reloader.status().degraded, None);
    until("the second end fails", || reloader.status().failing_seconds.is_some());
    let status = reloader.status();
    assert_eq!(status.degraded, None, "{status:#?}");
}

#[test]
fn a_withdrawn_anchor_that_is_still_trusted_is_pending() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (pusher, reloader, fails) = start(&[&old], 300 * MS);
    pusher.push(anchors(&[&new]));
    reloader.reload_blocking().unwrap();
    fails.store(true, Ordering::SeqCst);
    until("the end fails", || reloader.status().failing_seconds.is_some());
    let status = reloader.status();
    assert!(status.withdrawal_pending, "{status:#?}");
}
