//! Two that follow the same files in the same simulated time: certsource, and what people write by hand.
//!
//! The files are real and so are the writers; only the clock is the test's. So a scenario of a minute takes
//! milliseconds, and the same looks happen between the same two steps of a writer each time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use certsource::clock::Now;
use certsource::machine::{Policy, Told};
use certsource::source::Detector;
use certsource::{Driver, Files, Reason};
use certsource_reload::Gate as _;
use certsource_rustls::{ClientTls, TlsGate};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::parse_x509_certificate;

use crate::naive::Naive;

/// What to follow.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The bundle of trust anchors.
    pub trust: PathBuf,
    /// A certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Time between two looks.
    pub interval: Duration,
}

/// Something that follows files.
pub trait Follower {
    /// Lets this much time pass, and does what is due.
    fn pass(&mut self, time: Duration);

    /// What a connection that begins now uses.
    fn config(&self) -> Arc<ClientConfig>;

    /// How often something was put into use after the first time.
    fn reloads(&self) -> u64;

    /// Whether the files can not be followed right now.
    fn is_failing(&self) -> bool;

    /// The failures that were told, each as its reason.
    fn told(&self) -> &[Reason];

    /// All that an operator has been shown.
    fn shown(&self) -> String;
}

/// certsource: its source, detector, machine and TLS gate, driven in simulated time.
#[derive(Debug)]
pub struct Certsource {
    driver: Driver<Files>,
    tls: ClientTls,
    now: Now,
    config: Option<Arc<ClientConfig>>,
    generations: u64,
    told: Vec<Reason>,
    shown: String,
}

impl Certsource {
    /// Loads the files and follows them with this detector.
    ///
    /// # Panics
    /// When there is nothing to load.
    pub fn new(paths: &Paths, detector: impl Detector + 'static) -> Self {
        let mut files = Files::trust(&paths.trust).detect(detector);
        if let Some((certificate, key)) = &paths.identity {
            files = files.with_identity(certificate, key);
        }
        let gate = TlsGate::new().unwrap();
        let mut follower = Self {
            driver: Driver::new(files, Policy::every(paths.interval))
                .with_gate(move |candidate| gate.judge(candidate)),
            tls: ClientTls::new().unwrap(),
            now: Now::read(),
            config: None,
            generations: 0,
            told: Vec::new(),
            shown: String::new(),
        };
        // Files that were written a moment ago settle first.
        follower.pass(Duration::from_secs(5));
        assert!(follower.config.is_some(), "no first generation: {:?}", follower.told);
        follower
    }

    fn take(&mut self) {
        for told in self.driver.drain() {
            self.shown += &format!("{told:?}\n");
            match told {
                Told::Published(publication) => {
                    for (role, certificate) in publication.material.certificates() {
                        let json = serde_json::to_string(certificate.inspection()).unwrap();
                        self.shown += &format!("{role:?} {} {json}\n", certificate.inspection());
                    }
                    self.generations = publication.number;
                    self.config = Some(Arc::new(self.tls.config(&publication.material).unwrap()));
                }
                Told::Failed(error) | Told::Refused(error) | Told::Pending(error) => {
                    self.shown += &format!("{error}\n");
                    self.told.push(error.reason());
                }
                _ => {}
            }
        }
    }
}

impl Follower for Certsource {
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        loop {
            let now = self.now;
            let next = self.driver.run(|| now).filter(|at| *at < end);
            self.take();
            let step = next.unwrap_or(end).saturating_duration_since(now.mono);
            // A moment that has come already would stop the clock.
            self.now = now.after(step.max(Duration::from_nanos(1)));
            if next.is_none() {
                return;
            }
        }
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.config.clone().expect("`new` has seen the first one")
    }

    fn reloads(&self) -> u64 {
        self.generations - 1
    }

    fn is_failing(&self) -> bool {
        self.driver.machine().trouble().is_some()
    }

    fn told(&self) -> &[Reason] {
        &self.told
    }

    fn shown(&self) -> String {
        self.shown.clone()
    }
}

/// The forty lines: a timer for the trust and, half an interval later, one for the identity.
#[derive(Debug)]
pub struct ByHand {
    naive: Naive,
    paths: Paths,
    reloads: u64,
    clock: Duration,
    is_failing: bool,
    shown: String,
}

impl ByHand {
    /// Loads the files and follows them.
    ///
    /// # Panics
    /// When there is nothing to load.
    pub fn new(paths: &Paths) -> Self {
        let naive = Naive::new(&paths.trust, paths.identity.clone(), rustls::ALL_VERSIONS).unwrap();
        let mut follower = Self {
            naive,
            paths: paths.clone(),
            reloads: 0,
            clock: Duration::ZERO,
            is_failing: false,
            shown: String::new(),
        };
        follower.show();
        follower
    }

    /// Writes what it has into its log, as `info!("loaded {}", certificate.subject())` does.
    fn show(&mut self) {
        let chain = self.paths.identity.as_ref().map(|(certificate, _)| certificate);
        for path in [Some(&self.paths.trust), chain].into_iter().flatten() {
            let pem = std::fs::read(path).unwrap_or_default();
            for certificate in CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok) {
                if let Ok((_, certificate)) = parse_x509_certificate(&certificate) {
                    self.shown += &format!("loaded {}\n", certificate.subject());
                }
            }
        }
    }
}

impl Follower for ByHand {
    fn pass(&mut self, time: Duration) {
        let half = self.paths.interval / 2;
        let end = self.clock + time;
        let ticks = |clock: Duration| clock.as_nanos() / half.as_nanos();
        for tick in ticks(self.clock) + 1..=ticks(end) {
            let polled = if tick % 2 == 0 { self.naive.poll_trust() } else { self.naive.poll_identity() };
            match polled {
                Ok(false) => self.is_failing &= tick % 2 != 0,
                Ok(true) => {
                    self.reloads += 1;
                    self.show();
                }
                Err(error) => {
                    self.shown += &format!("cannot reload: {error}\n");
                    self.is_failing = true;
                }
            }
        }
        self.clock = end;
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.naive.config()
    }

    fn reloads(&self) -> u64 {
        self.reloads
    }

    fn is_failing(&self) -> bool {
        self.is_failing
    }

    fn told(&self) -> &[Reason] {
        &[]
    }

    fn shown(&self) -> String {
        self.shown.clone()
    }
}
