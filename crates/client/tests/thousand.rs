//! Scenario 25: a thousand clients, made and dropped while they reload, leave nothing. In a file of its own: it counts
//! threads, descriptors and inotify watches of the process, and the tasks of its runtime.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use certsource_client::{Hub, detect};
use certsource_testkit::{Ca, KubeletDir};

use common::{Server, Tls, builder, soon, until};

fn count(what: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// inotify's watches (proc_pid_fdinfo(5)): there is a line for each.
fn watches() -> usize {
    let files = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    // A descriptor that was closed meanwhile has none.
    let infos = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
    infos.map(|info| info.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn scenario_25_a_thousand_clients_leave_no_task_thread_watch_or_descriptor() {
    const CLIENTS: usize = 100;
    let ca = Ca::new("ca");
    let dir = KubeletDir::new(ca.issue("client")).unwrap();
    let leaf = ca.issue("localhost");
    let server = Server::start(Tls::of(&leaf).clients(&[&ca])).await;
    // What tokio starts for itself is there before.
    tokio::task::spawn_blocking(|| ()).await.unwrap();
    let (threads, descriptors) = (count("task"), count("fd"));
    // The server's own task is one.
    let tasks_before = tasks();
    assert_eq!(watches(), 0);
    let hub = Hub::new();
    for _ in 0..10 {
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let builder = builder(dir.path()).hub(hub.clone());
            #[cfg(feature = "notify")]
            let builder = if n % 4 == 0 { builder.detect(detect::Notify::new()) } else { builder };
            let builder = if n % 4 == 1 { builder.detect(detect::Sha256::new()) } else { builder };
            clients.push(builder.build().await.unwrap());
        }
        #[cfg(feature = "notify")]
        until("watches stand, so that they can be left", || watches() > 0).await;
        dir.swap(ca.issue("client")).unwrap();
        let work: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(n, client)| {
                let url = server.url("/");
                tokio::spawn(async move {
                    match n % 5 {
                        // Dropped at once, while it reloads, while it sends, after both, and with a subscriber.
                        0 => {}
                        1 => drop(
                            tokio::time::timeout(std::time::Duration::from_millis(1), client.reload()).await,
                        ),
                        2 => {
                            let send = client.get(url).send();
                            drop(client);
                            send.await.unwrap();
                        }
                        3 => {
                            client.reload().await.unwrap();
                            client.get(url).send().await.unwrap().bytes().await.unwrap();
                        }
                        _ => {
                            let mut events = client.subscribe();
                            drop(client);
                            while events.next().await.is_some() {}
                        }
                    }
                })
            })
            .collect();
        for task in work {
            soon(task).await.unwrap();
        }
        until("no source is followed", || format!("{hub:?}").contains("sources: 0,")).await;
        until("the connections close", || server.open() == 0).await;
        until("the tasks end", || tasks() <= tasks_before).await;
        until("the watches end", || watches() == 0).await;
    }
    // A hub's idle threads stay for a while.
    drop(hub);
    until("the threads end", || count("task") <= threads).await;
    until("the descriptors close", || count("fd") <= descriptors).await;
}
