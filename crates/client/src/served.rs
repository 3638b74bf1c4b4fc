//! [`ServedBy`]: which generation a response came by.

/// Which generation of certificates the last attempt of a request used: the one that got the response. It is in the
/// extensions of every response, async or blocking.
///
/// A request that was moved to newer certificates before a connection took it, or whose redirect was followed after a
/// rotation, began on an older generation than it ended on; so asking [`Client::generation`](crate::Client::generation)
/// beside a `send` can not tell.
///
/// ```no_run
/// # async fn doc(client: certsource_client::Client) -> Result<(), certsource_client::reqwest::Error> {
/// use certsource_client::ServedBy;
///
/// let response = client.get("https://localhost:8443/").send().await?;
/// let served_by: Option<&ServedBy> = response.extensions().get();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ServedBy {
    /// The number of the generation, as [`Generation::number`](crate::Generation::number) gives it: 1 for the first.
    pub generation: u64,
}
