//! Nothing is left behind: alone in its process, so that threads and descriptors can be counted.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use certsource::files::Files;
use certsource_reload::{Hub, Reloader};
use certsource_testkit::{Ca, KubeletDir};

fn count(of: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{of}")).unwrap().count()
}

#[test]
fn a_thousand_sources_leave_no_thread_and_no_descriptor() {
    let dir = KubeletDir::new(Ca::new("ca").issue("localhost")).unwrap();
    let (threads, descriptors) = (count("task"), count("fd"));
    for hub in [Hub::new(), Hub::shared()] {
        let reloaders: Vec<_> = (0..500)
            .map(|_| {
                Reloader::builder(watched(Files::kubernetes(dir.path()))).hub(hub.clone()).start().unwrap()
            })
            .collect();
        assert!(count("task") > threads);
        drop(hub);
        drop(reloaders);
    }
    let end = Instant::now() + Duration::from_secs(30);
    while (count("task"), count("fd")) != (threads, descriptors) {
        let left = (count("task"), count("fd"));
        assert!(Instant::now() < end, "threads, descriptors: {left:?}, before {:?}", (threads, descriptors));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(feature = "notify")]
fn watched(files: Files) -> Files {
    files.detect(certsource::detect::Notify::new())
}

#[cfg(not(feature = "notify"))]
fn watched(files: Files) -> Files {
    files
}
