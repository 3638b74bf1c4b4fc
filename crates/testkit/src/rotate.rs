//! What all writers of a certificate and its key have in common.

use std::io;
use std::path::PathBuf;

use crate::issued::Issued;
use crate::steps::Steps;

/// A place where a certificate and its key are replaced again and again: one test, any writer.
///
/// # Examples
///
/// ```
/// use certsource_testkit::{AgentFiles, Ca, CertbotLive, KubeletDir, Method, PlainDir, Rotate};
///
/// # fn main() -> std::io::Result<()> {
/// let ca = Ca::new("Example root").intermediate("Example issuing CA");
/// let first = ca.issue("localhost");
/// let mut places: Vec<Box<dyn Rotate>> = vec![
///     Box::new(KubeletDir::new(&first)?),
///     Box::new(CertbotLive::new(&first)?),
///     Box::new(AgentFiles::new(&first)?),
/// ];
/// for method in Method::ALL {
///     places.push(Box::new(PlainDir::new(method, &first)?));
/// }
/// for place in places {
///     let second = ca.issue("localhost");
///     place.swap(&second)?;
///     assert_eq!(std::fs::read_to_string(place.cert_path())?, second.chain_pem());
///     assert_eq!(std::fs::read_to_string(place.key_path())?, second.key_pem());
/// }
/// # Ok(())
/// # }
/// ```
pub trait Rotate: Send + Sync {
    /// The file with the leaf and its intermediates.
    fn cert_path(&self) -> PathBuf;

    /// The file with the private key.
    fn key_path(&self) -> PathBuf;

    /// Replaces certificate and key, step by step.
    ///
    /// # Errors
    ///
    /// If what is there now cannot be read.
    fn swap_steps(&self, issued: &Issued) -> io::Result<Steps>;

    /// Replaces certificate and key.
    ///
    /// # Errors
    ///
    /// As [`swap_steps`](Self::swap_steps), or what the system says, with the step in front.
    fn swap(&self, issued: &Issued) -> io::Result<()> {
        self.swap_steps(issued)?.finish()
    }
}
