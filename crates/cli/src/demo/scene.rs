//! What there is to show while the demo runs: where it stands, and which certificates are in use since when.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use certsource_client::Client;
use certsource_reload::Reloader;

use super::load::Tally;
use super::server::Handshakes;
use super::stage::{Era, Step};

/// So many windows of each kind are kept: those that a time line can hold.
const KEPT: usize = 4;

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ca,
    Server,
    Client,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Ca, Self::Server, Self::Client];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ca => "CA",
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// A certificate on the time line, in seconds since the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Window {
    pub(super) kind: Kind,
    pub(super) era: usize,
    /// Its dates.
    pub(super) valid: (f64, f64),
    /// Since when it is in use, and until when it was.
    pub(super) used: (f64, Option<f64>),
}

/// One look at everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) seconds: f64,
    pub(super) rotation: usize,
    pub(super) rotations: usize,
    /// Seconds from one rotation to the next, as planned.
    pub(super) period: f64,
    pub(super) step: Option<&'static str>,
    pub(super) adopted: Duration,
    pub(super) adopted_worst: Duration,
    pub(super) proven: usize,
    pub(super) unproven: usize,
    pub(super) client_generation: u64,
    pub(super) server_generation: u64,
    pub(super) full: u64,
    pub(super) resumed: u64,
    pub(super) refused: u64,
    pub(super) windows: Vec<Window>,
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) in_flight: usize,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) worst: Duration,
}

/// The state that frames are made of.
pub(super) struct Scene {
    began: Instant,
    began_wall: SystemTime,
    handshakes: Arc<Handshakes>,
    server: Reloader,
    client: Client,
    state: Mutex<Frame>,
}

impl Scene {
    pub(super) fn new(
        rotations: usize,
        period: Duration,
        handshakes: &Arc<Handshakes>,
        server: &Reloader,
        client: &Client,
    ) -> Self {
        Self {
            began: Instant::now(),
            began_wall: SystemTime::now(),
            handshakes: Arc::clone(handshakes),
            server: server.clone(),
            client: client.clone(),
            state: Mutex::new(Frame { rotations, period: period.as_secs_f64(), ..Frame::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, Frame> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// From now on this certificate is in use.
    pub(super) fn begin(&self, kind: Kind, era: &Era) {
        let leaf = if kind == Kind::Client { &era.client } else { &era.server };
        // The dates of an era are all the same.
        let valid = (self.seconds(leaf.not_before()), self.seconds(leaf.not_after()));
        let window = Window { kind, era: era.number, valid, used: (self.now(), None) };
        let windows = &mut self.state().windows;
        windows.push(window);
        if windows.iter().filter(|window| window.kind == kind).count() > KEPT {
            if let Some(oldest) = windows.iter().position(|window| window.kind == kind) {
                windows.remove(oldest);
            }
        }
    }

    /// From now on it is no longer in use.
    pub(super) fn end(&self, kind: Kind, era: &Era) {
        let now = self.now();
        for window in &mut self.state().windows {
            if window.kind == kind && window.era == era.number {
                window.used.1 = Some(now);
            }
        }
    }

    pub(super) fn rotation(&self, number: usize) {
        self.state().rotation = number;
    }

    pub(super) fn step(&self, step: Step) {
        self.state().step = Some(match step {
            Step::TrustBoth => "trust the new CA too",
            Step::Reissue => "new certificates",
            Step::Withdraw => "withdraw the old CA",
        });
    }

    pub(super) fn adopted(&self, took: Duration) {
        let mut state = self.state();
        state.adopted = took;
        state.adopted_worst = state.adopted_worst.max(took);
    }

    pub(super) fn proven(&self, refused: bool) {
        let mut state = self.state();
        if refused { state.proven += 1 } else { state.unproven += 1 }
    }

    /// Everything as it is now.
    pub(super) fn frame(&self, tally: &Tally) -> Frame {
        let latencies = tally.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Frame {
            seconds: self.now(),
            client_generation: self.client.generation().number(),
            server_generation: self.server.current().number(),
            full: self.handshakes.full.load(Ordering::Relaxed),
            resumed: self.handshakes.resumed.load(Ordering::Relaxed),
            refused: self.handshakes.refused.load(Ordering::Relaxed),
            requests: tally.requests.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            in_flight: tally.in_flight.load(Ordering::Relaxed),
            p50: latencies.percentile(0.5),
            p99: latencies.percentile(0.99),
            worst: latencies.max(),
            ..self.state().clone()
        }
    }

    /// What an operator should see to on either side, if there is anything: such as events that cannot be had.
    pub(super) fn degraded(&self) -> Option<String> {
        let sides = [("server", self.server.status()), ("client", self.client.status())];
        let told =
            sides.into_iter().filter_map(|(side, status)| Some(format!("{side}: {}", status.degraded?)));
        let told: Vec<_> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    /// Whether changes wake both sides, or one of them polls.
    pub(super) fn is_watching(&self) -> bool {
        self.server.status().watching && self.client.status().watching
    }

    fn seconds(&self, at: SystemTime) -> f64 {
        match at.duration_since(self.began_wall) {
            Ok(after) => after.as_secs_f64(),
            Err(before) => -before.duration().as_secs_f64(),
        }
    }
}
