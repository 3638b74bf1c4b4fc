//! A request through our client allocates no more than two times more than one through bare reqwest.

use std::future::Future;

use certsource_bench::rig::Rig;
use certsource_bench::server::{Http, Sessions};
use tokio::runtime::Runtime;

/// So many requests are counted.
const REQUESTS: u64 = 200;

/// The attempt's ticket, a copy of the URL, the box around the body and the generation in the response are four more; two of a
/// copy that reqwest makes for a retry are not made.
const MORE: u64 = 2;

/// Allocations of this thread for some requests. The server has a thread of its own.
fn counted<F: Future<Output = Result<usize, reqwest::Error>>>(
    runtime: &Runtime,
    send: impl Fn() -> F,
) -> u64 {
    let send = || assert_eq!(runtime.block_on(send()).expect("no request fails"), 2);
    // The connection is made, and what grows has grown.
    (0..50).for_each(|_| send());
    allocation_counter::measure(|| (0..REQUESTS).for_each(|_| send())).count_total
}

fn check(http: Http) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let rig = runtime.block_on(Rig::new(http, Sessions::Resumed, |builder| builder));
    let (ours, bare) = (counted(&runtime, || rig.send_ours()), counted(&runtime, || rig.send_bare()));
    // A response that comes in two pieces takes one more, here as there.
    let spared = REQUESTS / 10;
    assert!(ours <= bare + MORE * REQUESTS + spared, "{ours} and {bare} for {REQUESTS} requests");
}

#[test]
fn a_request_allocates_two_times_more_than_with_reqwest_over_http1() {
    check(Http::One);
}

#[test]
fn a_request_allocates_two_times_more_than_with_reqwest_over_http2() {
    check(Http::Two);
}
