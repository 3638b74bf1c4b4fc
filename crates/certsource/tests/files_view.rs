//! Invariant 6, for reading: whatever a writer does between any two calls to the file system, what is read stood
//! together on disk at one moment, or is refused.
//!
//! A file system in between runs the writer's next step before a chosen call: every place for every writer is tried.
#![allow(clippy::unwrap_used, reason = "only tests live here")]

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use certsource::files::Limits;
use certsource::fs::{Dir, File, Fs, Meta, Opened, RealFs, Volume};
use certsource::parts::{Part, Parts};
use certsource::{Files, Reason, Source};
use certsource_testkit::{AgentFiles, Ca, CertbotLive, Issued, KubeletDir, Method, PlainDir, Steps, TestDir};

/// Runs something before every call.
#[derive(Clone)]
struct Between(Arc<Mutex<dyn FnMut(Call) + Send>>);

/// What is about to be called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Other,
}

impl Between {
    fn new(hook: impl FnMut(Call) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(hook)))
    }

    fn call(&self, call: Call) {
        (self.0.lock().unwrap())(call);
    }
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

impl Between {
    fn opened(&self, opened: Opened) -> Opened {
        match opened {
            Opened::File(file) => Opened::File(Box::new(BetweenFile(file, self.clone()))),
            other => other,
        }
    }
}

impl Fs for Between {
    fn metadata(&self, path: &Path) -> io::Result<Meta> {
        self.call(Call::Other);
        RealFs.metadata(path)
    }
    fn read_link(&self, path: &Path, into: &mut OsString) -> io::Result<()> {
        self.call(Call::Other);
        RealFs.read_link(path, into)
    }
    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.call(Call::Other);
        RealFs.open(path).map(|opened| self.opened(opened))
    }
    fn open_dir(&self, path: &Path) -> io::Result<Box<dyn Dir>> {
        self.call(Call::Other);
        Ok(Box::new(BetweenDir(RealFs.open_dir(path)?, self.clone())))
    }
    fn volume(&self, path: &Path) -> io::Result<Volume> {
        self.call(Call::Other);
        RealFs.volume(path)
    }
}

struct BetweenDir(Box<dyn Dir>, Between);

impl Dir for BetweenDir {
    fn open(&self, name: &Path) -> io::Result<Opened> {
        self.1.call(Call::Other);
        self.0.open(name).map(|opened| self.1.opened(opened))
    }
    fn names(&self) -> io::Result<Vec<OsString>> {
        self.1.call(Call::Other);
        self.0.names()
    }
    fn metadata(&self) -> io::Result<Meta> {
        self.1.call(Call::Other);
        self.0.metadata()
    }
}

struct BetweenFile(Box<dyn File>, Between);

impl File for BetweenFile {
    fn metadata(&self) -> io::Result<Meta> {
        self.1.call(Call::Other);
        self.0.metadata()
    }
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1.call(Call::Read);
        // Small, so that a file is read by many calls.
        let length = into.len().min(300);
        self.0.read(&mut into[..length])
    }
}

/// What a file holds: the first version, the second, or neither (torn, absent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    First,
    Second,
    Neither,
}

/// Trust, chain, key.
type State = [Version; 3];

/// Two versions and where they are written to.
struct Case {
    name: String,
    paths: [PathBuf; 3],
    versions: [Issued; 2],
    steps: Box<dyn Fn(&Issued) -> Steps + Send + Sync>,
    /// Held until the end.
    _dir: Box<dyn fmt::Debug + Send + Sync>,
}

impl Case {
    fn state_on_disk(&self) -> State {
        let [first, second] = self.versions.each_ref().map(Issued::files);
        std::array::from_fn(|number| match fs::read_to_string(&self.paths[number]) {
            Ok(content) if content == first[number].1 => Version::First,
            Ok(content) if content == second[number].1 => Version::Second,
            _ => Version::Neither,
        })
    }

    fn files(&self) -> Files {
        let [ca, chain, key] = &self.paths;
        Files::trust(ca).with_identity(chain, key)
    }

    /// The state that was read. A broken identity is `Neither` for both of its files.
    fn state_read(&self, parts: &Parts) -> State {
        let is = |test: &dyn Fn(&Issued) -> bool| match self.versions.each_ref().map(test) {
            [true, _] => Version::First,
            [_, true] => Version::Second,
            [false, false] => panic!("{}: content of no version was read", self.name),
        };
        let trust = match &parts.trust {
            Part::Found(found) => is(&|issued| found.len() == 1 && found[0].der == issued.root_der()),
            _ => Version::Neither,
        };
        let Part::Found(identity) = &parts.identity else {
            return [trust, Version::Neither, Version::Neither];
        };
        let chain: Vec<_> = identity.chain.iter().map(|found| found.der.clone()).collect();
        [
            trust,
            is(&|issued| chain == issued.chain_der()),
            is(&|issued| identity.key.secret_der() == issued.key_der().secret_der()),
        ]
    }

    fn fits(read: State, disk: State) -> bool {
        match read {
            // One of the two is broken, and so neither was given.
            [trust, Version::Neither, Version::Neither] => {
                trust == disk[0] && disk[1..].contains(&Version::Neither)
            }
            read => read == disk,
        }
    }
}

fn versions() -> [Issued; 2] {
    [Ca::new("First"), Ca::new("Second")].map(|ca| ca.intermediate("Issuing").issue("localhost"))
}

fn plain(method: Method, versions: &[Issued; 2]) -> Case {
    let dir = Arc::new(PlainDir::new(method, &versions[0]).unwrap());
    let paths = [dir.ca_path(), dir.cert_path(), dir.key_path()];
    let writer = Arc::clone(&dir);
    Case {
        name: format!("{method:?}"),
        paths,
        versions: versions.clone(),
        steps: Box::new(move |issued| writer.swap_steps(issued).unwrap()),
        _dir: Box::new(dir),
    }
}

fn agent(versions: &[Issued; 2]) -> Case {
    let dir = Arc::new(AgentFiles::new(&versions[0]).unwrap());
    let writer = Arc::clone(&dir);
    Case {
        name: "agent".to_owned(),
        paths: [dir.ca_path(), dir.cert_path(), dir.key_path()],
        versions: versions.clone(),
        steps: Box::new(move |issued| writer.swap_steps(issued).unwrap()),
        _dir: Box::new(dir),
    }
}

fn kubelet(keep_old: bool, versions: &[Issued; 2]) -> Case {
    let dir = Arc::new(KubeletDir::new(&versions[0]).unwrap().keep_old(keep_old));
    let writer = Arc::clone(&dir);
    Case {
        name: format!("kubelet, keep_old: {keep_old}"),
        paths: [dir.ca_path(), dir.cert_path(), dir.key_path()],
        versions: versions.clone(),
        steps: Box::new(move |issued| writer.swap_steps(issued).unwrap()),
        _dir: Box::new(dir),
    }
}

/// Waits until the file system's clock has moved: kernels before 6.13 stamp files a few milliseconds apart alike.
fn tick(dir: &Path) {
    let path = dir.join(".tick");
    let stamp = || {
        fs::write(&path, "").unwrap();
        fs::metadata(&path).unwrap().modified().unwrap()
    };
    let first = stamp();
    while stamp() == first {
        std::thread::yield_now();
    }
}

/// Reads with the writer beginning before call `begin`, `pace` steps a call. Gives whether the writer began, and
/// whether it changed anything while it was read.
fn meddle(case: &Arc<Case>, begin: usize, pace: usize) -> (bool, bool) {
    let ticks = TestDir::new().unwrap();
    let states = Arc::new(Mutex::new(vec![case.state_on_disk()]));
    let mut steps = (case.steps)(&case.versions[1]);
    let mut calls = 0;
    let between = Between::new({
        let (case, states) = (Arc::clone(case), Arc::clone(&states));
        move |_| {
            calls += 1;
            if calls <= begin {
                return;
            }
            for _ in 0..pace {
                if steps.step().unwrap().is_none() {
                    break;
                }
                tick(ticks.path());
                states.lock().unwrap().push(case.state_on_disk());
            }
        }
    });
    let read = case.files().filesystem(Arc::new(between)).read();
    let states = states.lock().unwrap();
    let context = format!("{}, begun before call {begin}, {pace} steps a call; {states:?}", case.name);
    match read {
        Ok(parts) => {
            let read = case.state_read(&parts);
            assert!(
                states.iter().any(|disk| Case::fits(read, *disk)),
                "{context}: {read:?} never was on disk"
            );
        }
        Err(error) => assert_eq!(error.reason(), Reason::Unstable, "{context}: {error}"),
    }
    (states.len() > 1, states.iter().any(|state| *state != states[0]))
}

fn every_place(make: impl Fn() -> Case) {
    for pace in [1, usize::MAX] {
        let mut changed = 0;
        for begin in 0.. {
            assert!(begin < 1000, "a read does not end");
            let (began, moved) = meddle(&Arc::new(make()), begin, pace);
            changed += usize::from(moved);
            if !began {
                break;
            }
        }
        assert!(changed > 5, "the writer met the reader {changed} times only");
    }
}

#[test]
fn plain_files_written_in_every_way_are_never_mixed() {
    let versions = versions();
    for method in Method::ALL {
        every_place(|| plain(method, &versions));
    }
}

#[test]
fn files_of_an_agent_are_never_mixed() {
    let versions = versions();
    every_place(|| agent(&versions));
}

#[test]
fn versions_of_a_volume_are_never_mixed_and_always_whole() {
    let versions = versions();
    for keep_old in [false, true] {
        every_place(|| kubelet(keep_old, &versions));
        // The swap itself must never make a part look broken.
        for begin in 0..40 {
            let case = Arc::new(kubelet(keep_old, &versions));
            let mut steps = (case.steps)(&case.versions[1]);
            let mut calls = 0;
            let between = Between::new(move |_| {
                calls += 1;
                if calls > begin {
                    steps.step().unwrap();
                }
            });
            let parts = case.files().filesystem(Arc::new(between)).read().unwrap();
            let read = case.state_read(&parts);
            assert!(
                read == [Version::First; 3] || read == [Version::Second; 3],
                "begun before {begin}: {read:?}"
            );
        }
    }
}

#[test]
fn certbot_renewals_are_never_mixed() {
    let versions = versions();
    let chain_pem = versions.each_ref().map(Issued::chain_pem);
    for begin in 0..60 {
        let live = CertbotLive::new(&versions[0]).unwrap();
        let mut steps = live.renew_steps(&versions[1]).unwrap();
        let (cert, key) = (live.cert_path(), live.key_path());
        let on_disk = {
            let (cert, key) = (cert.clone(), key.clone());
            move || [fs::read_to_string(&cert).ok(), fs::read_to_string(&key).ok()]
        };
        let states = Arc::new(Mutex::new(vec![on_disk()]));
        let mut calls = 0;
        let between = Between::new({
            let states = Arc::clone(&states);
            move |_| {
                calls += 1;
                if calls > begin && steps.step().unwrap().is_some() {
                    states.lock().unwrap().push(on_disk());
                }
            }
        });
        let Ok(parts) = Files::identity(&cert, &key).filesystem(Arc::new(between)).read() else { continue };
        let Part::Found(identity) = parts.identity else { continue };
        let number = |is: &dyn Fn(&Issued) -> bool| versions.iter().position(is).unwrap();
        let chain = number(&|issued| issued.leaf_der() == identity.chain[0].der);
        let key = number(&|issued| issued.key_der().secret_der() == identity.key.secret_der());
        let read = [Some(chain_pem[chain].clone()), Some(versions[key].key_pem())];
        assert!(
            states.lock().unwrap().contains(&read),
            "chain {chain} with key {key}, begun before call {begin}"
        );
    }
}

#[test]
fn a_link_that_is_turned_away_and_back_is_never_mixed() {
    let versions = versions();
    for begin in 0..50 {
        for length in 1..8 {
            let dir = PlainDir::new(Method::DirLink, &versions[0]).unwrap();
            let [first, second] = [0, 1].map(|number| {
                let beside = dir.path().with_file_name(format!("version-{number}"));
                fs::create_dir(&beside).unwrap();
                for (name, content) in versions[number].files() {
                    fs::write(beside.join(name), content).unwrap();
                }
                beside
            });
            let turn = {
                let link = dir.path();
                move |target: &Path| {
                    let new = link.with_extension("new");
                    std::os::unix::fs::symlink(target, &new).unwrap();
                    fs::rename(new, &link).unwrap();
                }
            };
            turn(&first);
            let mut calls = 0;
            let between = Between::new(move |_| {
                calls += 1;
                if calls == begin {
                    turn(&second);
                }
                if calls == begin + length {
                    turn(&first);
                }
            });
            let files = Files::trust(dir.ca_path()).with_identity(dir.cert_path(), dir.key_path());
            let material = { files.filesystem(Arc::new(between)) }.load().unwrap();
            let root = material.trust().unwrap()[0].der();
            let of = versions.iter().find(|issued| issued.root_der() == *root).unwrap();
            let leaf = material.identity().unwrap().leaf().der().clone();
            assert_eq!(leaf, of.leaf_der(), "turned before call {begin}, back {length} calls later");
        }
    }
}

#[test]
fn a_volume_that_is_swapped_at_every_call_is_still_read() {
    let versions = versions();
    let dir = KubeletDir::new(&versions[0]).unwrap().keep_old(true);
    let mut files = Files::kubernetes(dir.path());
    let mut count = 0;
    let swapped = versions.clone();
    let between = Between::new(move |_| {
        count += 1;
        dir.swap(&swapped[count % 2]).unwrap();
    });
    files = files.filesystem(Arc::new(between));
    let material = files.load().unwrap();
    let root = material.trust().unwrap()[0].der();
    let of = versions.iter().find(|issued| issued.root_der() == *root).unwrap();
    assert_eq!(material.identity().unwrap().leaf().der(), &of.leaf_der());
}

#[test]
fn a_file_that_never_stands_still_is_unstable() {
    let versions = versions();
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", versions[0].root_pem()).unwrap();
    let mut count = 0;
    let target = path.clone();
    let pems = versions.each_ref().map(Issued::root_pem);
    let between = Between::new(move |_| {
        count += 1;
        tick(dir.path());
        fs::write(&target, &pems[count % 2]).unwrap();
    });
    let error = Files::trust(&path).filesystem(Arc::new(between)).load().unwrap_err();
    assert_eq!(error.reason(), Reason::Unstable, "{error}");
    assert!(error.is_transient());
    assert_eq!(error.path(), Some(path.as_path()));
}

#[test]
fn a_file_that_grows_while_it_is_read_is_left_at_the_limit() {
    let dir = TestDir::new().unwrap();
    let path = dir.write("ca.pem", "# growing\n").unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let reads = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&reads);
    let between = Between::new(move |call| {
        if call == Call::Read {
            *counted.lock().unwrap() += 1;
            io::Write::write_all(&mut file, &[b'#'; 400]).unwrap();
        }
    });
    let mut limits = Limits::default();
    limits.file_bytes = 100_000;
    let error = Files::trust(&path).limits(limits).filesystem(Arc::new(between)).load().unwrap_err();
    assert_eq!(error.reason(), Reason::Unstable, "{error}");
    // 300 bytes a read: each of the 8 tries ends at the limit.
    let reads = *reads.lock().unwrap();
    assert!((300..8 * 340).contains(&reads), "{reads} reads");
}

#[test]
fn a_directory_of_anchors_is_listed_and_read_as_one() {
    let cas: Vec<Ca> = ["A", "B", "C", "D"].into_iter().map(Ca::new).collect();
    for begin in 0..60 {
        let dir = TestDir::new().unwrap();
        dir.write("a.pem", cas[0].certificate_pem()).unwrap();
        dir.write("b.pem", cas[1].certificate_pem()).unwrap();
        let path = dir.path().to_owned();
        let pems = [cas[2].certificate_pem(), cas[3].certificate_pem()];
        let mut calls = 0;
        let between = Between::new(move |_| {
            calls += 1;
            // c comes, then a goes: at no moment are there fewer than two.
            if calls == begin + 1 {
                fs::write(dir.join("c.tmp"), &pems[0]).unwrap();
                fs::rename(dir.join("c.tmp"), dir.join("c.pem")).unwrap();
            }
            if calls == begin + 3 {
                dir.remove("a.pem").unwrap();
            }
        });
        let material = Files::trust(&path).filesystem(Arc::new(between)).load().unwrap();
        let names: Vec<_> = material
            .trust()
            .unwrap()
            .iter()
            .map(|anchor| {
                anchor.origin().as_path().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        let possible: [&[&str]; 3] = [&["a.pem", "b.pem"], &["a.pem", "b.pem", "c.pem"], &["b.pem", "c.pem"]];
        assert!(
            possible.contains(&names.iter().map(String::as_str).collect::<Vec<_>>().as_slice()),
            "{names:?}"
        );
    }
}
