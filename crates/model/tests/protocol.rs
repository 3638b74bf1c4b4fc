//! Publish, retire, drain: interleavings of the real files, and the faults that they must find.

use std::panic::catch_unwind;

use certsource_model::{Fault, Kind, Plan, run};
use shuttle::{check_pct, check_random};

/// So many of each case, by two ways of choosing: any next step, and few changes of thread at the worst moments.
fn runs() -> usize {
    std::env::var("CERTSOURCE_MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(500)
}

fn check(plan: &Plan) {
    let (random, pct) = (plan.clone(), plan.clone());
    check_random(move || run(&random), runs());
    check_pct(move || run(&pct), runs(), 3);
}

/// Whether some interleaving fails, and why.
fn finds(plan: Plan) -> Option<String> {
    let found = catch_unwind(move || check(&plan)).err()?;
    let text = found.downcast_ref::<String>().cloned();
    Some(text.or_else(|| found.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default())
}

fn plan(requests: &[Kind], rotations: usize, old_connections_work: bool) -> Plan {
    Plan { requests: requests.to_vec(), rotations, old_connections_work, lazy: false, fault: Fault::None }
}

/// Nobody sleeps for ever: connections of the old generation never come, so whoever waits for one must be woken.
#[test]
fn no_wake_up_is_lost() {
    check(&plan(&[Kind::Connecting, Kind::Queued], 1, false));
    check(&plan(&[Kind::Connecting, Kind::Connecting], 2, false));
    check(&plan(&[Kind::Making, Kind::Queued], 1, false));
    check(&plan(&[Kind::Making, Kind::Making], 2, false));
    check(&plan(&[Kind::Queued, Kind::Queued, Kind::Dropped], 2, false));
}

/// Old connections take requests at any moment: but none after `reload` returned, and no new request goes to one.
#[test]
fn nothing_is_given_to_an_old_connection_after_reload() {
    check(&plan(&[Kind::Connecting, Kind::Held], 1, true));
    check(&plan(&[Kind::Queued, Kind::Connecting], 2, true));
    check(&plan(&[Kind::Held, Kind::Queued, Kind::Dropped], 2, true));
    check(&plan(&[Kind::Making, Kind::Held], 1, true));
    check(&plan(&[Kind::Making, Kind::Making, Kind::Queued], 2, true));
}

/// A `send` that is dropped holds nothing up and leaves nothing.
#[test]
fn a_dropped_send_leaves_nothing() {
    for works in [false, true] {
        check(&plan(&[Kind::Dropped, Kind::Dropped], 1, works));
    }
}

/// A stream that no connection has asked for comes back, from a connect that was given up and from a connection that
/// closed, and goes with the next attempt.
#[test]
fn a_body_that_nobody_asked_for_comes_back() {
    check(&plan(&[Kind::Streamed, Kind::Connecting], 1, false));
    check(&plan(&[Kind::Streamed, Kind::Streamed], 2, false));
    check(&plan(&[Kind::Streamed, Kind::Held], 2, true));
}

/// A lazy client's requests finish on their generation, hops included; `reload` waits for none; nothing is left.
#[test]
fn lazy_requests_stay_on_their_generation() {
    let mut plan = plan(&[Kind::Held, Kind::Held], 2, true);
    plan.lazy = true;
    check(&plan);
}

/// With a drain deadline a response on a generation that was replaced is cut, and its reader is told; one on a generation
/// that stays is not.
#[test]
fn what_still_runs_at_the_drain_deadline_is_cut_and_nothing_else() {
    check(&plan(&[Kind::Answering, Kind::Answering], 1, true));
    check(&plan(&[Kind::Answering, Kind::Held], 2, true));
}

/// Nor is a request that its connection never looks at waited for longer, by its sender or by `reload`.
#[test]
fn an_attempt_ends_at_the_drain_deadline() {
    check(&plan(&[Kind::Unanswered, Kind::Unanswered], 1, false));
    check(&plan(&[Kind::Unanswered, Kind::Answering], 2, true));
}

/// The runs can fail: each of these mistakes is found.
#[test]
fn a_lost_wake_up_is_found() {
    let mut plan = plan(&[Kind::Connecting, Kind::Queued], 1, false);
    plan.fault = Fault::RegistersLate;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("deadlock"), "{why}");
}

#[test]
fn an_attempt_that_nobody_wakes_is_found() {
    let mut plan = plan(&[Kind::Queued, Kind::Making], 1, false);
    plan.fault = Fault::Silent;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("deadlock"), "{why}");
}

#[test]
fn a_request_that_is_not_counted_is_found() {
    let mut plan = plan(&[Kind::Held, Kind::Held], 1, true);
    plan.fault = Fault::Uncounted;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("took a request after `reload` returned"), "{why}");
}

#[test]
fn a_drain_before_the_retirement_is_found() {
    let mut plan = plan(&[Kind::Queued, Kind::Connecting], 1, false);
    plan.fault = Fault::DrainsFirst;
    let why = finds(plan).expect("it is found");
    // It sleeps for ever, or asks a closed lane for ever, as the interleaving has it.
    assert!(why.contains("deadlock") || why.contains("max_steps"), "{why}");
}

#[test]
fn a_body_that_comes_back_late_is_found() {
    let mut plan = plan(&[Kind::Streamed, Kind::Streamed], 1, false);
    plan.fault = Fault::GivesBackLate;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("a body that nobody asked for is lost"), "{why}");
}

#[test]
fn a_response_that_is_cut_too_early_is_found() {
    let mut plan = plan(&[Kind::Answering, Kind::Answering], 1, true);
    plan.fault = Fault::CutsEarly;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("a response of a generation that is served was cut"), "{why}");
}

#[test]
fn a_reader_that_a_cut_does_not_wake_is_found() {
    let mut plan = plan(&[Kind::Answering, Kind::Answering], 1, true);
    plan.fault = Fault::StealsTheWaker;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("deadlock"), "{why}");
}

#[test]
fn an_attempt_that_no_deadline_ends_is_found() {
    let mut plan = plan(&[Kind::Unanswered, Kind::Unanswered], 1, false);
    plan.fault = Fault::Undrained;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("deadlock"), "{why}");
}

#[test]
fn a_request_that_is_sent_again_although_it_was_seen_is_found() {
    let mut plan = plan(&[Kind::Making, Kind::Making], 1, true);
    plan.fault = Fault::IgnoresTouch;
    let why = finds(plan).expect("it is found");
    assert!(why.contains("a request was seen twice"), "{why}");
}
