//! What comes and goes during a run: short-lived clients and sources, and an operating system that has no watch left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use certsource_bench::server::{Http, Server, Sessions, config};
use certsource_bench::usage::instances;
use certsource_client::certsource_reload::Hub;
use certsource_client::{Client, Policy, Reloader};
use certsource_testkit::{Ca, KubeletDir};
use rustix::fs::inotify;

use crate::record::Record;
use crate::rest::Course;
use crate::unit::with_detector;

/// Sources and clients of one round.
const ROUND: usize = 10;
const BETWEEN: Duration = Duration::from_secs(10);

/// Rounds until the run is over.
pub(crate) async fn run(record: Arc<Record>, course: Arc<Course>) {
    let ca = Ca::new("churn");
    let dir = KubeletDir::new(ca.issue("client")).expect("a directory");
    let server = Server::start(config(&ca.issue("localhost"), &[&ca], Http::Two, Sessions::Resumed));
    // Those of the units, which last as long as the run.
    let lasting = instances();
    course.join();
    while !course.is_over() {
        course.point().await;
        if let Err(error) = round(&record, &dir, &server).await {
            record.problem(format!("a short-lived client failed: {error}"));
        }
        let (of_task, path) = (Arc::clone(&record), dir.path().to_owned());
        let files = certsource_client::Files::kubernetes(path);
        let exhausted = tokio::task::spawn_blocking(move || exhaust(&of_task, files, lasting)).await;
        if let Err(error) = exhausted {
            record.problem(format!("running without watches panicked: {error}"));
        }
        let end = Instant::now() + BETWEEN;
        while Instant::now() < end && !course.is_over() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn round(
    record: &Record,
    dir: &KubeletDir,
    server: &Server,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for detect in ["mtime", "notify"] {
        for _ in 0..ROUND {
            let files = with_detector(certsource_client::Files::kubernetes(dir.path()), detect);
            let hub = Hub::new();
            let reloader = Reloader::builder(files).hub(hub).start_async().await?;
            let files = with_detector(certsource_client::Files::kubernetes(dir.path()), detect);
            let client = Client::builder().files(files).no_proxy().build().await?;
            let body = client.get(server.url()).send().await?.text().await?;
            if body != "ok" {
                return Err("another response".into());
            }
            drop(reloader);
            record.short_lived.fetch_add(2, Ordering::Relaxed);
            record.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Takes every inotify instance that this user may have, starts a watched source, and gives them back: the source must
/// follow all the same, say that it is degraded, and be watched again later.
fn exhaust(record: &Record, files: certsource_client::Files, lasting: usize) {
    const NAME: &str = "no file watch left";
    // Watchers of hubs that were dropped give theirs back a little later.
    let end = Instant::now() + Duration::from_secs(30);
    while instances() > lasting && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    if instances() > lasting {
        return record.problem(format!("{} inotify instances are left of {lasting}", instances()));
    }
    // The kernel counts an instance for a while after it was closed: until none came for some time.
    let mut held = Vec::new();
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(2) {
        match inotify::init(inotify::CreateFlags::CLOEXEC) {
            Ok(instance) => {
                held.push(instance);
                last = Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
        if held.len() > 4096 {
            return record.skip(NAME, &"this user may have more than 4,096 inotify instances");
        }
    }
    let mut policy = Policy::every(Duration::from_millis(100));
    policy.safety = Duration::from_millis(200);
    let builder = Reloader::builder(with_detector(files, "notify")).hub(Hub::new()).policy(policy);
    match builder.start() {
        Ok(reloader) => {
            record.fault(NAME);
            if reloader.status().degraded.is_none() || reloader.status().watching {
                record.problem(format!("without watches, and not degraded: {:?}", reloader.status()));
            }
            drop(held);
            let end = Instant::now() + Duration::from_secs(90);
            while !reloader.status().watching {
                if Instant::now() > end {
                    return record.problem(format!("not watched again: {:?}", reloader.status()));
                }
                reloader.wake();
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Err(error) => record.problem(format!("without watches, and not loaded: {error}")),
    }
}
