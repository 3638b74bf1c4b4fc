//! Our client at the end of a chain of `reqwest-middleware` (feature `middleware`).

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};

use crate::client::Client;

impl Client {
    /// Begins a chain of middleware that ends in this client: add what comes before it, and it is put last.
    ///
    /// ```no_run
    /// # #[derive(Clone)] struct Retry;
    /// # #[async_trait::async_trait]
    /// # impl reqwest_middleware::Middleware for Retry {
    /// #     async fn handle(
    /// #         &self,
    /// #         request: certsource_client::reqwest::Request,
    /// #         extensions: &mut http::Extensions,
    /// #         next: reqwest_middleware::Next<'_>,
    /// #     ) -> reqwest_middleware::Result<certsource_client::Response> {
    /// #         next.run(request, extensions).await
    /// #     }
    /// # }
    /// # async fn run(client: certsource_client::Client) -> reqwest_middleware::Result<()> {
    /// let chain: reqwest_middleware::ClientWithMiddleware = client.with_middleware(|chain| chain.with(Retry));
    /// chain.get("https://localhost:8443/").send().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Every request that reaches the end uses the certificates that are current then. A middleware that retries sends
    /// on top of what this client sends again by itself.
    #[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
    pub fn with_middleware(
        &self,
        before: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> reqwest_middleware::ClientWithMiddleware {
        // The client below it only drafts requests: it connects nowhere, so nothing can pass by ours.
        before(ClientBuilder::new(self.drafts().clone())).with(self.clone()).build()
    }
}

/// The last of a chain: it sends, and calls nothing after it.
///
/// # Cancel safety
/// Dropping the future of [`Middleware::handle`], or that of the chain around it, does what it does for
/// [`Client::execute`].
#[cfg_attr(docsrs, doc(cfg(feature = "middleware")))]
#[async_trait::async_trait]
impl Middleware for Client {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.execute(request).await.map_err(reqwest_middleware::Error::Reqwest)
    }
}
