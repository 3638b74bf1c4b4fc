//! The material of the demo, and the steps in which a careful operator replaces all of it: two volumes as the kubelet
//! writes them, one for the server and one for the client.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use certsource_reload::{Generation, Reloader};
use certsource_testkit::{Ca, Issued, KubeletDir};
use tokio::time::{Instant, timeout_at};

/// The name under which the client reaches a server that still has the certificate of a withdrawn CA.
pub(super) const OLD_HOST: &str = "old.test";
/// How long a side may take to adopt a step.
const BOUND: Duration = Duration::from_secs(15);

/// One CA and what it issued.
#[derive(Debug)]
pub(super) struct Era {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) ca: Ca,
    pub(super) server: Issued,
    pub(super) client: Issued,
}

impl Era {
    /// Mints a CA, a server certificate and a client identity, valid from now on for `life`.
    pub(super) fn mint(number: usize, life: Duration) -> Arc<Self> {
        // Certificates know whole seconds; they are cut down, so that these are valid now.
        let now = SystemTime::now();
        let ca = Ca::builder(&format!("demo CA {number}")).not_before(now).valid_for(life).build();
        let leaf = |name| ca.leaf(name).not_before(now).valid_for(life);
        let server = leaf("localhost").san_dns(OLD_HOST).server_only().issue();
        let client = leaf("demo client").client_only().issue();
        Arc::new(Self { number, ca, server, client })
    }
}

/// What the three steps of a rotation put on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The new CA is trusted beside the old one.
    TrustBoth,
    /// Server and client get certificates of the new CA.
    Reissue,
    /// The old CA is trusted no longer.
    Withdraw,
}

/// One side's volume and who follows it.
#[derive(Debug)]
pub(super) struct Side {
    name: &'static str,
    dir: Arc<KubeletDir>,
    pick: fn(&Era) -> &Issued,
}

impl Side {
    /// The server's volume: its certificate and key, and the CAs of clients.
    pub(super) fn server(first: &Era) -> anyhow::Result<Self> {
        Self::new("server", first, |era| &era.server)
    }

    /// The client's volume: its identity, and the CAs of servers.
    pub(super) fn client(first: &Era) -> anyhow::Result<Self> {
        Self::new("client", first, |era| &era.client)
    }

    fn new(name: &'static str, first: &Era, pick: fn(&Era) -> &Issued) -> anyhow::Result<Self> {
        let dir =
            KubeletDir::new(pick(first)).with_context(|| format!("cannot write the volume of the {name}"))?;
        Ok(Self { name, dir: Arc::new(dir), pick })
    }

    pub(super) fn dir(&self) -> &KubeletDir {
        &self.dir
    }

    /// Puts a step on disk, in one swap, and waits until it is `served`: that is the generation of what is derived from
    /// `reloader`. Returns how long that took.
    pub(super) async fn take(
        &self,
        step: Step,
        old: &Arc<Era>,
        new: &Arc<Era>,
        reloader: &Reloader,
        served: impl Fn() -> Arc<Generation>,
    ) -> anyhow::Result<Duration> {
        let (trusted, issuer) = match step {
            Step::TrustBoth => (vec![old.clone(), new.clone()], old.clone()),
            Step::Reissue => (vec![old.clone(), new.clone()], new.clone()),
            Step::Withdraw => (vec![new.clone()], new.clone()),
        };
        let leaf = (self.pick)(&issuer).clone();
        let bundle: String = trusted.iter().map(|era| era.ca.certificate_pem()).collect();
        let mut generations = reloader.watch();
        let began = Instant::now();
        let dir = Arc::clone(&self.dir);
        let written = leaf.clone();
        tokio::task::spawn_blocking(move || dir.swap_all(bundle, written))
            .await
            .context("the writer of the volume panicked")?
            .with_context(|| format!("cannot write the volume of the {}", self.name))?;
        let is_adopted = |generation: &Generation| {
            let material = generation.material();
            let trust = material.trust().unwrap_or_default();
            trust.len() == trusted.len()
                && trusted
                    .iter()
                    .all(|era| trust.iter().any(|anchor| *anchor.der() == era.ca.certificate_der()))
                && material.identity().is_some_and(|identity| *identity.leaf().der() == leaf.leaf_der())
        };
        let until = began + BOUND;
        while !is_adopted(&served()) {
            if !matches!(timeout_at(until, generations.changed()).await, Ok(Some(_))) {
                let status = reloader.status();
                bail!(
                    "the {} did not adopt a step within {BOUND:?}; it serves generation {}{}",
                    self.name,
                    status.generation,
                    status.message.map_or_else(String::new, |message| format!(": {message}"))
                );
            }
        }
        Ok(began.elapsed())
    }
}
