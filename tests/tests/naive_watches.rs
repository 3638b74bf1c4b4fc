//! Controls on the system's own inotify, beside those of `naive_designs.rs`: a watch that a late event of the old file takes
//! away, and a watcher that each client has for itself. Each must fail; certsource in the same steps stands beside it.
//! docs/SCENARIOS.md says whose designs they are.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::print_stderr, reason = "what this machine can not perform is said")]

use std::fs::{self, Permissions};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use certsource::Files;
use certsource::detect::Notify;
use certsource::machine::Policy;
use certsource_reload::{Hub, Reloader};
use certsource_testkit::{Ca, TestDir};
use certsource_tests::until;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

/// Renames a new bundle into place.
fn replace(dir: &TestDir, ca: &Ca) {
    dir.write("new.pem", ca.certificate_pem()).unwrap();
    fs::rename(dir.join("new.pem"), dir.join("ca.pem")).unwrap();
}

/// The same by a writer that puts the old bundle aside first, and lets nobody change it there.
fn replace_with_backup(dir: &TestDir, ca: &Ca) {
    fs::set_permissions(dir.join("ca.pem"), Permissions::from_mode(0o444)).unwrap();
    fs::rename(dir.join("ca.pem"), dir.join("ca.pem.bak")).unwrap();
    replace(dir, ca);
}

/// By what an event of a file that was renamed away ends a watch.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// By the path that was watched: then it is the watch that stands there by now, whichever file it is of.
    ThatOfThePath,
    /// By its own number.
    ItsOwn,
}

/// Watches a file, and arms the watch again when it is told that the file's attributes changed or that it is gone.
struct Rearms {
    path: PathBuf,
    ends: Ends,
    system: OwnedFd,
    watch: Option<i32>,
    read: String,
}

impl Rearms {
    fn new(path: PathBuf, ends: Ends) -> Self {
        let system = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let read = fs::read_to_string(&path).unwrap();
        let mut by_hand = Self { path, ends, system, watch: None, read };
        by_hand.arm();
        by_hand
    }

    fn arm(&mut self) {
        let events =
            WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        self.watch = inotify::add_watch(&self.system, &self.path, events).ok();
    }

    /// Takes the events that have come, one by one. Returns how many there were.
    fn tick(&mut self) -> usize {
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.system, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => events.push((event.wd(), event.events())),
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for (watch, event) in &events {
            if event.contains(ReadFlags::MOVE_SELF)
                && (self.ends == Ends::ThatOfThePath || self.watch == Some(*watch))
            {
                if let Some(watch) = self.watch.take() {
                    inotify::remove_watch(&self.system, watch).unwrap();
                }
            }
            if event.intersects(ReadFlags::ATTRIB | ReadFlags::DELETE_SELF) {
                self.arm();
            }
            self.read = fs::read_to_string(&self.path).unwrap();
        }
        events.len()
    }
}

/// In the middle of a change the watch is armed on the new file already, and only then the old one's last event is read.
#[test]
fn s10_by_hand_a_late_event_of_the_old_file_takes_the_new_watch_away() {
    let cas = ["first", "second", "third", "fourth"].map(Ca::new);
    for ends in [Ends::ThatOfThePath, Ends::ItsOwn] {
        let dir = TestDir::new().unwrap();
        let path = dir.write("ca.pem", cas[0].certificate_pem()).unwrap();
        let mut by_hand = Rearms::new(path, ends);
        replace(&dir, &cas[1]);
        assert!(by_hand.tick() > 0);
        assert_eq!(by_hand.read, cas[1].certificate_pem(), "a rename alone is followed");
        replace_with_backup(&dir, &cas[2]);
        assert!(by_hand.tick() > 0);
        assert_eq!(by_hand.read, cas[2].certificate_pem(), "so is this one");
        // What removing a watch brings is none of the next change.
        by_hand.tick();
        replace(&dir, &cas[3]);
        let is_lost = ends == Ends::ThatOfThePath;
        assert_eq!((by_hand.watch.is_none(), by_hand.tick() == 0), (is_lost, is_lost), "for good");
        assert_eq!(by_hand.read == cas[2].certificate_pem(), is_lost, "{ends:?}");
    }
}

/// Follows this file by events alone: no look comes by itself in the time of a test.
fn follow(path: &Path, hub: &Hub) -> Reloader {
    let mut policy = Policy::every(Duration::from_secs(3600));
    policy.safety = Duration::from_secs(3600);
    (policy.settle, policy.settle_loss) = (Duration::from_millis(50), Duration::from_millis(50));
    let files = Files::trust(path).detect(Notify::new());
    Reloader::builder(files).policy(policy).hub(hub.clone()).start().unwrap()
}

fn is_trusted(reloader: &Reloader, ca: &Ca) -> Option<()> {
    let current = reloader.current();
    let anchors = current.trust().unwrap();
    (anchors.len() == 1 && *anchors[0].der() == ca.certificate_der()).then_some(())
}

#[test]
fn s10_a_late_event_of_the_old_file_takes_no_watch_away() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", Ca::new("first").certificate_pem()).unwrap();
    let reloader = follow(&path, &Hub::new());
    for round in 0..10 {
        let ca = Ca::new(&format!("round {round}"));
        if round % 2 == 0 {
            replace(&dir, &ca)
        } else {
            replace_with_backup(&dir, &ca)
        }
        until("it is followed", || is_trusted(&reloader, &ca));
        assert!(reloader.status().watching);
    }
}

/// So many watchers of the system may be had in the child, by all of its user's programs.
const INSTANCES: usize = 8;
const CLIENTS: usize = 20;
/// Set in the child.
const CHILD: &str = "CERTSOURCE_TESTS_FEW_INSTANCES";

/// The system's limit is the user's, who runs other tests, too. So this is a child in a user namespace, with a lower limit.
#[test]
fn s25_by_hand_a_watcher_for_each_client_leaves_none_for_the_next_and_certsource_shares_one() {
    if std::env::var_os(CHILD).is_some() {
        return few_instances();
    }
    let limited = |then: &str| {
        let set = format!("echo {INSTANCES} > /proc/sys/user/max_inotify_instances; {then}");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-ec", &set, "sh"]).stdin(Stdio::null());
        command
    };
    if !limited("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        eprintln!("left out: no user namespace with a limit of its own is allowed here");
        return;
    }
    let test = "s25_by_hand_a_watcher_for_each_client_leaves_none_for_the_next_and_certsource_shares_one";
    let mut child = limited("exec \"$@\"");
    child.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(CHILD, "1");
    let output = child.output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn few_instances() {
    let (dir, hub) = (TestDir::new().unwrap(), Hub::new());
    let old = Ca::new("old").certificate_pem();
    let paths: Vec<_> = (0..CLIENTS).map(|at| dir.write(format!("{at}.pem"), &old).unwrap()).collect();
    let reloaders: Vec<_> = paths.iter().map(|path| follow(path, &hub)).collect();
    // By hand, each client has a watcher of its own.
    let watchers: Vec<_> = (0..CLIENTS).map(|_| inotify::init(CreateFlags::CLOEXEC)).collect();
    let had = watchers.iter().filter(|watcher| watcher.is_ok()).count();
    assert_eq!(had, INSTANCES - 1, "all but the one that certsource has");
    assert_eq!(watchers.last().unwrap().as_ref().unwrap_err(), &Errno::MFILE);
    let new = Ca::new("new");
    for (path, reloader) in paths.iter().zip(&reloaders) {
        dir.write("new.pem", new.certificate_pem()).unwrap();
        fs::rename(dir.join("new.pem"), path).unwrap();
        until("each is followed", || is_trusted(reloader, &new));
        assert!(reloader.status().watching);
    }
}
