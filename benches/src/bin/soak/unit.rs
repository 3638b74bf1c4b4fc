//! One place, the server that its client talks to, the load, and what the writer does all the time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use certsource_bench::server::{Http, Server, Sessions, config};
use certsource_client::{Client, Generation, Policy, Retire, Role};
use certsource_testkit::{Ca, Issued, Part};
use tokio::runtime::Handle;

use crate::dice::Dice;
use crate::place::{Fault, Place};
use crate::record::Record;
use crate::rest::Course;

/// A change is adopted within the safety poll of a watched source, and some.
const ADOPTED_WITHIN: Duration = Duration::from_secs(90);

/// Which way a unit's client notices, speaks and retires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) detect: &'static str,
    pub(crate) http: Http,
    pub(crate) retire: Retire,
}

pub(crate) struct Unit {
    name: &'static str,
    place: Place,
    http: Http,
    client: Client,
    server: Arc<Server>,
    /// Has a certificate of the authority that was withdrawn last.
    stale: Server,
    ca: Ca,
    identity: Issued,
    record: Arc<Record>,
    course: Arc<Course>,
    runtime: Handle,
    dice: Dice,
}

impl Unit {
    pub(crate) async fn new(
        name: &'static str,
        place: Place,
        (ca, identity): (Ca, Issued),
        style: Style,
        record: &Arc<Record>,
        course: &Arc<Course>,
        dice: Dice,
    ) -> Result<Self, certsource_client::Error> {
        let tls = config(&ca.issue("localhost"), &[&ca], style.http, Sessions::Resumed);
        let server = Arc::new(Server::start(Arc::clone(&tls)));
        let events = Arc::clone(record);
        let builder = Client::builder()
            .files(with_detector(place.files(), style.detect))
            .policy(Policy::every(Duration::from_secs(1)))
            .retire(style.retire)
            .no_proxy()
            .timeout(Duration::from_secs(20))
            // Short, so that a rest finds none open.
            .reqwest(|builder| builder.pool_idle_timeout(Duration::from_secs(3)))
            .on_event(move |event| events.event(event.kind.as_str()));
        let client = builder.build().await?;
        Ok(Self {
            name,
            place,
            http: style.http,
            client,
            server,
            stale: Server::start(tls),
            ca,
            identity,
            record: Arc::clone(record),
            course: Arc::clone(course),
            runtime: Handle::current(),
            dice,
        })
    }

    /// Requests with pauses, until the run is over. No request may fail.
    pub(crate) fn load(&self, loops: usize, pause: Duration) -> Vec<tokio::task::JoinHandle<()>> {
        (0..loops)
            .map(|_| {
                let (client, server) = (self.client.clone(), Arc::clone(&self.server));
                let (record, course, name) = (Arc::clone(&self.record), Arc::clone(&self.course), self.name);
                course.join();
                tokio::spawn(async move {
                    while !course.is_over() {
                        course.point().await;
                        let response = client.get(server.url()).send().await;
                        let body = match response {
                            Ok(response) => response.text().await,
                            Err(error) => Err(error),
                        };
                        record.requests.fetch_add(1, Ordering::Relaxed);
                        match body {
                            Ok(body) if body == "ok" => {}
                            Ok(body) => record.problem(format!("{name}: a response of {} bytes", body.len())),
                            Err(error) => record.problem(format!("{name}: a request failed: {error:?}")),
                        }
                        tokio::time::sleep(pause).await;
                    }
                })
            })
            .collect()
    }

    /// The writer's life, on a thread of its own: a rotation, a pause, a fault, a pause.
    pub(crate) fn run(mut self) {
        self.course.join();
        if let Err(problem) = self.live() {
            self.record.problem(format!("{}: {problem}", self.name));
        }
        self.course.leave();
    }

    fn live(&mut self) -> Result<(), String> {
        let mut number = 0_u64;
        while !self.course.is_over() {
            self.course.blocking_point();
            number += 1;
            self.rotate(number).map_err(|error| format!("the writer failed: {error}"))?;
            self.rest();
            self.break_and_mend().map_err(|error| format!("mending failed: {error}"))?;
            self.rest();
        }
        Ok(())
    }

    /// Hands over from one authority to the next, as operators do: both, then the server, then the new one alone.
    fn rotate(&mut self, number: u64) -> std::io::Result<()> {
        let next = Ca::new(&format!("{} {number}", self.name));
        let both = self.ca.certificate_pem() + &next.certificate_pem();
        let between = self.ca.issue("client");
        self.place.write(&both, &between)?;
        self.wait_for(2, &between);
        self.server.set(config(&next.issue("localhost"), &[&self.ca, &next], self.http, Sessions::Resumed));
        let last = next.issue("client");
        self.place.write(&next.certificate_pem(), &last)?;
        self.wait_for(1, &last);
        self.record.rotations.fetch_add(1, Ordering::Relaxed);
        self.stale.set(config(&self.ca.issue("localhost"), &[&next], self.http, Sessions::Resumed));
        let answer = self.runtime.block_on(self.client.get(self.stale.url()).send());
        match answer {
            Err(_) => drop(self.record.refused.fetch_add(1, Ordering::Relaxed)),
            Ok(_) => self.record.problem(format!("{}: a withdrawn authority was accepted", self.name)),
        }
        (self.ca, self.identity) = (next, last);
        Ok(())
    }

    /// A fault changes nothing that is served, and once it is over the next rotation is adopted as ever.
    fn break_and_mend(&mut self) -> std::io::Result<()> {
        let suitable: Vec<Fault> = Fault::ALL.into_iter().filter(|fault| fault.suits(&self.place)).collect();
        let fault = *self.dice.choose(&suitable);
        let part = *self.dice.choose(&Part::ALL);
        let trust = self.ca.certificate_pem();
        let before = self.client.generation();
        match fault.strike(&self.place, part, &trust, &self.ca) {
            Ok(_) => {
                self.record.fault(fault.name());
                let held = self.dice.millis(300, 4_000);
                self.pause(held);
                let after = self.client.generation();
                if after.number() != before.number() {
                    self.record.problem(format!("{}: {} was published", self.name, fault.name()));
                }
            }
            Err(error) => self.record.skip(fault.name(), &error),
        }
        self.place.mend(&trust, &self.identity)
    }

    fn wait_for(&self, anchors: usize, identity: &Issued) {
        let (start, leaf) = (Instant::now(), identity.leaf_der());
        let is_it = |generation: &Generation| {
            generation.trust().is_some_and(|trust| trust.len() == anchors)
                && generation
                    .material()
                    .certificates()
                    .any(|(role, certificate)| role == Role::Leaf && certificate.der()[..] == leaf[..])
        };
        let mut generations = self.client.reloader().watch();
        let waited = self.runtime.block_on(async {
            tokio::time::timeout(ADOPTED_WITHIN, async {
                while !is_it(&self.client.generation()) {
                    if generations.changed().await.is_none() {
                        return;
                    }
                }
            })
            .await
        });
        match waited {
            Ok(()) => {
                self.record.adopted(self.name, start.elapsed());
                self.record.generations.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => self.record.problem(format!("{}: not adopted: {:?}", self.name, self.client.status())),
        }
    }

    fn rest(&mut self) {
        let pause = self.dice.millis(500, 4_000);
        self.pause(pause);
    }

    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.course.is_over() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(crate) fn with_detector(files: certsource_client::Files, name: &str) -> certsource_client::Files {
    use certsource_client::detect::{Mtime, Notify, Sha256};
    match name {
        "sha256" => files.detect(Sha256::new()),
        "notify" => files.detect(Notify::new()),
        _ => files.detect(Mtime::new()),
    }
}
