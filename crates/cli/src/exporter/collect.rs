//! Reads the files that are exported: what did not change is not read again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use certsource::fs::{Fs, RealFs, Signature};
use certsource::{Error, Reason};

use super::{pattern, text};
use crate::error;
use crate::scan::{self, File, Place, What};

/// A time stamp can hide a change (a copy that keeps it, an mmap): each file is read again this often all the same.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// What is exported under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    name: Option<String>,
    path: PathBuf,
}

impl Target {
    /// Reads `PATH` or `NAME=PATH`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        match text.split_once('=') {
            Some((name, path)) if is_name(name) && !path.is_empty() => {
                Ok(Self { name: Some(name.to_owned()), path: path.into() })
            }
            _ if text.is_empty() || text == "-" => Err(String::from("name a file, a directory or a pattern")),
            _ => Ok(Self { name: None, path: text.into() }),
        }
    }

    /// Its name in the label `source`, if it is the one at this place.
    fn name_at(&self, at: usize) -> String {
        self.name.clone().unwrap_or_else(|| (at + 1).to_string())
    }
}

/// A name that two sources would have, or that is taken: their series would be the same series.
pub(super) fn name_twice(targets: &[Target], taken: Option<&str>) -> Option<String> {
    let mut seen: BTreeSet<String> = taken.map(String::from).into_iter().collect();
    let mut names = targets.iter().enumerate().map(|(at, target)| target.name_at(at));
    names.find(|name| !seen.insert(name.clone()))
}

/// One certificate or CRL, ready to be written.
pub(super) struct Item {
    /// `source="web",subject="CN=…"`
    pub(super) labels: String,
    /// Tells it from others of its source.
    pub(super) id: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) is_crl: bool,
}

/// What is known of one source.
pub(super) struct SourceState {
    pub(super) labels: String,
    pub(super) is_up: bool,
    pub(super) certificates: usize,
    /// How often which reason was met, since the start.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// In words.
    pub(super) problems: Vec<String>,
}

/// Everything at one moment.
pub(crate) struct Snapshot {
    pub(super) files: Vec<Arc<Vec<Item>>>,
    pub(super) sources: Vec<SourceState>,
    pub(super) collected: SystemTime,
    pub(super) took: Duration,
}

struct Cached {
    signature: Signature,
    read: Instant,
    items: Arc<Vec<Item>>,
    problems: Arc<Vec<Error>>,
    round: u64,
}

/// Reads, and remembers what it read.
pub(super) struct Collector {
    targets: Vec<(String, PathBuf)>,
    show_paths: bool,
    cache: HashMap<(usize, PathBuf), Cached>,
    errors: Vec<BTreeMap<&'static str, u64>>,
    round: u64,
}

impl Collector {
    pub(super) fn new(targets: Vec<Target>, show_paths: bool) -> Self {
        let targets = targets.into_iter().enumerate();
        let targets: Vec<_> = targets.map(|(at, target)| (target.name_at(at), target.path)).collect();
        // Every reason from the start: a series that is born with its first count shows no increase.
        let none: BTreeMap<_, _> = Reason::ALL.iter().map(|reason| (reason.as_str(), 0)).collect();
        let errors = vec![none; targets.len()];
        Self { targets, show_paths, cache: HashMap::new(), errors, round: 0 }
    }

    /// Reads what is new.
    pub(super) fn collect(&mut self) -> Snapshot {
        let began = Instant::now();
        self.round += 1;
        let (mut files, mut sources) = (Vec::new(), Vec::new());
        for at in 0..self.targets.len() {
            let (name, path) = self.targets[at].clone();
            let mut problems = Vec::new();
            let mut seen = BTreeSet::new();
            let mut certificates = 0;
            let places = places(&path, &mut problems);
            let read: Vec<_> = places.iter().map(|place| self.read(at, &name, place)).collect();
            // Of several lists of an issuer, the one that ends first: a fresh one beside it must not hide that.
            let mut ends: BTreeMap<String, SystemTime> = BTreeMap::new();
            for item in read.iter().flat_map(|(items, _)| items.iter()).filter(|item| item.is_crl) {
                let end = ends.entry(item.id.clone()).or_insert(item.not_after);
                *end = item.not_after.min(*end);
            }
            for (items, wrong) in read {
                certificates += items.len();
                // The same certificate twice would be the same series twice.
                let mut is_shown = |item: &Item| {
                    ends.get(&item.id).is_none_or(|end| *end == item.not_after)
                        && seen.insert(item.id.clone())
                };
                let is_new: Vec<_> = items.iter().map(&mut is_shown).collect();
                files.push(if is_new.iter().all(|is_new| *is_new) {
                    items
                } else {
                    let items = items.iter().zip(is_new).filter(|(_, is_new)| *is_new);
                    Arc::new(items.map(|(item, _)| item.again()).collect())
                });
                problems.extend(wrong.iter().cloned());
            }
            if certificates == 0 && problems.is_empty() {
                problems.push(Error::new(Reason::Empty, "there is no certificate in it").at(&path));
            }
            for problem in &problems {
                *self.errors[at].entry(problem.reason().as_str()).or_default() += 1;
            }
            sources.push(SourceState {
                labels: format!("source={}", text::quoted(&name)),
                is_up: problems.is_empty(),
                certificates,
                errors: self.errors[at].clone(),
                problems: problems.iter().map(|problem| error::chain(problem)).collect(),
            });
        }
        let round = self.round;
        self.cache.retain(|_, cached| cached.round == round);
        Snapshot { files, sources, collected: SystemTime::now(), took: began.elapsed() }
    }

    fn read(&mut self, at: usize, name: &str, path: &Path) -> (Arc<Vec<Item>>, Arc<Vec<Error>>) {
        let key = (at, path.to_owned());
        let signature = RealFs::new().metadata(path).ok().map(|meta| meta.signature());
        if let Some(cached) = self.cache.get_mut(&key) {
            if Some(cached.signature) == signature && cached.read.elapsed() < AGAIN {
                cached.round = self.round;
                return (Arc::clone(&cached.items), Arc::clone(&cached.problems));
            }
        }
        let mut file = scan::file(path);
        let problems = Arc::new(std::mem::take(&mut file.problems));
        let items = Arc::new(self.items(name, &file));
        if let Some(signature) = signature {
            let cached = Cached {
                signature,
                read: Instant::now(),
                items: Arc::clone(&items),
                problems: Arc::clone(&problems),
                round: self.round,
            };
            self.cache.insert(key, cached);
        }
        (items, problems)
    }

    fn items(&self, name: &str, file: &File) -> Vec<Item> {
        let path = self.show_paths.then_some(&*file.path);
        let mut items = Vec::new();
        for item in &file.items {
            match &item.what {
                What::Certificate(found) => {
                    items.push(Item::certificate(name, found.role(), &found.inspection, path));
                }
                What::Crl(found) => {
                    let Some(next) = found.inspection.next_update() else { continue };
                    items.push(Item {
                        labels: text::crl_labels(name, &found.inspection, path),
                        id: match path {
                            Some(path) => format!("crl {} {}", found.inspection.issuer(), path.display()),
                            None => format!("crl {}", found.inspection.issuer()),
                        },
                        not_before: found.inspection.this_update(),
                        not_after: next,
                        is_crl: true,
                    });
                }
                What::Key(_) | What::Other => {}
            }
        }
        items
    }
}

impl Item {
    pub(super) fn certificate(
        source: &str,
        role: &str,
        inspection: &certsource::inspect::Inspection,
        path: Option<&Path>,
    ) -> Self {
        Self {
            labels: text::certificate_labels(source, role, inspection, path),
            id: match path {
                // With its path it is a series of its own.
                Some(path) => format!("{} {}", inspection.fingerprint(), path.display()),
                None => inspection.fingerprint().to_string(),
            },
            not_before: inspection.not_before(),
            not_after: inspection.not_after(),
            is_crl: false,
        }
    }

    fn again(&self) -> Self {
        Self { labels: self.labels.clone(), id: self.id.clone(), ..*self }
    }
}

fn places(path: &Path, problems: &mut Vec<Error>) -> Vec<PathBuf> {
    let paths = if pattern::is_pattern(path) { pattern::expand(path) } else { vec![path.to_owned()] };
    let mut places = Vec::new();
    for place in scan::list(&paths) {
        match place {
            Place::File(path) | Place::Listed(path) => places.push(path),
            Place::Broken(error) => problems.push(error),
            Place::Stdin => {}
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use certsource_testkit::{Ca, TestDir};

    use super::*;

    #[test]
    fn targets_may_have_names() {
        let target = |text| Target::parse(text).unwrap();
        assert_eq!(target("web=/etc/tls").name.as_deref(), Some("web"));
        assert_eq!(target("/etc/a=b.pem"), Target { name: None, path: "/etc/a=b.pem".into() });
        assert!(Target::parse("").is_err() && Target::parse("-").is_err());
    }

    #[test]
    fn a_name_stands_for_one_source() {
        let twice = |texts: &[&str], taken| {
            let targets: Vec<_> = texts.iter().map(|text| Target::parse(text).unwrap()).collect();
            name_twice(&targets, taken)
        };
        assert_eq!(twice(&["a=/x", "/y", "b=/x"], Some("followed")), None);
        assert_eq!(twice(&["a=/x", "a=/y"], None).as_deref(), Some("a"));
        assert_eq!(twice(&["2=/x", "/y"], None).as_deref(), Some("2"));
        assert_eq!(twice(&["followed=/x"], Some("followed")).as_deref(), Some("followed"));
    }

    #[test]
    fn what_did_not_change_is_not_read_again_and_what_goes_is_gone() {
        let dir = TestDir::new().unwrap();
        let ca = Ca::new("a");
        let path = dir.write("a.pem", ca.issue("one").leaf_pem()).unwrap();
        let twice = std::fs::read_to_string(&path).unwrap().repeat(2);
        dir.write("same.pem", twice).unwrap();
        let mut collector = Collector::new(vec![Target { name: None, path: dir.path().to_owned() }], false);
        let first = collector.collect();
        assert_eq!(first.sources[0].certificates, 3);
        assert_eq!(first.files.iter().map(|items| items.len()).sum::<usize>(), 1, "one series in all");
        let second = collector.collect();
        assert!(Arc::ptr_eq(&first.files[0], &second.files[0]));

        dir.write("a.pem", ca.issue("two").leaf_pem()).unwrap();
        dir.write("broken.pem", "-----BEGIN CERTIFICATE-----").unwrap();
        let third = collector.collect();
        assert!(third.files[0][0].labels.contains("CN=two"), "{}", third.files[0][0].labels);
        assert_eq!((third.sources[0].is_up, third.sources[0].errors["malformed"]), (false, 1));
        for name in ["a.pem", "same.pem", "broken.pem"] {
            std::fs::remove_file(dir.join(name)).unwrap();
        }
        let last = collector.collect();
        assert!(last.files.is_empty() && collector.cache.is_empty());
        assert_eq!((last.sources[0].is_up, last.sources[0].errors["empty"]), (false, 1));
    }
}
