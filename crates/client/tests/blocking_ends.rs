//! The thread of a blocking client ends with its last handle. In a file of its own: it counts threads of the process.

#![cfg(all(feature = "blocking", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use certsource_testkit::{Ca, KubeletDir};

use common::{builder, until};

fn threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        // A thread may end meanwhile.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.filter(|name| name.trim() == "certsource-http").count()
}

#[tokio::test]
async fn a_thread_each_and_none_is_left() {
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    for _ in 0..3 {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let builder = builder(dir.path());
            clients.push(tokio::task::spawn_blocking(|| builder.blocking().unwrap()).await.unwrap());
        }
        let clones = clients.clone();
        // A thread is named when it begins to run.
        until("one each, whatever is cloned", || threads() == 20).await;
        drop((clients, clones));
        until("the threads end", || threads() == 0).await;
    }
}
