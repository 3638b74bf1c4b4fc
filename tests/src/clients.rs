//! The clients of the end-to-end tests: two of ours over the same files, and the control over the naive config.
//!
//! What is not here: what must be true of what they do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certsource_client::{Builder, Client, Error, Generation, Policy};

use crate::load::{Call, Load};
use crate::naive::Naive;
use crate::{BOUND, whole};

/// Two clients over the same files: one keeps its connections, one makes a connection for each request.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Keeps connections.
    pub pooled: Client,
    /// Keeps none, so that each request is a handshake, and resumes a session if it can.
    pub fresh: Client,
}

impl Clients {
    /// Two clients with these options, for whom `localhost` is this address.
    ///
    /// # Panics
    /// When they can not be built.
    pub async fn new(localhost: SocketAddr, builder: impl Fn() -> Builder) -> Self {
        let build = |pools: bool| {
            builder()
                .no_proxy()
                .reqwest(move |builder| without_pool(builder.resolve("localhost", localhost), !pools))
                .build()
        };
        let (pooled, fresh) = tokio::join!(build(true), build(false));
        Self { pooled: pooled.unwrap(), fresh: fresh.unwrap() }
    }

    /// The two.
    pub fn both(&self) -> [&Client; 2] {
        [&self.pooled, &self.fresh]
    }

    /// Reloads both. When it returns, whatever is sent uses what it returns.
    ///
    /// # Errors
    /// Why one of them could not.
    ///
    /// # Panics
    /// When it takes longer than [`BOUND`], or when the two have seen different content.
    pub async fn reload(&self, load: Option<&Load>) -> Result<Arc<Generation>, Error> {
        let reloads = async { tokio::join!(self.pooled.reload(), self.fresh.reload()) };
        let Ok(reloaded) = tokio::time::timeout(BOUND, reloads).await else {
            let state = self.both().map(Client::status);
            panic!("the reload does not end: {state:?}\nopen requests: {:?}", load.map(Load::open));
        };
        let (pooled, fresh) = (reloaded.0?, reloaded.1?);
        assert_eq!((pooled.number(), pooled.digest()), (fresh.number(), fresh.digest()));
        Ok(pooled)
    }

    /// Load from both, to the paths below this URL: a quarter of the requests makes a connection of its own.
    pub fn load(&self, tasks: usize, base: &str, floor: u64) -> Load {
        let (clients, base) = (self.clone(), base.to_owned());
        Load::start(tasks, floor, move |Call { number, path, body }| {
            let client = if number % 4 == 1 { &clients.fresh } else { &clients.pooled };
            let url = format!("{base}{path}");
            let request = match body {
                Some(body) => client.post(url).body(body),
                None => client.get(url),
            };
            async move { answer(request.send().await).await.map(drop) }
        })
    }
}

/// The shape of the default patience, in a shorter time.
pub fn quick() -> Policy {
    let mut policy = Policy::every(Duration::from_millis(100));
    policy.settle = Duration::from_millis(300);
    policy.settle_loss = Duration::from_millis(900);
    policy
}

/// With no pool each request makes a connection, and so a handshake, and resumes a session if it can.
pub fn without_pool(builder: reqwest::ClientBuilder, really: bool) -> reqwest::ClientBuilder {
    if really { builder.pool_max_idle_per_host(0) } else { builder }
}

/// A plain reqwest client over the naive config, without a pool.
///
/// # Panics
/// When reqwest does not take it.
pub fn by_hand(naive: &Naive, localhost: SocketAddr, http2: bool) -> reqwest::Client {
    let mut config = (*naive.config()).clone();
    config.alpn_protocols = if http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    let builder = reqwest::Client::builder().tls_backend_preconfigured(config).no_proxy();
    without_pool(builder.resolve("localhost", localhost), true).build().unwrap()
}

/// Load from a plain client.
pub fn load_by_hand(client: &reqwest::Client, tasks: usize, base: &str, floor: u64) -> Load {
    let (client, base) = (client.clone(), base.to_owned());
    Load::start(tasks, floor, move |Call { path, body, .. }| {
        let url = format!("{base}{path}");
        let request = match body {
            Some(body) => client.post(url).body(body),
            None => client.get(url),
        };
        async move { answer(request.send().await).await.map(drop) }
    })
}

/// The body of a response with status 200.
///
/// # Errors
/// Everything else, in words.
pub async fn answer(response: Result<reqwest::Response, reqwest::Error>) -> Result<String, String> {
    let response = response.map_err(|error| whole(&error))?;
    let status = response.status();
    let body = response.text().await.map_err(|error| whole(&error))?;
    if status == 200 { Ok(body) } else { Err(format!("{status} {body}")) }
}
